"""Mentions of option letters in prose, and which of them are spoken against.

A single letter is an option only where its neighbours say so: the article "A" and names ("PCB", "USB-C", "type A") are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from anomalyr1.types import LETTERS
from anomalyr1.wording import Token, run_end, word_set

ANSWER = word_set("""
    answer answers choice option options selection solution conclusion response pick verdict match correct best closest remaining
    guess
""")
COPULA = word_set("""
    is 's are be : = -> => → remains remain equals becomes would - should must it's that's i'd
""")
CHOOSE = word_set("""
    choose chose choosing chosen select selecting selected pick picked picking conclude leaves leave leaving left opt settle
    settling prefer favor favour lean leaning go going went say
""")
SUPPORT = word_set("""
    matches match matching fits fit fitting supports support supporting corresponds correspond corresponding consistent points point
    pointing aligns align aligned aligning agrees agree indicates indicating suggests suggesting confirms confirming leads lead
    leading line indicate suggest confirm make makes making represents given described stated captured
    reflected like decides decide speaks explained supported represented identified
""")
MARKER = word_set("so therefore -> => → ergo finally overall then")
FILLER = word_set("""
    the option options choice letter answer likely most probably definitely clearly therefore thus so indeed to best simply still
    then again actually in fact correct obviously certainly undoubtedly hence naturally with on for us me only that it i as really
    by one la le les lo el los die der das den number far just final towards toward " ' ( [ ] : <
""")
NAMING = word_set("""
    label labeled labelled letter letters grade rating mark marked marking print printed printing code name symbol text character
    side engraved imprint imprinted type vitamin stamped reads embossed pin pill logo inscription batch class size
""")
LIST = word_set(", / and or & as well")
STARTERS = word_set("""
    because since although though while whereas as where when , ; but however yet so therefore and
""")
AGAINST = word_set("""
    not never cannot nor neither wrong incorrect false ruled eliminated excluded unlikely implausible impossible irrelevant
    inaccurate inconsistent mismatch mismatched contradicts contradict fails fail rejected discarded dismissed invalid out no less
    absent untrue inappropriate unsuitable unsupported lacks instead ✗ ✘ ❌ ✕
""")
_BEFORE_AGAINST = word_set("""
    not never cannot nor neither no eliminate eliminates eliminated eliminating exclude excludes excluded excluding reject rejects
    rejecting discard discarding dismiss dismissing unlike except without contrary opposed against over avoid contradicts contradict
    refute refutes nothing none than instead rather
""")
_PASS = word_set("""
    be the is it was are option options choice answer correct think believe say support supports match matches matching fit fits
    correspond corresponds with to for as of just only really likely necessarily letter choose select pick go would should could can
    that i do does an consistent agree agrees best either indicate suggest than out contain describe conclude seem appear it's
    that's " ' ( [
""")
_AFTER_LETTER = word_set("""
    is isn't was seems appears fits matches because since as and or would must remains best describes describe with for from but
    should corresponds applies does doesn't can cannot can't not only rather instead based due given which where while whereas who
    that alone here then too also over than wins works holds stands can't won't looks are aren't do don't captures reflects if when
    therefore so in after accurately correctly directly mentions says states refers represents again it the aligns agrees suits
    being means option choice to explains better first without unless however though although has likely identifies fails contradicts
""")
_NAMED = word_set("option options choice answer answers")
_CUES = ANSWER | COPULA | CHOOSE | SUPPORT | MARKER | FILLER | _PASS | STARTERS | _BEFORE_AGAINST | LIST
_CUES |= word_set("both between if even like no wait else too at about consider considering regarding check under")
_LOWER_CUES = COPULA | CHOOSE | (FILLER - word_set("the to with for on in as by i me it us that then far"))


class Mention(NamedTuple):
    """One option letter in a part of a sentence."""

    letter: str
    at: int
    """Index of its token."""
    after: int
    """Index of the first token after it, its closing bracket and its own text."""
    firm: bool
    """Capital or in brackets: not a plain lower-case word."""
    bracketed: bool
    own_text: bool
    """The option's own text, or a remark in brackets, follows."""


def mentions(part: Sequence[Token], texts: Sequence[list[str]]) -> list[Mention]:
    """Every mention of an option letter; `texts` are the words of each option."""
    found = []
    for i, token in enumerate(part):
        letter = token.raw.upper()
        if len(token.raw) != 1 or letter not in LETTERS[: len(texts)] or not _alone(part, i):
            continue
        before, after = _word(part, i - 1), _word(part, i + 1)
        bracketed = (before in {"(", "["} and after in {")", "]"}) or (before in _NAMED and _word(part, i - 2) == "(" and after == ")")
        skipped, own_text = _skip_text(part, i, texts[LETTERS.index(letter)])
        mention = Mention(letter, i, skipped, token.raw == letter or bracketed, bracketed, own_text)
        if _is_option(part, mention):
            found.append(mention)
    return found


def grouped(words: Sequence[str], found: Sequence[Mention]) -> list[list[Mention]]:
    """Mentions listed together ("A, C and D"); a pair joined by a comma only is two."""
    groups: list[list[Mention]] = []
    for position, mention in enumerate(found):
        between = words[groups[-1][-1].at + 1 : mention.at] if groups else []
        joined = 0 < len(between) <= 4 and all(word in LIST or word in {")", "(", "option"} for word in between)
        fresh = bool(groups) and mention.letter not in {one.letter for one in groups[-1]}
        if joined and fresh and ("," not in between or len(groups[-1]) > 1 or _goes_on(words, found, position)):
            groups[-1].append(mention)
        else:
            groups.append([mention])
    return groups


def denied_before(words: Sequence[str], at: int, floor: int) -> bool:
    """Whether the words just before a mention speak against it: "not A", "rather than option A", "rules out A"."""
    for i in range(at - 1, max(floor, at - 12) - 1, -1):
        word = words[i]
        if word in {"out", "off"} and i and words[i - 1] in {"rule", "rules", "ruled", "ruling", "cross", "crossing"}:
            return not any(_negative(w) for w in words[max(0, i - 3) : i - 1])
        if word in {"exclude", "excluded", "eliminate", "eliminated"}:
            return not any(w in {"not", "cannot"} or w.endswith("n't") for w in words[max(0, i - 3) : i])
        if word == "rather" and words[i + 1] not in {"than", "que"}:
            continue
        if _negative(word):
            return word != "no" or i >= at - 2
        if word not in _PASS:
            return False
    return False


def denied_after(words: Sequence[str], after: int, until: int) -> bool:
    """Whether the words just after a mention, up to the next clause or mention, speak against it: "A is wrong", "A doesn't match"."""
    if words[after : after + 1] and words[after] in {",", ";", "rather", "instead", "not", "over", "and", "or", "because"}:
        return False
    for i in range(after, min(until, after + 9)):
        word = words[i]
        if i > after and word in STARTERS:
            return False
        if word in AGAINST or word.endswith("n't"):
            twice = any(w in AGAINST or w.endswith("n't") for w in words[i + 1 : i + 4] if w not in {"not", "no"})
            return not (twice and (word in {"not", "cannot"} or word.endswith("n't")))
    return False


def _word(part: Sequence[Token], i: int) -> str:
    return part[i].word if 0 <= i < len(part) else ""


def _negative(word: str) -> bool:
    return word in _BEFORE_AGAINST or word.endswith("n't")


def _alone(part: Sequence[Token], i: int) -> bool:
    """Not part of a name: "USB-C", "A4", "C-shaped", "U.S.A."."""
    if i and part[i].glued:
        if part[i - 1].word not in "/([)]\"':,.=;>|!?<" and part[i - 1].word.isascii():
            return False
        if part[i - 1].word == "." and len(_word(part, i - 2)) == 1:
            return False
    if i + 1 < len(part) and part[i + 1].glued:
        if part[i + 1].word in {"-", "_", "+", "#", "&", "%"} or part[i + 1].raw[0].isdigit():
            return False
        if part[i + 1].word in {"'", "."} and i + 2 < len(part):
            return not (part[i + 2].glued and part[i + 2].raw[0].islower())
    return True


def _skip_text(part: Sequence[Token], i: int, text: list[str]) -> tuple[int, bool]:
    """The index after a mention, its bracket, and its own text or a remark in brackets; and whether such followed."""
    j = i + 1
    while _word(part, j) in {")", "]", '"', "'"}:
        j += 1
    start = j
    while start - j < 3 and _word(part, start) in {".", ":", "-", ",", '"', "'", "("}:
        start += 1
    end = run_end([token.word for token in part], text, start)
    if end is not None:
        j = end
        while j + 1 < len(part) and part[j].word in {")", '"', "'", ".", ","}:
            j += 1
        return j, True
    if _word(part, j) == "(":
        close = next((k for k in range(j, min(j + 16, len(part))) if part[k].word == ")"), None)
        return (close + 1, True) if close is not None else (j, False)
    return j, False


def _is_option(part: Sequence[Token], mention: Mention) -> bool:
    """Whether a single letter means an option: by the word before it and the word after it."""
    i = mention.at
    before, after = _word(part, i - 1), _word(part, i + 1)
    if mention.bracketed:
        return _word(part, i - 2) not in NAMING
    if before and before[0].isalnum() and before not in _CUES:
        return False
    named = before in _NAMED
    ends = after == "" or not after[0].isalnum()
    if part[i].raw.islower():
        whole = i == 0 and ends and len(part) <= 2
        closed = ends and after != "'" and before != "(" and (before in _LOWER_CUES or before == "")
        return whole or (closed and before != "") or (named and (mention.own_text or after in _AFTER_LETTER))
    if mention.letter == "I" and not named:
        return False
    return ends or mention.own_text or after in _AFTER_LETTER or (named and mention.letter != "A") or _judged(part, i)


def _judged(part: Sequence[Token], i: int) -> bool:
    """Whether a verdict follows at once: "B correct", as languages with a verb before its subject have it; not "A correct placement"."""
    verdict = _word(part, i + 1) in {"correct", "right", "wrong", "incorrect", "false"}
    return verdict and (part[i].raw != "A" or not _word(part, i + 2).isalpha())


def _goes_on(words: Sequence[str], found: Sequence[Mention], position: int) -> bool:
    """Whether a list of letters goes on after this one, or ends the sentence with it."""
    if position + 1 < len(found):
        return all(word in LIST for word in words[found[position].at + 1 : found[position + 1].at])
    return not any(word[0].isalnum() for word in words[found[position].at + 1 :])
