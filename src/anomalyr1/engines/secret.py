"""The key of a server, looked for in what a server wrote before any of it is kept or shown.

A server that sends the key back mostly does so by accident: gateways echo headers, and escape them for JSON,
HTML or a URL, or write them in base64. The key and pieces of it are looked for, behind up to three of these,
whatever stands between their letters. Not covered: a server that hides the key on purpose, by a cipher of its
own; it has the key anyway.
"""

from __future__ import annotations

import base64
import html
import re
from urllib.parse import unquote

SECRET_LENGTH = 16
"""Shorter keys, such as "EMPTY", are no secrets, and a reply may hold them as a word."""
_PIECE, _STRIDE = 12, 4
"""Letters and digits of a piece that gives the key away, and how far apart pieces begin: any 15 in a row hold
one."""
_LAYERS = 3
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([bfnrt])|([^a-zA-Z0-9]))")
_NO_LETTER = re.compile(r"[^0-9A-Za-z]+")
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
"""Full width to ASCII; whole normalisation takes quadratic time on rows of combining marks."""


class Secret:
    """A key that nobody may see; an empty or a short one is none."""

    def __init__(self, key: str) -> None:
        self._key = key
        data = key.encode("ascii")
        forms = (key, data.hex(), *(_base64_core(data, shift) for shift in range(3)))
        self._pieces = {piece for form in forms for piece in _pieces(_squash(form))}

    def __repr__(self) -> str:
        return "Secret()"

    def is_in(self, text: str) -> bool:
        """Whether `text` holds the key or a piece of it, plain or in disguise; linear time."""
        if len(self._key) < SECRET_LENGTH:
            return False
        for _ in range(_LAYERS + 1):
            squashed = _squash(text)
            if self._key in text or any(piece in squashed for piece in self._pieces):
                return True
            unwrapped = html.unescape(unquote(_ESCAPE.sub(_unescape, text)))
            if unwrapped == text:
                return False
            text = unwrapped
        return False

    def redact(self, text: str) -> str:
        """`text` without the key; nothing is left of a text that holds it in disguise."""
        if self._key:
            text = text.replace(self._key, "[key]")
        return "[withheld: it holds the key]" if self.is_in(text) else text


def _squash(text: str) -> str:
    """Only the letters and digits of ASCII, those of full width too, all small."""
    return _NO_LETTER.sub("", text if text.isascii() else text.translate(_WIDE)).lower()


def _pieces(form: str) -> list[str]:
    """Pieces of which any longer part of `form` holds one; none where it is shorter than a piece."""
    last = len(form) - _PIECE
    starts = {*range(0, last + 1, _STRIDE), last} if last >= 0 else ()
    return [form[start : start + _PIECE] for start in starts]


def _base64_core(data: bytes, shift: int) -> str:
    """What only `data` decides in base64, where it begins `shift` bytes after a group of three."""
    text = base64.b64encode(b"\0" * shift + data).decode("ascii")
    return text[-(-8 * shift // 6) : 8 * (shift + len(data)) // 6]


def _unescape(match: re.Match[str]) -> str:
    """The character of an escape of JSON; a blank for any control character."""
    code = match[1] or match[2]
    if code:
        return chr(int(code, 16))
    return " " if match[3] else match[4]
