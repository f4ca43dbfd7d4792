"""Mentions of option letters in prose.

A single letter is an option only where its neighbours say so: the article "A" and names ("PCB", "USB-C",
"type A") are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from anomalyr1.answers.wording import Token, run_end, word_list
from anomalyr1.types import LETTERS


class Mention(NamedTuple):
    """One option letter in a part of a sentence."""

    letter: str
    at: int
    """Index of its token."""
    end: int
    """Index of the token after it, its closing bracket and its own text."""
    firm: bool
    """Capital or in brackets: not a plain lower-case word."""
    bracketed: bool
    labelled: bool
    """A capital followed by a stop, a colon or a bracket, like the label of an item."""
    own_text: bool
    """The option's own text, or a remark in brackets, follows."""


def mentions(part: Sequence[Token], texts: Sequence[list[str]]) -> list[Mention]:
    """Every mention of an option letter; `texts` are the words of each option."""
    result = []
    for i, token in enumerate(part):
        letter = token.raw.upper()
        if len(token.raw) != 1 or letter not in LETTERS[: len(texts)] or not _stands_alone(part, i):
            continue
        bracketed = _is_bracketed(part, i)
        end, own_text = _skip_text(part, i, texts[LETTERS.index(letter)])
        firm = token.raw == letter or bracketed
        labelled = firm and _word(part, i + 1) in {".", ":", ")"}
        mention = Mention(letter, i, end, firm, bracketed, labelled, own_text)
        if _is_option(part, mention):
            result.append(mention)
    return result


def grouped(part: Sequence[Token], options: Sequence[Mention]) -> list[list[Mention]]:
    """Mentions listed together ("A, C and D"); a pair joined by a comma only is two."""
    words = [token.word for token in part]
    groups: list[list[Mention]] = []
    for position, mention in enumerate(options):
        if groups and _joins(words, groups[-1], options[position:]):
            groups[-1].append(mention)
        else:
            groups.append([mention])
    return groups


def symbols(part: Sequence[Token], groups: Sequence[list[Mention]]) -> list[str]:
    """The words of a part, with X for a mention, its brackets and its text, XX for several together."""
    words: list[str] = []
    end = 0
    for group in groups:
        start = group[0].at
        while start > end and part[start - 1].word in {"(", "[", '"', "'"}:
            start -= 1
        words += [token.word for token in part[end:start]] + ["X" * min(len(group), 2)]
        end = group[-1].end
    return words + [token.word for token in part[end:]]


def _joins(words: Sequence[str], group: Sequence[Mention], options: Sequence[Mention]) -> bool:
    """Whether the first of the options goes on the list before it."""
    between = _between(words, group[-1], options[0])
    if not 0 < len(between) <= 4 or options[0].letter in {mention.letter for mention in group}:
        return False
    if not all(word in word_list("joiner") or word in {")", "(", "option"} for word in between):
        return False
    return "," not in between or len(group) > 1 or _goes_on(words, options)


def _between(words: Sequence[str], before: Mention, mention: Mention) -> Sequence[str]:
    """The words from one mention to the next; between two labels those after the text of the former."""
    if before.own_text and mention.own_text:
        return words[before.end - (not words[before.end - 1][0].isalnum()) : mention.at] or ["and"]
    return words[before.at + 1 : mention.at]


def _goes_on(words: Sequence[str], options: Sequence[Mention]) -> bool:
    """Whether a list of letters goes on after the first of the options, or ends the sentence with it."""
    if len(options) > 1:
        return all(word in word_list("joiner") for word in _between(words, options[0], options[1]))
    end = options[0].end if options[0].own_text else options[0].at + 1
    return not any(word[0].isalnum() for word in words[end:])


def _word(part: Sequence[Token], i: int) -> str:
    return part[i].word if 0 <= i < len(part) else ""


def _stands_alone(part: Sequence[Token], i: int) -> bool:
    """Whether a letter is no part of a name: "USB-C", "A4", "C-shaped", "U.S.A."."""
    if i and part[i].glued:
        if part[i - 1].word not in "/([)]\"':,.=;>|!?<" and part[i - 1].word.isascii():
            return False
        if part[i - 1].word == "." and len(_word(part, i - 2)) == 1:
            return False
    if i + 1 == len(part) or not part[i + 1].glued:
        return True
    if part[i + 1].word in {"-", "_", "+", "#", "&", "%"} or part[i + 1].raw[0].isdigit():
        return False
    goes_on = part[i + 1].word in {"'", "."} and i + 2 < len(part) and part[i + 2].glued
    return not (goes_on and part[i + 2].raw[0].islower())


def _is_bracketed(part: Sequence[Token], i: int) -> bool:
    """Whether a letter stands in brackets of its own: "(B)", "[B]", "(option B)"."""
    before, after = _word(part, i - 1), _word(part, i + 1)
    named = before in word_list("named") and _word(part, i - 2) == "("
    return (before in {"(", "["} and after in {")", "]"}) or (named and after == ")")


def _skip_text(part: Sequence[Token], i: int, text: list[str]) -> tuple[int, bool]:
    """The index after a mention, its bracket, and its text or a remark in brackets; whether these follow."""
    end = i + 1
    while _word(part, end) in {")", "]", '"', "'"}:
        end += 1
    start = end
    while start - end < 3 and _word(part, start) in {".", ":", "-", ",", '"', "'", "("}:
        start += 1
    text_end = run_end([token.word for token in part], text, start)
    if text_end is not None:
        while text_end + 1 < len(part) and part[text_end].word in {")", '"', "'", ".", ","}:
            text_end += 1
        return text_end, True
    if _word(part, end) == "(":
        closing = next((k for k in range(end, min(end + 16, len(part))) if part[k].word == ")"), None)
        if closing is not None:
            return closing + 1, True
    return end, False


def _is_option(part: Sequence[Token], mention: Mention) -> bool:
    """Whether a single letter means an option: by the word before it and the word after it."""
    before = _word(part, mention.at - 1)
    if mention.bracketed:
        return _word(part, mention.at - 2) not in word_list("naming")
    if before[:1].isalnum() and before not in _before_letter():
        return False
    if mention.letter == "I" and before not in word_list("named"):
        return False
    return (
        _is_small_option(part, mention)
        if part[mention.at].raw.islower()
        else _is_capital_option(part, mention)
    )


def _is_capital_option(part: Sequence[Token], mention: Mention) -> bool:
    """Whether a capital means an option: "B.", "B is right", "leaves B on the table"; not the article "A"."""
    before, after = _word(part, mention.at - 1), _word(part, mention.at + 1)
    if not after[:1].isalnum() or after in word_list("after_letter") or _is_judged(part, mention.at):
        return True
    if mention.letter == "A" and (not before[:1].isalnum() or before in word_list("named")):
        return False
    verb = len(after) > 3 and after.endswith("s")
    governing = word_list("named") | word_list("choose") | word_list("support")
    return verb or mention.own_text or before in governing - word_list("nouns_too")


def _is_small_option(part: Sequence[Token], mention: Mention) -> bool:
    """Whether a lower-case letter means an option: "b.", "the answer is b", "b is right"; not "a crack"."""
    before, after = _word(part, mention.at - 1), _word(part, mention.at + 1)
    if before in word_list("named") and (mention.own_text or after in word_list("after_letter")):
        return True
    if after and after[0].isalnum():
        must_be = after == "must" and _word(part, mention.at + 2) == "be"
        return must_be or after in word_list("after_small_a" if mention.letter == "A" else "after_letter")
    if not before:
        return len(part) <= 2 or _word(part, mention.at + 2) in word_list("reason")
    return after != "'" and before in _before_letter() - word_list("not_before_small_letter")


def _before_letter() -> frozenset[str]:
    return word_list("before_letter") - word_list("nouns_too")


def _is_judged(part: Sequence[Token], i: int) -> bool:
    """Whether a verdict follows at once: "B correct", as German has it; not "A correct placement"."""
    verdict = _word(part, i + 1) in {"correct", "right", "wrong", "incorrect", "false"}
    return verdict and (part[i].raw != "A" or not _word(part, i + 2).isalpha())
