"""Text of models and file names, made safe to look at."""

from __future__ import annotations

import re

_EMPTY = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Fillers, joiners, selectors of variants: they print nothing, though `str.isprintable` says they do."""


def visible(text: str, keep: str = "") -> str:
    r"""`text` with every character that prints nothing, moves the cursor or reorders its neighbours as an
    escape.

    Such as `\x1b`, `\u202e`, `\udcff`, `\u3164`. Characters in `keep` (e.g. line ends) stay. Joiners and
    selectors inside some emoji become escapes too.
    """
    if text.isprintable() and not _EMPTY.search(text):
        return text
    return "".join(c if c in keep or (c.isprintable() and not _EMPTY.match(c)) else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
