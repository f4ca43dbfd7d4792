"""What all verbs say on the terminal: plain lines in which nothing is interpreted."""

from __future__ import annotations

import sys

OK, USER_ERROR, SOME_FAILED, SETUP_ERROR = 0, 1, 2, 3
"""Exit codes: all well, the user's input, some images failed or some samples have problems, the environment."""


def say(text: str, err: bool = False) -> None:
    """One plain line in which nothing is interpreted."""
    from anomalyr1.report.text import visible

    print(visible(text), file=sys.stderr if err else sys.stdout, flush=True)
