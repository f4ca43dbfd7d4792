"""Clauses, and the patterns that are sought in them: regular expressions whose letters are words.

A pattern is words with blanks between them, and

    <answer>     a word, or phrase, of the list `answer` of `words.toml`; or its fragment of a pattern
    _            any word but an option
    ...          any words but options, none too, as few as do
    !(not|never) any word but these and an option
    <mark>       a punctuation mark
    <option>     an option, or several that are listed together
    <any_word>   any word or option
    X            in a rule: the option it is about, or the word
    ^ $          the ends of the clause; ( ) | * ? + {2,5} are as in `re`
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from itertools import accumulate, pairwise
from typing import TypeVar

from anomalyr1.answers.wording import tables, word_list

Item = TypeVar("Item")

_ITEM = re.compile(r"!?\(|[)|?*+^$]|\{[\d,]+\}|<\w+>|[^\s()|?*+{}^$<>]+")
_SPECIAL = {
    "_": r"[^XZ\s]\S* ",
    "...": r"(?:[^XZ\s]\S* )*?",
    "<mark>": r"[^\w\s]\S* ",
    "<option>": r"(?:XX?|Z) ",
    "<any_word>": r"\S+ ",
}


class Clause:
    """A run of words, such as a sentence or a part of one, that patterns are sought in."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._text = " ".join([*words, ""])

    @cached_property
    def _mirrored(self) -> str:
        """The words from last to first."""
        return " ".join([*self.words[::-1], ""])

    @cached_property
    def _offsets(self) -> list[int]:
        """The character of the text at which each word starts, and its end."""
        return list(accumulate((len(word) + 1 for word in self.words), initial=0))

    def holds(self, pattern: str) -> bool:
        """Whether a pattern is anywhere in the clause."""
        return _compiled(pattern).search(self._text) is not None

    def starts(self, pattern: str, index: int = 0) -> bool:
        """Whether a pattern starts at a word."""
        return _compiled(pattern).match(self._text, self._offsets[index]) is not None

    def precedes(self, pattern: str, index: int) -> bool:
        """Whether a pattern ends right before a word."""
        offset = self._offsets[-1] - self._offsets[index]
        return _compiled(pattern, mirrored=True).match(self._mirrored, offset) is not None

    def surrounds(self, pattern: str, index: int) -> bool:
        """Whether a pattern, in which X stands for a word, fits with the word in its place."""
        before, after = _sides(pattern)
        return (not after or self.starts(after, index + 1)) and (not before or self.precedes(before, index))

    def runs(self, pattern: str) -> list[tuple[int, int]]:
        """(index, end) of every run of words that a pattern matches, left to right."""
        offsets = {offset: index for index, offset in enumerate(self._offsets)}
        return [
            (offsets[match.start()], offsets[match.end()])
            for match in _compiled(pattern).finditer(self._text)
        ]

    def without(self, pattern: str, replacement: str = "") -> Clause:
        """The clause without what a pattern matches, or with a replacement in its place."""
        text = _compiled(pattern).sub(replacement and f"{replacement} ", self._text)
        return self if text == self._text else Clause(text.split())


def cut(items: Sequence[Item], starts: Iterable[int]) -> list[Sequence[Item]]:
    """A sequence in pieces, cut before the items at these indexes."""
    return [items[start:end] for start, end in pairwise([0, *starts, len(items)]) if start < end]


@cache
def _sides(pattern: str) -> tuple[str, str]:
    """What a pattern wants before its X, and after it."""
    items = pattern.split()
    return " ".join(items[: items.index("X")]), " ".join(items[items.index("X") + 1 :])


@cache
def _compiled(pattern: str, mirrored: bool = False) -> re.Pattern[str]:
    """A pattern as a regular expression over words with a blank after each; mirrored = from last to first."""
    return re.compile(rf"(?<!\S)(?:{_expression(_items(pattern), mirrored)})")


def _items(pattern: str) -> deque[str]:
    items = deque(_ITEM.findall(pattern))
    if "".join(items) != "".join(pattern.split()):
        raise ValueError(f"expected words, lists and signs as in `clauses`, got {pattern!r}")
    return items


def _expression(items: deque[str], mirrored: bool) -> str:
    """The items up to the end, or the bracket that closes them, as a regular expression."""
    branches: list[list[str]] = [[]]
    while items and (item := items.popleft()) != ")":
        if item == "|":
            branches.append([])
        elif item in "?*+" or item[0] == "{":
            branches[-1][-1] += item
        elif item in "^$":
            branches[-1].append(r"\A" if (item == "^") != mirrored else r"\Z")
        else:
            branches[-1].append(f"(?:{_unit(item, items, mirrored)})")
    return "|".join("".join(reversed(branch) if mirrored else branch) for branch in branches)


def _unit(item: str, items: deque[str], mirrored: bool) -> str:
    """One item that a number of times may follow: a word, a list, a group."""
    if item == "(":
        return _expression(items, mirrored)
    if item == "!(":
        return f"(?!{_expression(items, mirrored)}){_SPECIAL['_']}"
    if item in _SPECIAL:
        return _SPECIAL[item]
    if item[1:-1] in tables()["fragments"]:
        return _expression(_items(tables()["fragments"][item[1:-1]]), mirrored)
    phrases = sorted(word_list(item[1:-1])) if item[0] == "<" and len(item) > 1 else [item]
    return "|".join(_phrase(phrase, mirrored) for phrase in phrases)


def _phrase(phrase: str, mirrored: bool) -> str:
    words = [re.escape(word).replace(r"\*", r"\S*") + " " for word in phrase.split()]
    return "".join(reversed(words) if mirrored else words)
