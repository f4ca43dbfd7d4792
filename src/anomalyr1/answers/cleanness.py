"""Whether a reasoning says that the part is good, and nothing that is not understood: what "good" must earn.

`findings` reads what a reasoning says, in doubt nothing; here doubt counts against it. Faults of `words.toml`
and many more (`good_words.toml`) must be denied in a way that can be read, letters must be of a script that
is read, and what is seen somewhere must be known to be a normal part of a picture.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from itertools import pairwise

from anomalyr1.answers.clauses import Clause
from anomalyr1.answers.findings import clause_defect, cut_sentence, find_place
from anomalyr1.answers.wording import TAIL_CHARS, Token, sentences, word_list

SILENT = "the reasoning does not say that the part is free of defects"
FOREIGN = "the reasoning holds letters of a script that is not read here"
DISGUISED = "the reasoning holds hidden, spelled-out or altered words"
TOO_LONG = f"the reasoning is longer than the {TAIL_CHARS:,} characters that are read"
FAULT = "the reasoning names what may be a fault"
TWISTED = "the reasoning holds a negation or a reserve that cannot be read"
UNKNOWN = "the reasoning describes something that is not known to be normal"
TURNED = "the reasoning takes back what it says"

_LETTERS_READ = re.compile("LATIN|CJK|HIRAGANA|KATAKANA|FULLWIDTH")
_WHOLE_LATIN = frozenset("ßæœøÆŒØ")
"""Letters that no accent makes of an ASCII letter, and that are written in a language that is read."""
_ACCENTED = re.compile("[\u00c0-\u024f\u1e00-\u1eff]")
_SPELLED = re.compile(r"(?<!\w)(?:[a-z][-._·•|]){2,}[a-z](?!\w)|(?<!\w)(?:[a-zA-Z][ -]){3,}[a-zA-Z](?!\w)")
_ALTERED = re.compile(r"[a-z][@€£¢©®!|+#^~][a-z]|</?\s*(?:answer|think)\b", re.IGNORECASE)
_WITH_DIGITS = re.compile(r"[a-z]+\d[a-z\d]+", re.IGNORECASE)
_DIGITS_AS = str.maketrans("01345", "oieas")
_IS = re.compile(r"\b(it|there|that|this|here|what|everything|nothing)'s\b", re.IGNORECASE)
_BESIDE_IS = re.compile(r"\b(is|are) (?:thus|therefore|hence|also|then)\b", re.IGNORECASE)
_LISTED_NONE = re.compile(r"(?:defect|holes)\s*: (?:none|no|not found)\b", re.IGNORECASE)
"""As a list says it: "Scratches: none"."""
_SEEN = """
there _? (is|are|exists|exist)|(is|are) _? (visible|seen|present|noticeable|apparent|detected|found|located)|
(notice|spot|detect|discover)
"""
_WHOLE = "all|every|everything|both|each|none|complete"
_RESERVED = "(should|would|could|might|may|must) (be|look|appear|have|show|seem)"
_POSSIBLE = "(may|might|could) (be|have|indicate|show|suggest|represent)|perhaps|possibly|maybe|probably"
_ASSERTS = "is|are|was|has|have|had|shows|show|there|see|seen|visible|found|exists|runs"
_COUNTER = "^ (but|however|yet|except|nevertheless|nonetheless|still)"


def doubt_of_clean(reasoning: str, *, may_be_silent: bool = False) -> str:
    """What keeps a reasoning from saying that the part is good, in words; empty when it says so.

    With `may_be_silent` it need not say so, but must hold nothing that speaks against it. Never raises; time
    is linear in the length of the text.
    """
    if len(reasoning) > TAIL_CHARS:
        return TOO_LONG
    text = unicodedata.normalize("NFKC", reasoning)
    problem = _disguise(text)
    cleans, question = 0, None
    for sentence in sentences(_fold(text)):
        # 1. What answers a question with yes or no says what the question says.
        # 2. Each clause must be clean, or known to be nothing else.
        clauses = cut_sentence(sentence)
        problem = problem or _doubt_of_sentence(sentence, clauses, question)
        cleans += sum(map(_is_clean, clauses))
        question = clauses if sentence[-1].word == "?" else None
    return problem or ("" if cleans or may_be_silent else SILENT)


def _disguise(text: str) -> str:
    """What in the letters of a text (NFKC) keeps it from being read."""
    for character in set(text):
        category = unicodedata.category(character)
        if category == "Cf" or (category == "Mn" and character != "\ufe0f"):
            return DISGUISED
        if category[0] == "L" and not _is_read(character):
            return FOREIGN
    altered = (match[0].translate(_DIGITS_AS) for match in _WITH_DIGITS.finditer(text))
    if _SPELLED.search(text) or _ALTERED.search(text) or any("defect" in _fold(word) for word in altered):
        return DISGUISED
    return ""


def _is_read(letter: str) -> bool:
    if letter.isascii() or letter in _WHOLE_LATIN:
        return True
    name = unicodedata.name(letter, "")
    return bool(_LETTERS_READ.match(name)) and ("LATIN" not in name or _bare(letter).isascii())


def _bare(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or text


def _fold(text: str) -> str:
    """A text (NFKC) without accents, its faults and praises as English cues."""
    text = re.sub(r"\bsí\b", "yes", text)  # without its accent "if"
    text = _ACCENTED.sub(lambda letter: _bare(letter[0]), text)
    text = _BESIDE_IS.sub(r"\1", _IS.sub(r"\1 is", text))
    pattern, cues = _cues()
    text = pattern.sub(lambda match: f" {cues[match.lastindex or 0]} ", text)
    return _LISTED_NONE.sub("no defect", text)


def _doubt_of_sentence(sentence: Sequence[Token], clauses: list[Clause], question: list[Clause] | None) -> str:
    """What in a sentence speaks against a good part, in words; `question`: the one right before it."""
    answer = sentence[0].word
    if question is not None and answer in {"yes", "no"}:
        about_fault = any(_names_fault(clause) for clause in question)
        if about_fault != (answer == "no"):
            return FAULT
    whole = Clause([word for clause in clauses for word in clause.words])
    if whole.holds("<question>"):
        return ""
    explained = whole.holds("<natural>")
    sought = whole.holds("<sought>") and not whole.holds(_POSSIBLE)
    named = False
    for number, clause in enumerate(clauses):
        listed = sought and number > 0 and not clause.holds(_ASSERTS)
        problem = "" if listed else _doubt_of_clause(clause, explained, sought, named)
        if problem:
            return problem
        named = named or _names_fault(clause)
    words = [token.raw.lower() for token in sentence if token.raw[0].isascii() and token.raw[0].isalpha()]
    foreign = len(words) >= 5 and not word_list("function_words").intersection(words)
    return UNKNOWN if foreign and not any(map(_names_fault, clauses)) else ""


def _doubt_of_clause(clause: Clause, explained: bool, sought: bool, named: bool) -> str:
    """What in a clause speaks against a good part; whether its sentence says what is normal, or is sought."""
    statement = clause_defect(clause)
    fault = "defect" in clause.words
    if statement is True and (fault or not explained):
        return FAULT
    if statement is None and fault and not explained and not sought:
        return FAULT
    if (statement is False and clause.holds("<tricky>")) or clause.holds(f"({_RESERVED}) _{{0,3}} (<clean>|<fine>|free)"):
        return TWISTED
    if not (named or _negators_are_readable(clause)):
        return TWISTED
    if statement is False or explained or sought:
        return ""
    if clause.holds(_COUNTER):
        return TURNED
    somewhere = clause.holds(_SEEN) or find_place([[clause]]) is not None
    return UNKNOWN if somewhere and not clause.holds(f"(<normal_parts>|{_WHOLE})") else ""


def _is_clean(clause: Clause) -> bool:
    """Whether a clause in which nothing is wrong praises the part, or denies a fault."""
    denies = clause.holds("<negators>") and _names_fault(clause)
    return clause_defect(clause) is False or (denies and not clause.holds("<question>"))


def _names_fault(clause: Clause) -> bool:
    return any(_is_fault(word) for word in clause.words)


def _is_fault(word: str) -> bool:
    return word in word_list("defect") or word in word_list("may_be_fault")


def _negators_are_readable(clause: Clause) -> bool:
    """Whether each negation denies a fault, or is a mere answer."""
    starts = [start for start, _ in clause.runs("<negators>")]
    for start, end in pairwise([*starts, len(clause.words)]):
        denied = clause.words[start + 1 : end]
        if not denied or not denied[0][0].isalnum():
            continue
        if not any(map(_is_fault, denied)) and not any(map(_is_fault, clause.words[:start])):
            return False
    return True


@lru_cache(maxsize=1)
def _cues() -> tuple[re.Pattern[str], list[str]]:
    """What to seek in a text, the longest first, and the cue that each of the pattern's groups becomes."""
    table = tomllib.loads(resources.files(__package__).joinpath("good_words.toml").read_text(encoding="utf-8"))
    cues = {
        entry.strip(): cue
        for cue, languages in table["becomes"].items()
        for entry in "|".join(languages.values()).split("|")
    }
    longest_first = sorted(cues, key=len, reverse=True)
    pattern = "|".join(f"({_expression(entry)})" for entry in longest_first)
    return re.compile(pattern, re.IGNORECASE), ["", *(cues[entry] for entry in longest_first)]


def _expression(entry: str) -> str:
    """An entry of `good_words.toml` as a regular expression."""
    expression = re.escape(entry).replace(r"\ ", "[ -]").replace(r"\*", r"\w*")
    return rf"\b{expression}\b" if entry.isascii() else expression
