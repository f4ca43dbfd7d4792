"""Which option's text a sentence states, where it names no letter: "this is a scratch" -> "Scratch"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from anomalyr1.answers.clauses import Clause
from anomalyr1.answers.findings import (
    clause_defect,
    cut_sentence,
    denied_after,
    find_defect,
    judges_part,
    negated,
)
from anomalyr1.answers.wording import Token, find, word_list
from anomalyr1.types import LETTERS

_ALONE = "(^|is|:|\"|'|be|therefore|so|,) X ($|,|.|\"|'|!|-)"
"""Around a yes or a no that is a statement by itself."""
_SAID_OF_ELSE = (
    "X (question|view)",  # a good question
    "(a|an) X of the <picture>",  # a cut of the image
    "(<view>|<picture>) !(it)? <states> !(it){0,2} X",  # the background is clean
    "am _{0,2} X",  # I am missing some information
    "(next to|near|beside|behind|above|below|under) (the|its) _? X",  # next to the memory chip
)
"""Around an option of one word: it is said of something else than the part."""


class _Statement(NamedTuple):
    """Where a sentence states an option's text."""

    option: int
    start: int
    end: int


def stated_option(sentence: Sequence[Token], texts: Sequence[list[str]]) -> str | None:
    """The letter of the one option whose text a sentence states; None in a question or a supposition.

    The longest of overlapping texts counts. Where the options are a yes and a no, the sentence must decide
    whether there is a defect.
    """
    clause = Clause([token.word for token in sentence])
    if clause.holds("(<question>|<supposition>|<states_nothing>|<undecidable>|<either>|<of_others>)"):
        return None
    yes_no = _yes_no(texts)
    if yes_no is not None:
        answer = _yes_or_no(clause, sentence)
        return None if answer is None else yes_no[answer]
    return _named_option(clause, sentence, texts)


def _named_option(clause: Clause, sentence: Sequence[Token], texts: Sequence[list[str]]) -> str | None:
    """The letter of the one option whose text stands in a clause, not denied and said of the part."""
    kept = [
        i for i, word in enumerate(clause.words) if word[0].isalnum() and word not in word_list("skipped")
    ]
    for stem in (_singular, _stem):
        line = [stem(clause.words[i]) for i in kept]
        statements = []
        for option, text in enumerate(texts):
            for start, end in _runs(line, kept, _phrase(text, stem)):
                if _asserts(clause, start, end) and _means_part(clause, sentence, start, text):
                    statements.append(_Statement(option, start, end))
        longest = [short for short in statements if not any(_within(short, long) for long in statements)]
        named = {statement.option for statement in longest}
        if named:
            return LETTERS[named.pop()] if len(named) == 1 else None
    return None


def opening_answer(reasoning: Sequence[Sequence[Token]], texts: Sequence[list[str]]) -> str | None:
    """The letter of the yes or the no that a sentence opens with: "Yes. One strand sticks out."."""
    yes_no = _yes_no(texts)
    clauses = [Clause([token.word for token in sentence]) for sentence in reasoning]
    unsure = "(<question>|<supposition>|<undecidable>|<taken_back>)"
    if yes_no is None or any(clause.holds(unsure) for clause in clauses):
        return None
    answers = {clause.words[0] for clause in clauses if clause.surrounds(_ALONE, 0)} & {"yes", "no"}
    if len(answers) != 1 or ({"yes", "no"} - answers) & set(clauses[-1].words):
        return None
    return yes_no["yes" in answers]


def _phrase(text: list[str], stem: Callable[[str], str]) -> list[str]:
    """The words that state an option; of a place, as in "bottom right corner", only those that name it."""
    phrase = [stem(word) for word in text if word not in word_list("skipped")]
    while len(phrase) > 1 and phrase[0] in {"it", "there", "they"}:
        phrase = phrase[1:]
    places = [word for word in phrase if word in word_list("place")]
    return places if len(places) > 1 and word_list("place_text").issuperset(phrase) else phrase


def _runs(line: list[str], places: list[int], phrase: list[str]) -> list[tuple[int, int]]:
    """(start, end) of a phrase wherever it is in a line, by the places of the line's words in the clause."""
    runs = []
    at = find(line, phrase) if phrase else -1
    while at != -1:
        runs.append((places[at], places[at + len(phrase) - 1] + 1))
        at = find(line, phrase, at + 1)
    return runs


def _asserts(clause: Clause, start: int, end: int) -> bool:
    """Whether a clause asserts the words from start to end: it neither denies nor only supposes them."""
    if negated(clause, start) or denied_after(clause, end) or clause.precedes("<elsewhere>", start):
        return False
    return not _in_longer_place(clause, start, end) and not _is_guess(clause, start, end)


def _means_part(clause: Clause, sentence: Sequence[Token], start: int, text: list[str]) -> bool:
    """Whether an option is said of the part: not "clear-cut", "left out", "no way", "normal light"."""
    if word_list("place_text").issuperset(text):
        unclear = clause.holds("<view>") and clause_defect(clause) is not True
        if unclear or clause.surrounds("<seen> ... from _? X", start):
            return False
    if len(text) > 1:
        return True
    if _is_compound(sentence, start) or any(clause.surrounds(pattern, start) for pattern in _SAID_OF_ELSE):
        return False
    if text[0] in {"yes", "no"}:
        return clause.surrounds(_ALONE, start)
    if text[0] in word_list("place"):
        return _means_place(clause, start)
    return text[0] not in word_list("graded") or (
        clause.words[start] == text[0] and judges_part(clause, start)
    )


def _is_compound(sentence: Sequence[Token], index: int) -> bool:
    """Whether a word is part of one with a hyphen: "clear-cut", "crack-proof"."""
    before, after = sentence[max(0, index - 1)], sentence[min(index + 1, len(sentence) - 1)]
    return (before.word == "-" and sentence[index].glued) or (after.word == "-" and after.glued)


def _means_place(clause: Clause, index: int) -> bool:
    """Whether a lone "left" says where something is: "at the left", "the left side"; not "left out"."""
    if clause.surrounds("^ X (<break>|<side>)", index):
        return True
    leads = "<points_to>" if clause.words[index] in word_list("sideways") else "(is|<points_to>)"
    if not clause.precedes(leads, index):
        return False
    return clause.starts("_ (<break>|<side>|<goes_on>)", index) or clause_defect(clause) is True


def _within(statement: _Statement, rival: _Statement) -> bool:
    """Whether a statement is part of a longer one."""
    longer = rival.end - rival.start > statement.end - statement.start
    return longer and rival.start <= statement.start and statement.end <= rival.end


def _in_longer_place(clause: Clause, start: int, end: int) -> bool:
    """Whether "bottom" was found in "bottom right"."""
    words = set(clause.words[start:end]) - word_list("skipped")
    return words <= word_list("place") and (
        clause.precedes("<place>", start) or clause.starts("(<place>|- _)", end)
    )


def _is_guess(clause: Clause, start: int, end: int) -> bool:
    """Whether an option's text is only what something could be."""
    if clause.starts("<generic>", end):
        return True
    is_seen = clause.precedes("(seen|found|observed|noticed|visible) _{0,4}", start)
    return not is_seen and clause.precedes("(could|might|may) _? <seems> _{0,6}", start)


def _yes_no(texts: Sequence[list[str]]) -> dict[bool, str] | None:
    """The letters of the yes and the no where two options are just that."""
    if len(texts) != 2 or not all(0 < len(text) < 9 for text in texts):
        return None
    for yes, no in ((0, 1), (1, 0)):
        if texts[yes][0] in word_list("affirmative") and texts[no][0] in {"no", "not", "normal"}:
            return {True: LETTERS[yes], False: LETTERS[no]}
    return None


def _yes_or_no(clause: Clause, sentence: Sequence[Token]) -> bool | None:
    """What a sentence answers to the question whether there is a defect."""
    for index, word in enumerate(clause.words):
        if word in {"yes", "no"} and clause.surrounds(_ALONE, index):
            return word == "yes"
    return find_defect([cut_sentence(sentence)])


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _stem(word: str) -> str:
    word = _singular(word)
    for ending in ("ing", "ed", "e", "ly"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            return word[: -len(ending)]
    return word
