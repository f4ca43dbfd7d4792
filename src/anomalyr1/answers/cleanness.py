"""Whether a reasoning says that the part is good, and nothing that is not understood: so "good" is earned.

`findings` reads what a reasoning says and is silent in doubt; here doubt counts against the part. Letters
must be of a script that is read. The faults of `words.toml` and many more (`good_words.toml`) must be denied,
in a way that can be read. What is said to be somewhere must be known as a normal part of a picture. So a
fault that no list names is found where a sentence is built around it. A denial that is hearsay, a guess,
half or taken back earns nothing (`perhaps defect` and `aside_of` in the tables).

Not covered: a fault that is put as a plain description ("the image shows a nibbled plate") beside "no defect
is visible", and a reserve in words that no list has ("no defect is visible, says the janitor").
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Sequence
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

_ACCENTS_READ = frozenset("àáâäæçèéêëíîïñóôöùúûüýÿœß")
"""Those of German, French and Spanish."""
_SCRIPTS_READ = re.compile("CJK|HIRAGANA|KATAKANA|FULLWIDTH")
"""How the names of other letters begin."""
_EMOJI_FORM = "\ufe0f"
_ACCENTED = re.compile("[\u00c0-\u024f\u1e00-\u1eff]")
_SPELLED = re.compile(r"(?<!\w)(?:[a-z][-._·•|]){2,}[a-z](?!\w)|(?<!\w)(?:[a-zA-Z][ -]){3,}[a-zA-Z](?!\w)")
"""A word in single letters: "c-r-a-c-k"."""
_ALTERED = re.compile(r"[a-z][@€£¢©®!|+#^~][a-z]|</?\s*(?:answer|think)\b|\[/?INST|<\|", re.IGNORECASE)
_WITH_DIGITS = re.compile(r"[a-z]+\d[a-z\d]+", re.IGNORECASE)
_DIGITS_AS = str.maketrans("01345", "oieas")
_INITIAL = re.compile(r"\b[a-z]|[^\W\d_a-z]", re.IGNORECASE)
"""The first letter of a word, or any letter of writing without blanks."""
_IS = re.compile(r"\b(it|there|that|this|here|what|everything|nothing)'s\b", re.IGNORECASE)
_BESIDE_IS = re.compile(r"\b(is|are) (?:thus|therefore|hence|also|then)\b", re.IGNORECASE)
_LISTED = re.compile(r"defect\s*[、，や](?=\s*defect)")
_LISTED_NONE = re.compile(r"(?:defect|holes)\s*: (?:none|no|not found)\b", re.IGNORECASE)
"""As a list says it: "Scratches: none"."""


def doubt_of_clean(reasoning: str, *, may_be_silent: bool = False) -> str:
    """What keeps a reasoning from saying that the part is good, in words; empty when it says so.

    With `may_be_silent` it need not say so, but must hold nothing that speaks against it. Never raises; time
    is linear in the length of the text.
    """
    # 1. The letters.
    if len(reasoning) > TAIL_CHARS:
        return TOO_LONG
    text = unicodedata.normalize("NFKC", reasoning)
    doubt = _doubt_of_letters(text)
    # 2. Every sentence, with what was named or asked right before it.
    says_clean, before = False, list[Clause]()
    for sentence in sentences(_fold(text)):
        clauses = cut_sentence(sentence)
        doubt = doubt or _doubt_of_sentence(sentence, clauses, before)
        says_clean = says_clean or any(map(_earns, clauses)) or _denies_all(clauses, before)
        before = clauses
    # 3. A question that is left open, and silence.
    if _asks_for_fault(before):
        doubt = doubt or FAULT
    return doubt or ("" if says_clean or may_be_silent else SILENT)


def _doubt_of_letters(text: str) -> str:
    """What in the letters of a text (NFKC) keeps it from being read."""
    for character in set(text):
        category = unicodedata.category(character)
        if category == "Cf" or (category[0] == "M" and character != _EMOJI_FORM):
            return DISGUISED
        if category[0] == "L" and not _is_read(character):
            return FOREIGN
    altered = (match[0].translate(_DIGITS_AS) for match in _WITH_DIGITS.finditer(text))
    if _SPELLED.search(text) or _ALTERED.search(text) or any("defect" in _fold(word) for word in altered):
        return DISGUISED
    return ""


def _is_read(letter: str) -> bool:
    known = letter.isascii() or letter.lower() in _ACCENTS_READ
    return known or _SCRIPTS_READ.match(unicodedata.name(letter, "")) is not None


def _doubt_of_sentence(sentence: Sequence[Token], clauses: list[Clause], before: Sequence[Clause]) -> str:
    """What in a sentence speaks against a good part, in words; `before`: the clauses of the one before it."""
    # 1. A question says nothing; yes or no right after it says what it asks.
    if any(clause.holds("<question>") for clause in clauses):
        return ""
    if any(clause.holds("<question>") for clause in before):
        denied = sentence[0].word == "no" or any(map(_is_clean, clauses))
        if _asks_for_fault(before) != denied or sentence[0].word == "yes":
            return FAULT
    # 2. Each clause.
    whole = Clause([word for clause in clauses for word in clause.words])
    explained = whole.holds("<natural>")
    sought = whole.holds("<sought>") and not whole.holds("<supposed>")
    named = _denies_all(clauses, before)
    for number, clause in enumerate(clauses):
        listed = (
            sought and number > 0 and not clause.holds("<asserts>")
        )  # "I look for cracks, a dent, or dirt"
        doubt = "" if listed else _doubt_of_clause(clause, explained, sought, named)
        if doubt:
            return doubt
        named = named or _names_fault(clause)
    # 3. The language.
    words = [token.raw.lower() for token in sentence if token.raw[0].isascii() and token.raw[0].isalpha()]
    read = any(_names_fault(clause) or _is_clean(clause) for clause in clauses)
    return "" if read or len(words) < 4 or word_list("function_words").intersection(words) else UNKNOWN


def _doubt_of_clause(clause: Clause, explained: bool, sought: bool, named: bool) -> str:
    """What in a clause speaks against a good part, in words.

    Its sentence says what is normal (`explained`), names faults to look for (`sought`), and has named a fault
    before the clause (`named`).
    """
    statement, fault = clause_defect(clause), "defect" in clause.words
    if statement is True and (fault or not (explained or clause.holds("<fitted>"))):
        return FAULT
    if statement is None and fault and not explained and not sought:
        return FAULT
    praises = statement is False or clause.holds("(<clean>|<fine>)")
    if (praises and clause.holds("<tricky>")) or clause.holds("<reserve>"):
        return TWISTED
    if not (named or _negations_deny_faults(clause)):
        return TWISTED
    if explained or sought or _is_clean(clause):
        return ""
    if clause.holds("<counter>"):
        return TURNED
    normal = clause.holds("(<normal_parts>|<sound>|<all_of_them>)") and not clause.holds("<suspect>")
    somewhere = clause.holds("<existence>") or find_place([[clause]]) is not None
    return UNKNOWN if somewhere and not (normal or clause.holds("<fitted>")) else ""


def _denies_all(clauses: Sequence[Clause], before: Sequence[Clause]) -> bool:
    """Whether a sentence denies the faults that the one before it names: "None of them is visible."."""
    return bool(clauses) and clauses[0].holds("<none_of_them>") and any(map(_names_fault, before))


def _asks_for_fault(clauses: Sequence[Clause]) -> bool:
    return any(clause.holds("<question>") for clause in clauses) and any(map(_names_fault, clauses))


def _earns(clause: Clause) -> bool:
    """Whether a clause praises the part as it is, all of it: not "the background is clean"."""
    return _is_clean(clause) and not clause.holds("<aside_of>")


def _is_clean(clause: Clause) -> bool:
    """Whether a clause praises the part or denies a fault."""
    denies = clause.holds("<negators>") and _names_fault(clause) and not clause.holds("<question>")
    return clause_defect(clause) is False or denies


def _names_fault(clause: Clause) -> bool:
    return any(map(_is_fault, clause.words))


def _is_fault(word: str) -> bool:
    return word in word_list("defect") or word in word_list("deniable")


def _negations_deny_faults(clause: Clause) -> bool:
    """Whether each negation denies a fault, or is a mere answer: not "the cap is not seated"."""
    starts = [start for start, _ in clause.runs("<negators>")]
    for start, end in pairwise([*starts, len(clause.words)]):
        in_list = clause.words[start] in {
            "no",
            "nor",
            "neither",
            "without",
            "none",
        }  # "neither dents nor cracks"
        denied = clause.words[start + 1 : None if in_list else end]
        is_answer = not denied or not denied[0][0].isalnum()
        if not is_answer and not any(map(_is_fault, [*clause.words[:start], *denied])):
            return False
    return True


def _fold(text: str) -> str:
    """A text (NFKC) without accents, with its faults and praises as the English cues of `findings`."""
    text = re.sub(r"\b[Ss]í\b", "yes", text)  # without its accent "if"
    text = _ACCENTED.sub(lambda letter: _without_accent(letter[0]), text)
    text = _BESIDE_IS.sub(r"\1", _IS.sub(r"\1 is", text))
    return _LISTED_NONE.sub("no defect", _LISTED.sub("", _with_cues(text)))


def _without_accent(letter: str) -> str:
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or letter


def _with_cues(text: str) -> str:
    """A text with the cues of `good_words.toml` in place of its words."""
    cues = _cues()
    pieces, end = [], 0
    for initial in _INITIAL.finditer(text):
        start = initial.start()
        if start < end:
            continue
        for expression, cue in cues.get(initial[0].lower(), ()):
            match = expression.match(text, start)
            if match:
                pieces += [text[end:start], f" {cue} "]
                end = match.end()
                break
    return "".join([*pieces, text[end:]])


@lru_cache(maxsize=1)
def _cues() -> dict[str, list[tuple[re.Pattern[str], str]]]:
    """The entries of `good_words.toml` by their first letter, the longest first, each with its cue."""
    file = resources.files(__package__).joinpath("good_words.toml")
    cue_by_entry = {
        entry.strip(): cue
        for cue, languages in tomllib.loads(file.read_text(encoding="utf-8"))["becomes"].items()
        for entry in "|".join(languages.values()).split("|")
    }
    cues: dict[str, list[tuple[re.Pattern[str], str]]] = {}
    for entry in sorted(cue_by_entry, key=len, reverse=True):
        expression = re.escape(entry).replace(r"\ ", "[ -]").replace(r"\*", r"\w*")
        pattern = re.compile(rf"{expression}\b" if entry.isascii() else expression, re.IGNORECASE)
        cues.setdefault(entry[0], []).append((pattern, cue_by_entry[entry]))
    return cues
