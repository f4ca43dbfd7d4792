"""Mentions of option letters in prose, and which of them are spoken against, doubted or only supposed.

A single letter is an option only where its neighbours say so: the article "A" and names ("PCB", "USB-C",
"type A") are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from anomalyr1.answers.wording import Token, find, run_end, word_set
from anomalyr1.types import LETTERS

ANSWER = word_set("""
    answer answers choice option options selection solution conclusion response pick verdict match correct best closest remaining
    guess
""")
COPULA = word_set("""
    is 's are be : = -> => → remains remain equals becomes would will - should must it's that's i'd i'll let
""")
CHOOSE = word_set("""
    choose chose choosing chosen select selecting selected pick picked picking conclude leaves leave leaving left opt settle
    settling prefer favor favour lean leaning go going went say change changing changes switch switching revise stick sticking stay
    staying vote commit respond reply
""")
SUPPORT = word_set("""
    matches match matching fits fit fitting supports support supporting corresponds correspond corresponding consistent points point
    pointing aligns align aligned aligning agrees agree indicates indicating suggests suggesting confirms confirming leads lead
    leading line indicate suggest confirm make makes making represents given described stated captured
    reflected like decides decide speaks explained supported represented identified summarized summarised summed characterized
    characterised covered classified categorized categorised expressed falls fall belongs belong
""")
MARKER = word_set("so therefore -> => → ergo finally overall then")
FILLER = word_set("""
    the option options choice letter answer likely most probably definitely clearly therefore thus so indeed to best simply still
    then again actually in fact correct obviously certainly undoubtedly hence naturally with on for us me only that it i as really
    by one my up under la le les lo el los die der das den number far just final towards toward " ' ( [ ] : <
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
EVERY = word_set("all every everything each")
NONE = word_set("none no nothing")
_PUTS_OUT = word_set("exclude eliminate discard reject dismiss")
_SAVE = word_set("except but besides save excluding")
_BEFORE_AGAINST = word_set("""
    not never cannot nor neither no eliminate eliminates eliminated eliminating exclude excludes excluded excluding reject rejects
    rejecting discard discarding dismiss dismissing unlike except without contrary opposed against over avoid contradicts contradict
    refute refutes nothing none than instead rather
""")
_PASS = word_set("""
    be the is it was are option options choice answer correct think believe say support supports match matches matching fit fits
    correspond corresponds with to for as of just only really likely necessarily letter choose select pick go would should could can
    that i do does an consistent agree agrees best either indicate suggest than out contain describe conclude seem appear it's
    that's change switch respond my will " ' ( [
""")
_AFTER_LETTER = word_set("""
    is isn't was seems appears fits matches because since as and or would must remains best describes describe with for from but
    should corresponds applies does doesn't can cannot can't not only rather instead based due given which where while whereas who
    that alone here then too also over than wins works holds stands can't won't looks are aren't do don't captures reflects if when
    therefore so in after accurately correctly directly mentions says states refers represents again it the aligns agrees suits
    being means option choice to explains better first without unless however though although has likely identifies fails contradicts
    fail contradict comes gets lies makes survives
""")
_NAMED = word_set("option options choice answer answers")
_CUES = ANSWER | COPULA | CHOOSE | SUPPORT | MARKER | FILLER | _PASS | STARTERS | _BEFORE_AGAINST | LIST
_CUES -= word_set("line point points pointing lead leads leading")  # "points to B", but not "point B"
_CUES |= word_set(
    "both between from besides apart aside save excluding if even like no wait else too at about consider considering regarding check under"
)
_LOWER_CUES = COPULA | CHOOSE | (FILLER - word_set("the to with for on in as by i me it us that then far"))
_POSSIBLE = word_set("possible conceivable thinkable possibility possibilities")
_DOUBT = word_set("""
    whether maybe perhaps possibly unsure unclear uncertain doubt initially tempted tempting thought assumed example might could may
    wonder wondering considered suppose supposing assuming imagine unless guessing previous previously earlier
""")
_SPEAKERS = word_set("""
    one someone somebody people others colleague operator inspector user he she they model reader student novice you expert
    engineer technician
""")
_SAYS = word_set("""
    say says said think thinks claim claims claimed argue argues believe believes answer suggest suggests suggested choose chose
    pick picked expect conclude
""")
_RESOLVED = word_set("whether could might may thought considered doubt")
_TO_FIND_OUT = word_set("even as determine check see decide verify tell know asks asking ask assess evaluate")


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
        bracketed = (before in {"(", "["} and after in {")", "]"}) or (
            before in _NAMED and _word(part, i - 2) == "(" and after == ")"
        )
        skipped, own_text = _skip_text(part, i, texts[LETTERS.index(letter)])
        mention = Mention(letter, i, skipped, token.raw == letter or bracketed, bracketed, own_text)
        if _is_option(part, mention):
            found.append(mention)
    return found


def grouped(words: Sequence[str], found: Sequence[Mention]) -> list[list[Mention]]:
    """Mentions listed together ("A, C and D"); a pair joined by a comma only is two."""
    groups: list[list[Mention]] = []
    for position, mention in enumerate(found):
        before = groups[-1][-1] if groups else None
        between = _between(words, before, mention) if before else []
        joined = 0 < len(between) <= 4 and all(
            word in LIST or word in {")", "(", "option"} for word in between
        )
        fresh = bool(groups) and mention.letter not in {one.letter for one in groups[-1]}
        if (
            joined
            and fresh
            and ("," not in between or len(groups[-1]) > 1 or _goes_on(words, found, position))
        ):
            groups[-1].append(mention)
        else:
            groups.append([mention])
    return groups


def _between(words: Sequence[str], before: Mention, mention: Mention) -> Sequence[str]:
    """The words from one mention to the next; where both stand as labels before their own texts, without the text."""
    if before.own_text and mention.own_text:
        return words[before.after - (not words[before.after - 1][0].isalnum()) : mention.at] or ["and"]
    return words[before.at + 1 : mention.at]


def denied_before(words: Sequence[str], at: int, floor: int) -> bool:
    """Whether the words just before a mention speak against it: "not A", "rather than option A", "rules out A"."""
    for i in range(at - 1, max(floor, at - 12) - 1, -1):
        word = words[i]
        if (
            word in {"out", "off"}
            and i
            and words[i - 1] in {"rule", "rules", "ruled", "ruling", "cross", "crossing"}
        ):
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
    if words[after : after + 1] and words[after] in {
        ",",
        ";",
        "rather",
        "instead",
        "not",
        "over",
        "and",
        "or",
        "because",
    }:
        return False
    for i in range(after, min(until, after + 9)):
        word = words[i]
        if i > after and word in STARTERS:
            return False
        if word in AGAINST or word.endswith("n't"):
            twice = any(
                w in AGAINST or w.endswith("n't") for w in words[i + 1 : i + 4] if w not in {"not", "no"}
            )
            return not (twice and (word in {"not", "cannot"} or word.endswith("n't")))
    return False


def excepted(words: Sequence[str], at: int, floor: int, after: Sequence[str]) -> bool | None:
    """Whether a mention is the exception that stays ("all options except B are wrong") or goes ("all but B fit"); None = neither."""
    before = [word for word in words[floor:at] if word not in {"option", "for", "the", "(", '"', "'"}]
    if not before or not (
        before[-1] in _SAVE or before[-2:] in (["other", "than"], ["apart", "from"], ["aside", "from"])
    ):
        return None
    sentence = [*before[-10:], *after]
    scope = next((i for i, word in enumerate(sentence) if word in EVERY | NONE), None)
    if scope is None:
        return None
    others = sentence[:scope] + sentence[scope + 1 :]
    denied = any(word in AGAINST or word in _PUTS_OUT or word.endswith("n't") for word in others)
    return denied if sentence[scope] in EVERY else not denied


def undecided(words: Sequence[str], at: int, until: int) -> bool:
    """Whether a part only asks, supposes, doubts or reports what others say."""
    if words[-1] == "?" or "?" in words[at:until]:
        return True
    for i, word in enumerate(words):
        if word == "if" and _conditional(words, i, at):
            return True
        doubted = word in _DOUBT and (i < at or word == "unless") and words[i + 1 : i + 2] != ["about"]
        if doubted and (word not in _RESOLVED or "," not in words[i:at]):
            return True
        if (
            word in _POSSIBLE
            and i < until
            and not {"only", "most", "other", "all"} & set(words[max(0, i - 2) : i])
        ):
            return True
        if word == "why" and i < at and words[max(0, i - 1)] in {"see", "reason", "know", "understand"}:
            return True
        if word == "sure" and i and (words[i - 1] == "not" or words[i - 1].endswith("n't")):
            return True
        if (
            word in _SPEAKERS
            and words[max(0, i - 1)] != "only"
            and i + 1 < at
            and any(w in _SAYS for w in words[i + 1 : i + 3])
        ):
            return True
    supposed = words[:2] in (["when", "there"], ["in", "case"]) or (
        words[0] in {"had", "were"} and "would" in words
    )
    supposed = (
        supposed or find(words, ["let's", "say"]) != -1 or (words[0] in {"should", "provided"} and at > 2)
    )
    first = find(words, ["first"])
    return supposed or (
        -1 < first < until
        and (words[first - 1] == "at" or words[first + 1 : first + 2] == ["glance"] or 0 < first - at < 3)
    )


def _conditional(words: Sequence[str], i: int, at: int) -> bool:
    if i and (words[i - 1] in _TO_FIND_OUT or words[i - 1] == "because"):
        return False
    if words[i + 1 : i + 3] in (["i", "had"], ["i", "have"], ["i", "must"], ["we", "must"]) or words[
        i + 1 : i + 2
    ] in (
        ["so"],
        ["any"],
        ["forced"],
        ["pressed"],
    ):
        return False
    return i < at or "," not in words[at:i]


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
    return (
        ends
        or mention.own_text
        or after in _AFTER_LETTER
        or (named and mention.letter != "A")
        or _judged(part, i)
    )


def _judged(part: Sequence[Token], i: int) -> bool:
    """Whether a verdict follows at once: "B correct", as languages with a verb before its subject have it; not "A correct placement"."""
    verdict = _word(part, i + 1) in {"correct", "right", "wrong", "incorrect", "false"}
    return verdict and (part[i].raw != "A" or not _word(part, i + 2).isalpha())


def _goes_on(words: Sequence[str], found: Sequence[Mention], position: int) -> bool:
    """Whether a list of letters goes on after this one, or ends the sentence with it."""
    if position + 1 < len(found):
        return all(word in LIST for word in _between(words, found[position], found[position + 1]))
    return not any(
        word[0].isalnum()
        for word in words[found[position].after if found[position].own_text else found[position].at + 1 :]
    )
