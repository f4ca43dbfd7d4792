"""The option letter that a reasoning ends on: an explicit clause, else the one option its last sentence states, else none.

Precision comes before recall: a letter is named only where a careful reader would name it. Every mention of
an option letter is judged for, against or neither by the few words around it; questions, conditions, doubts
and what others say conclude nothing. Linear time, over the last `wording.TAIL_CHARS` characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from anomalyr1.answers import wording
from anomalyr1.answers.findings import option_stated
from anomalyr1.answers.mentions import (
    AGAINST,
    ANSWER,
    CHOOSE,
    COPULA,
    EVERY,
    FILLER,
    MARKER,
    NAMING,
    NONE,
    SUPPORT,
    Mention,
    denied_after,
    denied_before,
    excepted,
    grouped,
    mentions,
    undecided,
)
from anomalyr1.answers.wording import MAX_SENTENCE_TOKENS, Token, content, find, run_end, word_set
from anomalyr1.types import LETTERS

_FITS = word_set("""
    fits fit matches match applies apply wins works holds stands remains suits corresponds agrees aligns survives
""")
_LINK = word_set("""
    is are 's be seems seem appears appear looks look remains must would should will can to as being clearly therefore also comes
    gets lies
""")
_COUNTED = word_set("guess pick answer conclusion one choice option")
_RIGHT = _COUNTED | word_set(
    "correct right best true left confirmed chosen selected evident better closest nearest"
)
_SUITS = word_set("""
    accurate appropriate plausible likely valid match fit suitable consistent probable reasonable supported description remaining
    fitting convincing logical
""")
_DEGREE = word_set("""
    the most a an clearly therefore thus indeed only obviously definitely probably very by far more in fact all our my final also
    then certainly undoubtedly still ,
""")
_TELLS = word_set("describes reflects represents captures explains identifies")
_WELL = word_set("best accurately correctly exactly perfectly precisely better")
_CUTS = word_set("but however yet whereas actually though although so therefore")
_YES = word_set("yes ✓ ✔ ✅ ☑")
_OPENERS = word_set("since because as based given considering so therefore then finally overall in but")
_ADVERBS = word_set("""
    clearly definitely obviously certainly probably likely most undoubtedly indeed hence naturally final answer option
""")
_INTRODUCES = word_set("' : \" the a an therefore clearly likely most")
_PLURAL = word_set("options choices answers candidates alternatives")
_OF = word_set("of among from between to at with")
_VERDICTS = (["the", "correct"], ["the", "right"])
_ASIDE = word_set(", rather than instead of not and option over")
_HELD = word_set("before by avoid of when than from")
_RESET_PHRASES = """
    wait; hold on; second thought; scratch that; correction; oops; i was wrong; i was mistaken; my mistake; that is wrong; that's
    wrong; that is incorrect; that's incorrect; that's not right; that is not right; that isn't right; that is not correct; not
    quite right; let me reconsider; let me rethink; made a mistake; change my answer; changed my mind; sorry; no , that; no , it;
    this is wrong; was a mistake; on reflection
"""
_CORRECTS = word_set("""
    again closer closely final finally reconsider reconsidering rethink rethinking recheck rechecking revisiting examining inspection
    second double verify now instead correction
""")
_TURNS = word_set("but however yet actually no hmm well")
_CHANGES = word_set("change changes changed changing switch switching switched move moving revise revised")
_RESETS = tuple(f" {' '.join(phrase.split())} " for phrase in _RESET_PHRASES.split(";"))


class _Claim(NamedTuple):
    letter: str
    strong: bool
    """Says that it is the answer, not only that it fits."""
    marked: bool
    """Introduced as a conclusion: "so", "therefore"."""
    label: bool = False
    """Only stands before its text, like an item of a list."""
    turn: int = 0
    """How many signs of a correction ("however", "looking again") stand before it."""


def read_conclusion(reasoning: str, options: Sequence[str]) -> str | None:
    """The letter of the option that the reasoning concludes, None when it names none. Never raises."""
    if not options:
        return None
    texts = [content(option) for option in options]
    told = _whole_labels(wording.told(reasoning), texts)
    claims: list[_Claim] = []
    turn = 0
    for sentence in told:
        for part in _parts(sentence):
            against, found = _judge(part, texts)
            if _resets(part) or (
                found and part[0].word in {"actually", "no", "hmm", "well"} and len(told) > 1
            ):
                claims = []
            turn += part[0].word in _TURNS or any(token.word in _CORRECTS for token in part)
            claims = [claim for claim in claims if claim.letter not in against] + [
                claim._replace(turn=turn) for claim in found
            ]
    listed = _lists_options(told, texts)
    if listed:
        claims = [claim for claim in claims if not claim.label]
    stated = _stated(told[-1], texts, listed) if told else None
    if claims and not (stated and mentions(told[-1], texts)):
        return _settle(claims)
    return stated


def _stated(last: list[Token], texts: Sequence[list[str]], listed: bool) -> str | None:
    """The option whose text the last sentence states; a sentence about letters states only an option such as "Both A and B"."""
    if mentions(last, texts):
        texts = [text if "both" in text or text[1:2] == ["and"] else [] for text in texts]
    elif listed and [token.word for token in last if token.word.isalnum()] in texts:
        return None
    consequence = _parts(last)[-1]
    if consequence[0].word in {"so", "therefore"} and (letter := option_stated(consequence, texts)):
        return letter
    return option_stated(last, texts)


def _whole_labels(told: Sequence[list[Token]], texts: Sequence[list[str]]) -> list[list[Token]]:
    """The sentences, joined where one was cut between an option's letter and its text: "the options are A. | Crack, B. | Scratch"."""
    result: list[list[Token]] = []
    for sentence in told:
        last = result[-1] if result else []
        letter = last[-2].raw if len(last) > 1 and last[-1].word == "." else ""
        text = texts[LETTERS.index(letter)] if len(letter) == 1 and letter in LETTERS[: len(texts)] else []
        whole = (
            text
            and run_end([token.word for token in sentence], text, 0)
            and len(last) + len(sentence) <= MAX_SENTENCE_TOKENS
        )
        if whole:
            result[-1] = last + sentence
        else:
            result.append(sentence)
    return result


def _lists_options(told: Sequence[list[Token]], texts: Sequence[list[str]]) -> bool:
    """Whether two options or more are listed as they were given, "A. Crack B. Scratch"."""
    flat = [token for sentence in told for token in sentence]
    listed = set()
    for i, token in enumerate(flat[:-2]):
        if len(token.raw) == 1 and token.raw in LETTERS[: len(texts)] and flat[i + 1].word in {".", ":", ")"}:
            text = texts[LETTERS.index(token.raw)]
            if text and [one.word for one in flat[i + 2 : i + 2 + len(text)]] == text:
                listed.add(token.raw)
    return len(listed) > 1


def _settle(claims: Sequence[_Claim]) -> str | None:
    """The last strong claim, unless another contradicts it as strongly and nothing was corrected in between.

    Without a strong one what all weak ones say, or the last if it is marked as the conclusion.
    """
    strong = [claim for claim in claims if claim.strong]
    if strong:
        last = strong[-1]
        rivals = [claim for claim in strong if claim.letter != last.letter and claim.turn == last.turn]
        return None if any(claim.marked or not last.marked for claim in rivals) else last.letter
    if len({claim.letter for claim in claims}) == 1 or claims[-1].marked:
        return claims[-1].letter
    return None


def _parts(sentence: list[Token]) -> list[list[Token]]:
    """A sentence cut where it turns ("but", "however", ", so"), so that a condition or doubt ends there."""
    parts: list[list[Token]] = [[]]
    for token in sentence:
        if token.word in _CUTS and parts[-1] and _turns(token.word, [one.word for one in parts[-1][-4:]]):
            parts.append([])
        parts[-1].append(token)
    return parts


def _turns(word: str, before: list[str]) -> bool:
    """Whether a word turns the sentence after the words before it: not "all but B", "it's actually B"."""
    if word == "but":
        return "," in before or not (EVERY | NONE) & set(before)
    if word == "actually":
        return not before[-1][0].isalnum()
    if word in {"though", "although"}:
        return before[-1] in {",", "even"}
    return before[-1] in {",", "and", "-"} if word in {"so", "therefore"} else True


def _resets(part: list[Token]) -> bool:
    """Whether a part takes back what was concluded before."""
    opening = f" {' '.join(token.word for token in part[:14])} "
    return any(phrase in opening for phrase in _RESETS)


def _judge(part: list[Token], texts: Sequence[list[str]]) -> tuple[set[str], list[_Claim]]:
    """The letters a part speaks against, and its claims for one."""
    words = [token.word for token in part]
    against: set[str] = set()
    claims: list[_Claim] = []
    groups = grouped(words, mentions(part, texts))
    ends = [group[0].at for group in groups[1:]] + [len(words)]
    denials = [
        denied_before(words, group[0].at, groups[i - 1][-1].after if i else 0)
        or denied_after(words, group[-1].after, ends[i])
        for i, group in enumerate(groups)
    ]
    supposed = [words[group[-1].after : group[-1].after + 1] in (["would"], ["could"]) for group in groups]
    for i, (group, denied) in enumerate(zip(groups, denials, strict=True)):
        floor = groups[i - 1][-1].after if i else 0
        kept = excepted(words, group[0].at, floor, words[group[-1].after : ends[i]])
        if kept and len(group) == 1 and not undecided(words, group[0].at, ends[i]):
            claims.append(_Claim(group[0].letter, True, True))
        elif denied or kept is False:
            against |= {mention.letter for mention in group}
        elif kept is None and len(group) == 1 and not undecided(words, group[0].at, ends[i]):
            mention, until = _past_aside(
                words, group[0], groups[i + 1 :], denials[i + 1 :], ends[i], len(words)
            )
            claim = _claim(
                words,
                mention,
                floor,
                until,
                all(denials[k] or supposed[k] for k in range(len(groups)) if k != i),
            )
            claims += [claim] if claim else []
    if not groups and not undecided(words, len(words), len(words)):
        claims += _claim_by_text(words, texts)
    return against, claims


def _past_aside(
    words: list[str],
    mention: Mention,
    groups: list[list[Mention]],
    denials: list[bool],
    end: int,
    length: int,
) -> tuple[Mention, int]:
    """A mention followed by "rather than A" or ", not A," goes on after it."""
    if not groups or not denials[0] or any(word not in _ASIDE for word in words[mention.after : end]):
        return mention, end
    after = groups[0][-1].after
    after += words[after : after + 1] == [","]
    return mention._replace(after=after), groups[1][0].at if len(groups) > 1 else length


def _claim(words: list[str], mention: Mention, floor: int, until: int, alone: bool) -> _Claim | None:
    """What one mention, neither denied nor doubted, claims; `alone` = all other mentions of the part are denied."""
    marked = any(word in MARKER for word in words[max(0, mention.at - 12) : mention.at])
    if words[mention.after : mention.after + 1] == ["or"] or words[mention.after : mention.after + 2] == [
        ",",
        "or",
    ]:
        return None
    if words[floor : mention.at] == ["to"] and any(
        word in _CHANGES for word in words[max(0, floor - 5) : floor]
    ):
        return _Claim(mention.letter, True, True)
    right = _claim_after(words, mention, until)
    if right is not None:
        return _Claim(mention.letter, right, marked)
    i = mention.at - 1
    while i >= floor and words[i] in FILLER and words[i] != ":":
        i -= 1
    cue = words[i] if i >= floor else ""
    if cue in COPULA:
        return _claim_by_copula(words, mention, i, floor, alone)
    before = words[max(0, i - 4) : i]
    mistaken = any(word in {"wrong", "incorrect", "mistake", "error"} for word in before) or (
        "was" in before and (cue.endswith("ing") or "going" in before)
    )
    mistaken = mistaken or (cue.endswith("ing") and words[mention.after : mention.after + 1] == ["would"])
    if cue in CHOOSE and not mistaken and not any(word in _HELD for word in words[max(0, i - 2) : i]):
        sure = mention.firm or words[mention.at - 1] == "option" or mention.after >= len(words) - 1
        return _Claim(mention.letter, True, True) if sure else None
    if cue in SUPPORT:
        return _Claim(mention.letter, False, marked)
    if (
        mention.bracketed
        and i >= 0
        and alone
        and words[mention.after : mention.after + 1] in ([], ["."], ["!"], [","])
    ):
        return _Claim(mention.letter, False, marked)
    if not cue or cue in {",", ".", "-", ";", "but"}:
        return _claim_bare(
            words, mention, i, [word for word in words[i + 1 : mention.at] if word.isalpha()], marked, alone
        )
    return None


def _claim_by_copula(words: list[str], mention: Mention, i: int, floor: int, alone: bool) -> _Claim | None:
    """Judge "the answer is B", "it's B", "Answer: B"; not "the label is B"."""
    subject = _clause_before(words, i, floor)
    answer = any(word in ANSWER for word in subject)
    near = subject[-2:] if words[i] == ":" else subject
    several = words[i] in {"are", ":"} and any(
        w in _PLURAL and not _OF & set(subject[max(0, k - 3) : k]) for k, w in enumerate(subject)
    )
    if several or (not subject and words[i - 1 : i + 1] == ["so", "is"]):
        return None
    if not answer and (any(word in NAMING for word in near) or (words[i] == ":" and not alone)):
        return None
    answer = answer or "answer" in words[i + 1 : mention.at]
    return _Claim(
        mention.letter,
        answer or subject[-1:] in (["it"], ["this"], ["that"], ["which"]) or "'" in words[i],
        True,
    )


def _claim_after(words: list[str], mention: Mention, until: int) -> bool | None:
    """A verdict in the words after a mention: True = strong, False = weak, None = none."""
    i = mention.after
    if (
        words[i : i + 1]
        and words[i] in {"-", ":", ","}
        and i + 1 < len(words)
        and words[i + 1] in _LINK | _FITS | {"which", "the"}
    ):
        i += 1 + (words[i + 1] == "which")
    if words[i : i + 1] and words[i] in {"-", ":", "="} and words[i + 1 : i + 2] and words[i + 1] in _YES:
        return True
    linked = outdone = False
    while i < until and (
        words[i] in _LINK or words[i : i + 2] in _VERDICTS or (linked and words[i] in _DEGREE)
    ):
        linked = True
        outdone = outdone or words[i] in {"most", "more", "only", "the"}
        i += 1
    if linked and words[i - 1] == "remains" and not any(word[0].isalnum() for word in words[i : i + 1]):
        return False
    if i >= until:
        return None
    if linked and (words[i] in _SUITS or words[i] == "what"):
        return outdone
    if linked and words[i] in _COUNTED and words[i - 1] in {"a", "an"}:
        return None
    if (
        (linked and words[i] in _RIGHT)
        or words[i] in _YES
        or words[i] == "correct"
        or words[i : i + 2] == ["it", "is"]
    ):
        return True
    if words[i] == "makes" and "sense" in words[i + 1 : i + 4]:
        return words[i + 1] in {"the", "more", "most"}
    well = any(word in _WELL or word == "only" for word in words[mention.at : min(i + 4, until)])
    if words[i] in _FITS or (words[i] in _WELL and i + 1 < until and words[i + 1].isalpha()):
        return well and "also" not in words[mention.at : i]
    if words[i] == "does" and not any(word[0].isalnum() for word in words[i + 1 : i + 2]):
        return False
    aside = find(words[:until], ["which"], i)
    if (
        aside != -1
        and words[aside + 1 : aside + 2]
        and words[aside + 1] in {"matches", "fits", "corresponds", "agrees"}
    ):
        return False
    return False if words[i] in _TELLS and any(word in _WELL for word in words[i:until]) else None


def _claim_bare(
    words: list[str], mention: Mention, i: int, between: list[str], marked: bool, alone: bool
) -> _Claim | None:
    """A letter that stands by itself: "B.", "So B.", "Based on this, (b) Crack"."""
    if not alone or (
        i >= 0
        and words[i] != "but"
        and not marked
        and words[0] not in _OPENERS
        and not between
        and words[i] != ","
    ):
        return None
    rest = [word for word in words[mention.after :] if word not in {".", "!", ")", '"', "'", "]"}]
    named = "option" in between or "answer" in between
    if rest and i < 0 and mention.firm and all(word in _ADVERBS for word in between) and _gives_reason(rest):
        return _Claim(mention.letter, False, True)
    if rest and not (marked and rest[0] in {",", "because", "since", "as", "-", "given", ":"}):
        label = i < 0 and not between and mention.firm and words[mention.at + 1] in {".", ":", ")"}
        return _Claim(mention.letter, False, False, label=True) if label else None
    if not mention.firm and not named and (i >= 0 or between):
        return None
    if i < 0 and all(word in _ADVERBS for word in between):
        return _Claim(mention.letter, False, "option" not in between, label=mention.own_text)
    turned = i >= 0 and words[i] == "but"
    if marked or turned or words[0] in _OPENERS or named or words[i] == ",":
        return _Claim(mention.letter, turned or "answer" in between, marked or turned or words[0] in _OPENERS)
    return None


def _gives_reason(rest: list[str]) -> bool:
    """Whether it is "C, because the surface is pushed in"; not "C, which is a dent, is not visible"."""
    reason = rest[1:2] if rest[0] in {",", "-"} else rest[:1]
    plain_reason = (
        rest[0] in {",", "-"}
        and reason in (["the"], ["there"], ["it"], ["this"])
        and not any(word in AGAINST for word in rest)
    )
    return plain_reason or reason in (["because"], ["since"], ["as"], ["given"], ["due"])


def _clause_before(words: list[str], at: int, floor: int) -> list[str]:
    start = at
    while start > floor and words[start - 1] not in {
        ",",
        ";",
        "because",
        "since",
        "but",
        "so",
        "therefore",
        "although",
        ".",
    }:
        start -= 1
    return words[start:at]


def _claim_by_text(words: list[str], texts: Sequence[list[str]]) -> list[_Claim]:
    """An option quoted by its text right after "the answer is"."""
    for i in range(len(words) - 2, 0, -1):
        asked = words[i] in {"is", ":", "be", "="} and any(
            w in {"answer", "option", "choice"} for w in _clause_before(words, i, 0)[-3:]
        )
        if not asked:
            continue
        j = i + 1
        while j < len(words) and words[j] in _INTRODUCES:
            j += 1
        fitting = [
            (len(text), k)
            for k, text in enumerate(texts)
            if run_end(words, text, j) or run_end(words, text, i + 1)
        ]
        if fitting:
            return [_Claim(LETTERS[max(fitting)[1]], True, True)]
    return []
