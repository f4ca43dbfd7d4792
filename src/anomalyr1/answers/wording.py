"""Model prose as sentences of plain lower-case English cue words, whatever its language or markdown.

`words.toml` maps the words that carry a decision in German, French, Spanish, Chinese and Japanese to their
English cue, so that one small grammar serves all. Time is linear; `TAIL_CHARS` bounds it besides.
"""

from __future__ import annotations

import itertools
import re
import tomllib
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Any, NamedTuple

TAIL_CHARS = 10_000
"""Only the end of a text is read: a conclusion stands at the end, and no completion budget reaches further
back."""
MAX_SENTENCE_TOKENS = 300
"""A longer sentence is cut, for the readers look around inside a sentence."""

_TOKEN = re.compile(r"[^\W\d_]+(?:'(?:t|s|re|ll|ve|d|m)\b)?|\d+|=>|->|\n|[^\w\s]|_")
_TAG = re.compile(r"</?(?:b|i|u|strong)>")
_LATEX = re.compile(r"\\(?:(boxed)|text|mathrm|mathbf)")

_LETTER_FORMS = {
    0xFF01: "!",  # full-width: all of ASCII
    0x24B6: "A",  # circled
    0x24D0: "a",
    0x249C: "a",  # in brackets, which stay
    0x1F130: "A",  # squared
    0x1F150: "A",
    0x1F170: "A",
}
"""First code point of other forms of ASCII characters, and the character it stands for."""
_CHARS: dict[int, str] = {
    form + i: chr(ord(start) + i)
    for form, start in _LETTER_FORMS.items()
    for i in range(94 if start == "!" else 26)
}
_CHARS |= {0x249C + i: f"({chr(0x61 + i)})" for i in range(26)}
_CHARS |= dict(zip(map(ord, "’‘“”„«»「」『』【】〔〕、。｡→⇒−–"), '\'\'"""""""""[][],..→→--', strict=True))
_CHARS |= dict.fromkeys(map(ord, "*`$\u00ad\u200b"), "") | dict.fromkeys(map(ord, "{}\u3000"), " ")
_CHARS |= {ord("\r"): "\n", ord("…"): ". ", ord("—"): " - "}

_ENDS = frozenset(".!?;\n")
_ABBREVIATIONS = frozenset({"vs", "fig", "approx", "nr", "dr", "rev", "ref", "ver", "cat", "pos"})


class Token(NamedTuple):
    """One word, number or punctuation mark."""

    word: str
    """Lower-case, translated to its English cue where the table has one."""
    raw: str
    """As it is written."""
    glued: bool
    """No blank between this token and the one before it."""


class _Cues(NamedTuple):
    """The English cues of other languages, as `words.toml` has them."""

    words: dict[str, str]
    unaccented: dict[str, str]
    """Longer words without their accents."""
    phrases: dict[str, str]
    """Of writing without blanks."""
    phrase: re.Pattern[str]


@lru_cache(maxsize=1)
def tables() -> dict[str, Any]:
    """The tables of `words.toml`."""
    return tomllib.loads(resources.files(__package__).joinpath("words.toml").read_text(encoding="utf-8"))


@cache
def word_list(name: str) -> frozenset[str]:
    """The words, or phrases, of a list of `words.toml`, with those of the lists that it names."""
    entries: list[str] | str = tables()["lists"][name]
    result: set[str] = set()
    for entry in entries.split() if isinstance(entries, str) else entries:
        result |= word_list(entry[1:-1]) if entry[0] == "<" and len(entry) > 1 else {entry}
    return frozenset(result)


def plain(text: str) -> str:
    """The end of a text without markdown, LaTeX boxes, full-width forms and phrases of unspaced scripts."""
    text = text[-TAIL_CHARS:].translate(_CHARS)
    text = text.replace("__", "")
    text = _LATEX.sub(lambda macro: " answer is " if macro[1] else " ", _TAG.sub("", text))
    if text.isascii():
        return text
    cues = _cues()
    return cues.phrase.sub(lambda phrase: f" {cues.phrases[phrase[0]]} ", unicodedata.normalize("NFC", text))


def tokens(text: str) -> list[Token]:
    """The tokens of a plain text; runs of line breaks are one token."""
    cues = _cues()
    result: list[Token] = []
    end = 0
    for match in _TOKEN.finditer(text):
        raw, lower = match[0], match[0].lower()
        if raw != "\n":
            word = cues.words.get(raw) or cues.words.get(lower) or cues.unaccented.get(lower) or _latin(lower)
            glued = match.start() == end and bool(result) and result[-1].raw != "\n"
            result.append(Token(word, raw, glued))
        elif result and result[-1].raw != "\n":
            result.append(Token(raw, raw, False))
        end = match.end()
    return result


def sentences(text: str) -> list[list[Token]]:
    """The sentences of any text, each with its own end mark; none is empty."""
    result: list[list[Token]] = []
    current: list[Token] = []
    stream = tokens(plain(text))
    for token, following in itertools.zip_longest(stream, stream[1:]):
        if token.word == "\n":
            ended = not _wrapped(current, following)
        else:
            current.append(token)
            ended = token.word in _ENDS and not _inside(current, following)
        if ended or len(current) == MAX_SENTENCE_TOKENS:
            _close(result, current)
            current = []
    _close(result, current)
    return result


@lru_cache(maxsize=1024)
def content(text: str) -> list[str]:
    """The words of an option's text as `sentences` would have them, without marks; not to be changed."""
    return [token.word for token in tokens(plain(text)) if token.word.isalnum() or "'" in token.word[1:]]


def find(words: Sequence[str], part: Sequence[str], start: int = 0) -> int:
    """The first position of a run of words at or after `start`, -1 without."""
    for i in range(start, len(words) - len(part) + 1):
        if words[i] == part[0] and list(words[i : i + len(part)]) == list(part):
            return i
    return -1


def run_end(words: Sequence[str], part: Sequence[str], start: int) -> int | None:
    """The index after a run of words at `start`, marks in it passed over; None when it is not there."""
    i = start
    for word in part:
        while i > start and i < len(words) and not words[i][0].isalnum():
            i += 1
        if i >= len(words) or words[i] != word:
            return None
        i += 1
    return i if part else None


@lru_cache(maxsize=1)
def _cues() -> _Cues:
    words, phrases = (_cue_by_word(tables()[kind]) for kind in ("languages", "unspaced"))
    unaccented = {_latin(word): cue for word, cue in words.items() if len(word) > 5 and _latin(word) != word}
    longest_first = sorted(map(re.escape, phrases), key=len, reverse=True)
    return _Cues(words, unaccented, phrases, re.compile("|".join(longest_first)))


def _cue_by_word(languages: dict[str, dict[str, str]]) -> dict[str, str]:
    cues: dict[str, str] = {}
    for language in languages.values():
        for cue, words in language.items():
            cues |= dict.fromkeys(words.split(), cue)
    return cues


def _latin(word: str) -> str:
    """A word without the accents of Latin letters; other scripts stay as they are."""
    if word.isascii():
        return word
    bare = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode().lower()
    return bare if len(bare) == len(word) else word


def _close(result: list[list[Token]], current: list[Token]) -> None:
    """Take in a sentence; one of punctuation only goes to the sentence before it."""
    if any(token.raw[0].isalnum() for token in current):
        result.append(current)
    elif result and current:
        result[-1].extend(current)


def _wrapped(current: list[Token], following: Token | None) -> bool:
    """Whether a line break only wraps a sentence: nothing ends before it and a lower-case word goes on."""
    if following is None or len(current) < 6:
        return False
    return current[-1].word.isalnum() and following.raw[0].islower() and len(following.raw) > 1


def _inside(current: list[Token], following: Token | None) -> bool:
    """Whether a full stop ends no sentence: decimals, abbreviations, the label of an item ("B. Scratch")."""
    if current[-1].word != "." or following is None or following.word == "\n":
        return False
    before = current[-2].word if len(current) > 1 else ""
    if before and current[-1].glued and following.glued and following.raw[0].isalnum():
        return following.raw[0].islower() or following.raw[0].isdigit()
    if len(current) == 2:
        return before.isdigit() or len(before) == 1 or before in _ABBREVIATIONS
    latin = before in {"g", "e"} and current[-3:][0].word == "."  # "e.g.", "i.e."
    return latin or before in _ABBREVIATIONS
