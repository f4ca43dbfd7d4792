"""The option letter that a reasoning ends on: an explicit clause, else the option its last sentence states.

Precision comes before recall: a letter is named only where a careful reader would name it. `rules` judge
every mention of an option letter by the few words around it; questions, conditions, doubts and what others
say conclude nothing. Linear time, over the last `wording.TAIL_CHARS` characters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from anomalyr1.answers.clauses import Clause, cut
from anomalyr1.answers.findings import cut_sentence, find_defect
from anomalyr1.answers.mentions import Mention, grouped, mentions, symbols
from anomalyr1.answers.option_texts import opening_answer, stated_option
from anomalyr1.answers.rules import CLAIMS, DENIALS, DOUBTS, Ruling, first_rule
from anomalyr1.answers.wording import MAX_SENTENCE_TOKENS, Token, content, run_end, sentences, word_list
from anomalyr1.types import LETTERS

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
RETREAT_WORDS = 14
"""Within so many words a clause that takes an answer back says so."""
_CUTS = {
    "but": "(, _{0,3}|(^|!(<every>|<none>|anything)){4})",
    "however": "_",
    "yet": "_",
    "whereas": "_",
    "actually": "<mark>",
    "though": "(,|even)",
    "although": "(,|even)",
    "so": "(,|and|-)",
    "therefore": "(,|and|-)",
}
"""Where a sentence turns, so that a condition or a doubt ends: the word, and what must stand before it."""
_HARMLESS = (
    ("(even|as|because) if", "as"),
    ("(<find_out>|find out) if", "whether"),
    ("(answer|question) (to|of)? whether", "answer"),
    ("(<resolved_if>|<undoubted>)", ""),
    (",? in all (likelihood|probability)", ""),
    ("(points|turns|stands|sticks) out", "points"),
    ("comes out", "comes"),
)
"""What looks like a condition, a doubt or a denial and is none, and the words that are read for it."""


class _Claim(NamedTuple):
    """One clause that speaks for an option."""

    letter: str
    ruling: Ruling
    marked: bool
    """Introduced as a conclusion: "so", "therefore"."""
    turn: int = 0
    """How many signs of a correction ("however", "looking again") stand before it."""

    @property
    def hinted(self) -> bool:
        """Whether it holds only as long as nothing is said against it."""
        return self.ruling in {Ruling.NAMED, Ruling.HINT}


def read_conclusion(reasoning: str, options: Sequence[str]) -> str | None:
    """The letter of the option that the reasoning concludes, None when it names none. Never raises."""
    return conclude(sentences(reasoning), options)


def conclude(reasoning: Sequence[list[Token]], options: Sequence[str]) -> str | None:
    """The letter that the sentences of a reasoning conclude, as `read_conclusion` gives it."""
    if not options or not reasoning:
        return None
    texts = [content(option) for option in options]
    reasoning = _join_labels([_with_letters(sentence, len(texts)) for sentence in reasoning], texts)
    claims = _standing_claims(reasoning, texts)
    listed = _lists_options(reasoning, texts)
    if listed:
        claims = [claim for claim in claims if claim.ruling is not Ruling.LABEL]
    stated = _stated(reasoning[-1], texts, listed)
    if claims and not (stated and mentions(reasoning[-1], texts)):
        return _settle(claims)
    return stated or opening_answer(reasoning, texts)


def _standing_claims(reasoning: Sequence[list[Token]], texts: Sequence[list[str]]) -> list[_Claim]:
    """What a reasoning claims and does not take back."""
    claims: list[_Claim] = []
    denied: set[str] = set()
    turn = 0
    for sentence in reasoning:
        if any(claim.hinted for claim in claims) and not _bears_out(sentence, texts):
            claims = _without_hints(claims)
        for part in _parts(sentence):
            clause = Clause([token.word for token in part])
            against, new_claims = _judge(part, texts)
            denied |= against
            corrects = bool(new_claims) and len(reasoning) > 1 and clause.starts("(actually|no|hmm|well)")
            if corrects or Clause(clause.words[:RETREAT_WORDS]).holds("(<taken_back>|<retreat>)"):
                claims = []
            elif clause.starts("<contrast>") or clause.holds("(no|not|<denier>)"):
                claims = _without_hints(claims)
            turn += clause.holds("<correction>") and not (new_claims and clause.holds("<likewise>"))
            claims = [claim for claim in claims if claim.letter not in against]
            claims += [claim._replace(turn=turn) for claim in new_claims]
    return [claim for claim in claims if denied - {claim.letter} or claim.ruling is not Ruling.NAMED]


def _bears_out(sentence: list[Token], texts: Sequence[list[str]]) -> bool:
    """Whether a sentence leaves a hint before it standing: it finds a defect, or speaks of options."""
    if mentions(sentence, texts) or Clause([token.word for token in sentence]).holds("<confirmation>"):
        return True
    return find_defect([cut_sentence(sentence)]) is True


def _without_hints(claims: Sequence[_Claim]) -> list[_Claim]:
    return [claim for claim in claims if not claim.hinted]


def _judge(part: Sequence[Token], texts: Sequence[list[str]]) -> tuple[set[str], list[_Claim]]:
    """The letters that a part of a sentence speaks against, and its claims for one."""
    groups = grouped(part, mentions(part, texts))
    clause = Clause(symbols(part, groups))
    if not groups and not clause.holds("(answer|option|choice) _{0,8} (is|:|be|=)"):
        return set(), []
    for pattern, replacement in _HARMLESS:
        clause = clause.without(pattern, replacement)
    if not groups:
        return set(), _claim_by_text(clause, texts)
    # 1. What is spoken against becomes Z; "X rather than Z" becomes X.
    words = clause.words.copy()
    against: set[str] = set()
    remaining: list[list[Mention]] = []
    for place, group in zip(_open_options(clause), groups, strict=True):
        denial = first_rule(DENIALS, clause, place)
        if denial is not None and denial.ruling is Ruling.AGAINST:
            words[place] = "Z"
            against |= {mention.letter for mention in group}
        else:
            remaining.append(group)
    clause = Clause(words).without("X <aside>* Z ,?", "X")
    # 2. Each of the others that stands by itself may be claimed.
    claims = []
    options = list(zip(_open_options(clause), remaining, strict=True))
    for place, (mention, *listed) in options:
        rivals = [at for at, group in options if {rival.letter for rival in group} != {mention.letter}]
        alone = all(clause.starts("(would|could)", at + 1) for at in rivals)
        claim = None if listed else _claim(clause, place, mention, alone)
        if claim is not None:
            claims.append(claim)
    return against, claims


def _open_options(clause: Clause) -> list[int]:
    """Where a clause has options that are not spoken against."""
    return [i for i, word in enumerate(clause.words) if word in {"X", "XX"}]


def _claim(clause: Clause, place: int, mention: Mention, alone: bool) -> _Claim | None:
    """What a clause claims of the option at a place; `alone` = no other option of the clause is open."""
    rule = first_rule(CLAIMS, clause, place, mention, alone)
    if rule is None or rule.ruling is Ruling.NOTHING or first_rule(DOUBTS, clause, place):
        return None
    marked = rule.concludes or clause.precedes("<marker> <any_word>{0,11}", place)
    marked = marked and not clause.holds("<likewise>")
    return _Claim(mention.letter, rule.ruling, marked)


def _claim_by_text(clause: Clause, texts: Sequence[list[str]]) -> list[_Claim]:
    """An option quoted by its text right after "the answer is"."""
    words = clause.words
    for i in range(len(words) - 1, 1, -1):
        if not clause.precedes("(answer|option|choice) !(<clause_stop>){0,8} (is|:|be|=)", i):
            continue
        start = next((k for k in range(i, len(words)) if words[k] not in word_list("introducing")), i)
        ends = [run_end(words, text, start) or run_end(words, text, i) for text in texts]
        quoted = [option for option, end in enumerate(ends) if end is not None]
        if quoted:
            option = max(quoted, key=lambda option: (len(texts[option]), option))
            clause = Clause([*words[:start], "X", *words[ends[option] :]])
            doubt = first_rule(DOUBTS, clause, start)
            return [] if doubt else [_Claim(LETTERS[option], Ruling.ANSWER, True)]
    return []


def _settle(claims: Sequence[_Claim]) -> str | None:
    """The answer named at the end, unless another contradicts it and nothing was corrected in between.

    Without one, the option that is said to fit, if it is the only one or marked as the conclusion at the end.
    """
    answers = [claim for claim in claims if claim.ruling is Ruling.ANSWER]
    if answers:
        final = answers[-1]
        rivals = [claim for claim in answers if claim.letter != final.letter and claim.turn == final.turn]
        return None if any(claim.marked or not final.marked for claim in rivals) else final.letter
    if len({claim.letter for claim in claims}) == 1 or claims[-1].marked:
        return claims[-1].letter
    return None


def _stated(final: list[Token], texts: Sequence[list[str]], listed: bool) -> str | None:
    """The option whose text the final sentence states; beside letters only one such as "Both A and B"."""
    if mentions(final, texts):
        texts = [text if "both" in text or text[1:2] == ["and"] else [] for text in texts]
    elif listed and [token.word for token in final if token.word.isalnum()] in texts:
        return None
    consequence = _parts(final)[-1]
    if consequence[0].word in word_list("consequence") and (letter := stated_option(consequence, texts)):
        return letter
    return stated_option(final, texts)


def _with_letters(sentence: list[Token], options: int) -> list[Token]:
    """A sentence with "option B" for "second option"."""
    result = list(sentence)
    for i in range(len(sentence) - 1):
        ordinal, noun = sentence[i : i + 2]
        counted = ordinal.word in _ORDINALS[:options] and noun.word in {"option", "alternative"}
        if counted and sentence[max(0, i - 1)].word not in {"my", "our", "at"}:
            letter = LETTERS[_ORDINALS.index(ordinal.word)]
            result[i : i + 2] = [noun, Token(letter.lower(), letter, False)]
    return result


def _join_labels(reasoning: Sequence[list[Token]], texts: Sequence[list[str]]) -> list[list[Token]]:
    """The sentences, joined where they were cut after a label: "A. | Crack, B. | Scratch", "A? | No."."""
    result: list[list[Token]] = []
    for sentence in reasoning:
        previous = result[-1] if result else []
        text = _label_text(previous[-2:], texts)
        starts = run_end([token.word for token in sentence], text, 0) is not None
        if starts and len(previous) + len(sentence) <= MAX_SENTENCE_TOKENS:
            result[-1] = previous + sentence
        elif len(previous) == 2 and _label_text(previous, texts, "?") and sentence[0].word in {"yes", "no"}:
            result[-1] = [*previous[:-1], previous[-1]._replace(word=":"), *sentence]
        else:
            result.append(sentence)
    return result


def _lists_options(reasoning: Sequence[list[Token]], texts: Sequence[list[str]]) -> bool:
    """Whether two options or more are listed as they were given, "A. Crack B. Scratch"."""
    flat = list(itertools.chain.from_iterable(reasoning))
    listed = set()
    for i in range(len(flat) - 2):
        text = _label_text(flat[i : i + 2], texts, ".:)")
        if text and [token.word for token in flat[i + 2 : i + 2 + len(text)]] == text:
            listed.add(flat[i].raw)
    return len(listed) > 1


def _label_text(pair: Sequence[Token], texts: Sequence[list[str]], marks: str = ".") -> list[str]:
    """The text of the option that two tokens such as "B." are the label of, empty when they are none."""
    if len(pair) < 2 or pair[1].word not in marks or len(pair[0].raw) != 1:
        return []
    at = LETTERS.find(pair[0].raw)
    return texts[at] if 0 <= at < len(texts) else []


def _parts(sentence: Sequence[Token]) -> list[Sequence[Token]]:
    """A sentence cut where it turns: at "but", ", so"; not at "all but B", "it's actually B"."""
    clause = Clause([token.word for token in sentence])
    turns = [
        i for i, word in enumerate(clause.words) if i and word in _CUTS and clause.precedes(_CUTS[word], i)
    ]
    return cut(sentence, turns)
