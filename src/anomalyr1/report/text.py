"""Text of models and file names, made safe to look at."""

from __future__ import annotations


def visible(text: str, keep: str = "") -> str:
    r"""`text` with every character that prints nothing, moves the cursor or reorders its neighbours as an
    escape.

    Such as `\x1b`, `\u202e`, `\udcff`. Characters in `keep` (e.g. line ends) stay. The rule is
    `str.isprintable`, so joiners inside some emoji become escapes too.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text
    )
