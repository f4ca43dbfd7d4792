"""What a reasoning says about the part: whether there is a defect, and where it is.

Keyword readers with negation over the sentences of `wording`; silent or undecided is None.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from anomalyr1.answers.clauses import Clause, cut
from anomalyr1.answers.wording import Token, sentences, word_list

_JUDGED_ELSE = (
    "X <picture>",  # a good picture
    "(^|!(a)) X <viewed>",  # the good sample
    "X <view_only>",  # good lighting
    "<view> !(it)? <states> !(it){0,3} X",  # the background is clean
    "(know|would|should|needs|need) _{0,4} X",  # it should be clean
)
"""Around a word such as "good": something else than the part is judged."""


def says_defect(reasoning: str) -> bool | None:
    """Whether a reasoning says that there is a defect; None when it is silent or undecided. Never raises.

    A sentence that concludes ("so", "overall", "in conclusion") decides. Otherwise any defect found means
    True, unless a later sentence takes every defect back; "no scratches" alone takes back scratches only, and
    means False when nothing else is found.
    """
    return find_defect([cut_sentence(sentence) for sentence in sentences(reasoning)])


def place(reasoning: str) -> str | None:
    """Where a reasoning puts the defect, one of `types.PLACES`. Never raises.

    None when it names no place, or two in one sentence.
    """
    return find_place([cut_sentence(sentence) for sentence in sentences(reasoning)])


def cut_sentence(sentence: Sequence[Token]) -> list[Clause]:
    """A sentence in clauses, cut at turns and at a comma that opens a new clause."""
    clause = (
        Clause([token.word for token in sentence])
        .without("<asserting>")
        .without("<not> (without|_? free (of|from))", "with")
    )
    starts = [start for start, _ in clause.runs("(<turn>|, (<new_clause>|and|showing))")]
    return [Clause(words) for words in cut(clause.words, starts)]


def find_defect(sentences_cut: Sequence[list[Clause]]) -> bool | None:
    """Whether the clauses of each sentence say that there is a defect, as `says_defect` gives it."""
    defect: bool | None = None
    for clauses in sentences_cut:
        opening = [word for clause in clauses for word in clause.words][:6]
        concludes = not word_list("concluding").isdisjoint(opening)
        for clause in clauses:
            statement = clause_defect(clause)
            limited = statement is False and defect is True and not concludes and not _speaks_of_all(clause)
            if statement is not None and not limited:
                defect = statement
    return defect


def find_place(sentences_cut: Sequence[list[Clause]]) -> str | None:
    """Where the clauses of each sentence put the defect, as `place` gives it."""
    located: str | None = None
    fallback: str | None = None
    for clause in itertools.chain.from_iterable(sentences_cut):
        names = {name for name, index in _places(clause) if not negated(clause, index)}
        if not names or clause.holds("(<question>|if|whether|<clean>)"):
            continue
        defect = clause_defect(clause)
        if defect is False:
            continue
        fallback = names.pop() if len(names) == 1 else None
        if defect or clause.holds("<located>"):
            located = fallback
    return located or fallback


def clause_defect(clause: Clause) -> bool | None:
    """Whether one clause states a defect (True), its absence (False) or nothing (None)."""
    if clause.holds("(<question>|may or may not|<not_excluded>|<undecidable>)"):
        return None
    statement: bool | None = None
    opened = False
    for i, word in enumerate(clause.words):
        defect = _is_defect(clause, i)
        if defect or _is_fine(clause, i):
            denied = negated(clause, i) or denied_after(clause, i + 1)
            if opened and not (defect and denied):
                continue
            if defect or statement is None:
                statement = statement or defect != denied
        asks_kind = word in {"type", "kind"} and clause.starts("_ of", i)
        opened = opened or asks_kind or word in word_list("open")
    return statement


def negated(clause: Clause, index: int) -> bool:
    """Whether a negation before a word reaches it: over lists, not over a turn or a new clause."""
    return clause.precedes("<negation>", index)


def denied_after(clause: Clause, index: int) -> bool:
    """Whether the words from an index on deny what stands before: "is not visible", "- free"."""
    return clause.starts("(-? free|(!(<denial_end>)){0,5} <denial>)", index)


def judges_part(clause: Clause, index: int) -> bool:
    """Whether a word such as "good" judges the part: "is good"; not the light or the template."""
    elsewhere = any(clause.surrounds(pattern, index) for pattern in _JUDGED_ELSE)
    return not elsewhere and clause.precedes("<judges> _{0,4}", index)


def _is_defect(clause: Clause, index: int) -> bool:
    """Whether a word is a defect: "crack" is, "hole" only where it is introduced as something seen."""
    word = clause.words[index]
    if word in word_list("object"):
        return clause.precedes("<introduced> _{0,2}", index)
    return word in word_list("defect") and not clause.precedes("(am|i'm) _?", index)  # not "I am torn"


def _is_fine(clause: Clause, index: int) -> bool:
    """Whether a word says that the part is as it should be."""
    word = clause.words[index]
    return word in word_list("clean") or (word in word_list("fine") and judges_part(clause, index))


def _speaks_of_all(clause: Clause) -> bool:
    """Whether a clause speaks of all defects and of the whole part: not "no scratches", "the rest"."""
    return clause.holds("(<any_defect>|<clean>|<fine>)") and not clause.holds(
        "(<region>|<vertical>|<sideways>)"
    )


def _places(clause: Clause) -> list[tuple[str, int]]:
    """(place, index of its word) of every place named."""
    runs = clause.runs("<place> (<place_joint>{0,3} <place>){0,2}")
    named = [(_region(clause, start, end), start) for start, end in runs]
    return [(name, start) for name, start in named if name is not None]


def _region(clause: Clause, start: int, end: int) -> str | None:
    """The place that a run of words names, None for a lone "left" or "right" that is none: "what is left"."""
    words = clause.words[start:end]
    vertical = next((word for word in words if word in word_list("vertical")), None)
    sideways = next((word for word in words if word in word_list("sideways")), None)
    if vertical is None and sideways is None:
        return "center"
    sided = clause.starts("(-|<side>)", end) or (
        clause.precedes("(the|far)", start) and clause.starts("<break>", end)
    )
    if vertical is None and "center" not in words and not sided:
        return None
    return f"{vertical or 'center'} {sideways or 'center'}"
