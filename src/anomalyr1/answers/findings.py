"""What a reasoning says about the part: whether there is a defect, where it is, and which option's text a sentence states.

Keyword readers with negation over the sentences of `wording`; silent or undecided is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anomalyr1.answers.wording import Token, find, told, word_set
from anomalyr1.types import LETTERS

_DEFECT = word_set("""
    defect defects anomaly anomalies flaw flaws damage damages scratch scratches crack cracks dent dents stain stains contamination
    contaminant contaminants crease creases discoloration discolouration corrosion rust deformation deformity burr burrs fracture
    fractures fissure blemish blemishes imperfection imperfections irregularity irregularities abnormality abnormalities
    misalignment breakage defective damaged scratched cracked dented stained contaminated broken chipped bent torn corroded deformed
    misaligned misplaced faulty abnormal anomalous discolored discoloured rusty warped fractured debris residue deviation deviates
    irregular melted punctured frayed flawed missing incomplete distorted unusual issue issues problem problems wrong fault faults
    error errors smudge smudges burnt burned leak leaking leakage tear inconsistency inconsistencies scuff scuffs disruption
""")
_OBJECTS = word_set("""
    hole holes chip chips mark marks spot spots gap gaps bump bumps fold cut cuts burn line lines break breaks thread threads streak
    protrusion indentation
""")
_CLEAN = word_set("intact flawless undamaged pristine spotless unblemished unbroken")
_FINE = word_set("""
    normal perfect fine clean good properly correctly uniform uniformly consistent expected consistently
""")
_GENERIC = word_set("""
    defect defects anomaly anomalies flaw flaws damage damages defective damaged flawed faulty issue issues problem problems blemish
    blemishes imperfection imperfections irregularity irregularities abnormality abnormalities abnormal anomalous wrong unusual
    fault faults inconsistency inconsistencies deviation
""")
_NO = word_set("""
    no not without never neither nor none cannot nothing absence absent lack lacks lacking devoid free rather instead rules
""")
_TURNS = word_set("""
    but however yet although though while whereas because since so therefore ; except only despite
""")
_OPEN = word_set("""
    if whether check checking look looking inspect inspecting examine examining search determine identify detect any would could
    might may possibly perhaps maybe potential question asks ask asked options option should unsure unclear such unless suppose need
    needs cause causes caused causing prevent type kind
""")
_REGION = word_set("rest other others remaining elsewhere otherwise apart aside")
_VERTICAL = {"top": "top", "bottom": "bottom"}
_SIDEWAYS = {"left": "left", "right": "right"}
_PLACE_WORDS = frozenset({"top", "bottom", "left", "right", "center"})
_SIDE = word_set("""
    side edge half part portion region area end border hand third section corner of quadrant margin rim most
""")
_TURN = word_set("but however yet whereas while although because since so therefore ; : only except instead")
_NEW_CLAUSE = word_set("a an the it there this which i we indicating suggesting")
_LOCATES = word_set("located situated positioned visible it appears found")
_INTRODUCED = word_set("a an visible small there")
_CONCLUDES = word_set("therefore so overall conclusion finally conclude summary")
_JUDGES = word_set("is are looks look appears appear seems seem be in as therefore not")
_VIEW = word_set("""
    light lighting illumination contrast focus quality resolution background backdrop lens camera view exposure reference template idea
    question
""")
_PICTURE = word_set("image images photo picture point shot details information")
_VIEWED = word_set("sample samples template templates reference state conditions position one ones")
_SEEMS = frozenset({"be", "look", "seem", "appear"})
_IS = word_set("is are was were looks look appears appear seems seem")
_SEEN = word_set(
    "seen viewed looks look looking taken shown photographed view captured photo picture image camera"
)
_POINTS = word_set("the far at to : toward towards near upper lower") | _SIDEWAYS.keys() | _VERTICAL.keys()
_GOES_ON = _IS | word_set("has have had shows where which that and or with as there")
_STATES_NOTHING = (
    ["wrong", "to"],
    ["as", "it", "should"],
    ["as", "they", "should"],
    ["where", "it", "should"],
    ["where", "it", "belongs"],
)
_GRADES = _FINE | word_set("bad poor ok okay wrong right")
_ARTICLES = frozenset({"a", "an", "the", "-"})
_YES = frozenset({"yes", "defective", "anomalous", "是", "有"})


def says_defect(reasoning: str) -> bool | None:
    """Whether a reasoning says that there is a defect; None when it is silent or undecided. Never raises.

    A sentence that concludes ("so", "overall", "in conclusion") decides. Otherwise any defect found means
    True, unless a later sentence takes every defect back; "no scratches" alone takes back scratches only, and
    means False when nothing else is found.
    """
    return _says_defect(told(reasoning))


def place(reasoning: str) -> str | None:
    """Where a reasoning puts the defect, one of `types.PLACES`; None when it names no place or two in one sentence. Never raises."""
    located: str | None = None
    fallback: str | None = None
    for sentence in told(reasoning):
        for clause in _clauses(sentence):
            words = [token.word for token in clause]
            found = {one for one, at in _places(words) if not _negated(words, at)}
            if not found or "?" in words or any(word in {"if", "whether"} for word in words):
                continue
            one = found.pop() if len(found) == 1 else None
            if _clause_says(words) is False or any(word in _CLEAN for word in words):
                continue
            if _clause_says(words) or any(w in _LOCATES for w in words):
                located = one
            fallback = one
    return located or fallback


def option_stated(sentence: list[Token], texts: Sequence[list[str]]) -> str | None:
    """The letter of the one option whose text a sentence states, None for none or several, for a question or a supposition.

    The longest of overlapping texts counts. Where the options are a yes and a no, the sentence must decide
    whether there is a defect.
    """
    words = [token.word for token in sentence]
    if "?" in words or any(
        w in {"if", "whether", "unless", "maybe", "perhaps", "initially", "unsure"} for w in words
    ):
        return None
    if any(find(words, phrase) != -1 for phrase in _STATES_NOTHING):
        return None
    yes_no = _yes_no(texts)
    if yes_no is not None:
        said = _yes_or_no(words, sentence)
        return None if said is None else yes_no[said]
    for stem in (_singular, _stem):
        body = [stem(word) for word in words]
        kept = [i for i, word in enumerate(words) if word[0].isalnum() and word not in _ARTICLES]
        hits = [hit for k, text in enumerate(texts) for hit in _statements(body, kept, words, text, k, stem)]
        hits = [hit for hit in hits if _meant(sentence, words, hit[0], texts[hit[2]])]
        hits = [hit for hit in hits if not any(_within(hit, other) for other in hits)]
        named = {hit[2] for hit in hits}
        if named:
            return LETTERS[named.pop()] if len(named) == 1 else None
    return None


def _statements(
    body: list[str], kept: list[int], words: list[str], text: list[str], k: int, stem: Callable[[str], str]
) -> list[tuple[int, int, int]]:
    """(first, last, option) of every place where a sentence states an option's text, not denied."""
    wanted = [stem(word) for word in text if word not in _ARTICLES]
    while len(wanted) > 1 and wanted[0] in {"it", "there", "they"}:
        wanted = wanted[1:]
    if not wanted:
        return []
    line = [body[i] for i in kept]
    found, at = [], find(line, wanted)
    while at != -1:
        first, last = kept[at], kept[at + len(wanted) - 1]
        denied = _negated(words, first) or _taken_back(words, last + 1)
        if not (denied or _longer_place(words, first, last) or _guess(words, first, last)):
            found.append((first, last, k))
        at = find(line, wanted, at + 1)
    return found


def _meant(sentence: list[Token], words: list[str], i: int, text: list[str]) -> bool:
    """Whether an option is said of the part: not "goods", "clear-cut", "left out", "no way", "right now", "in normal light"."""
    if all(word in _PLACE_WORDS or word in _SIDE or word in {"on", "in", "at", "the"} for word in text):
        viewed = "from" in words[max(0, i - 2) : i] and any(word in _SEEN for word in words[:i])
        if viewed or (_clause_says(words) is not True and any(word in _VIEW for word in words)):
            return False
    if len(text) > 1:
        return True
    option = text[0]
    if words[i + 1 : i + 2] in (["question"], ["view"]) or _of_view(
        words[max(0, i - 4) : i], _VIEW | _PICTURE
    ):
        return False
    before = words[max(0, i - 3) : i]
    compound = i > 1 and sentence[i].glued and words[i - 1] == "-"
    if compound or "am" in before:
        return False
    if option in {"yes", "no"}:
        return _stands_alone(words, i)
    if option in _PLACE_WORDS:
        return _place_meant(words, i)
    return option not in _GRADES or (words[i] == option and _verdict(words, i))


def _place_meant(words: list[str], i: int) -> bool:
    """Whether a lone "left" or "top" says where something is: "at the top", "the left side", not "left out"."""
    after = words[i + 1] if i + 1 < len(words) else "."
    ends = not after[0].isalnum() or after in _SIDE
    led = i > 0 and (words[i - 1] in _POINTS or (words[i - 1] == "is" and words[i] not in _SIDEWAYS))
    return (led and (ends or after in _GOES_ON or _clause_says(words))) or (i == 0 and ends)


def _within(hit: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    longer = other[1] - other[0] > hit[1] - hit[0]
    return longer and other[0] <= hit[0] and hit[1] <= other[1]


def _longer_place(words: list[str], first: int, last: int) -> bool:
    """Whether "bottom" was found in "bottom right"."""
    if any(word not in _PLACE_WORDS for word in words[first : last + 1] if word not in _ARTICLES):
        return False
    around = words[max(0, first - 1) : first] + words[last + 1 : last + 2]
    return any(word in _PLACE_WORDS for word in around) or (
        words[last + 1 : last + 2] == ["-"] and words[last + 2 : last + 3] != []
    )


def _guess(words: list[str], at: int, last: int) -> bool:
    before = words[max(0, at - 5) : at]
    if words[last + 1 : last + 2] == ["would"]:
        return True
    seen = any(word in {"seen", "found", "observed", "noticed", "visible"} for word in before)
    return not seen and any(
        before[i] in {"could", "might", "may"} and _SEEMS & set(before[i + 1 : i + 3])
        for i in range(len(before))
    )


def _yes_no(texts: Sequence[list[str]]) -> dict[bool, str] | None:
    """The letters of the yes and the no where two options are just that."""
    if len(texts) != 2 or not all(texts):
        return None
    firsts = [text[0] for text in texts]
    for yes, no in ((0, 1), (1, 0)):
        if (
            firsts[yes] in _YES
            and firsts[no] in {"no", "not", "normal"}
            and len(texts[yes]) < 9
            and len(texts[no]) < 9
        ):
            return {True: LETTERS[yes], False: LETTERS[no]}
    return None


def _yes_or_no(words: list[str], sentence: list[Token]) -> bool | None:
    said = next(
        (word for i, word in enumerate(words) if word in {"yes", "no"} and _stands_alone(words, i)), None
    )
    return _says_defect([sentence]) if said is None else said == "yes"


def _stands_alone(words: list[str], i: int) -> bool:
    """Whether a yes or no is a statement by itself."""
    led = i == 0 or words[i - 1] in {"is", ":", '"', "'", "be", "therefore", "so", ","}
    return led and (i + 1 == len(words) or words[i + 1] in {",", ".", '"', "'", "!", "-"})


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


def _clauses(sentence: list[Token]) -> list[list[Token]]:
    """A sentence cut at turns, and at a comma that opens a new clause."""
    clauses: list[list[Token]] = [[]]
    for i, token in enumerate(sentence):
        follower = sentence[i + 1].word if i + 1 < len(sentence) else ""
        opens = token.word == "," and (follower in _NEW_CLAUSE or follower in {"and", "showing"})
        if (token.word in _TURNS or opens) and clauses[-1]:
            clauses.append([])
        clauses[-1].append(token)
    return clauses


def _negated(words: list[str], at: int) -> bool:
    """Whether a negation before a word reaches it: over lists, not over a turn or a new clause."""
    for i in range(at - 1, max(-1, at - 26), -1):
        word = words[i]
        if word in {"free", "devoid"} and words[i + 1 : i + 2] not in (["of"], ["from"]):
            continue
        if word in {"rather", "instead"} and words[i + 1 : i + 2] not in (["than"], ["of"], ["que"]):
            continue
        if word == "no" and words[i + 1 : i + 2] in (["doubt"], ["longer"], [","]):
            continue
        if word == "not" and words[i + 1 : i + 2] in (["only"], ["just"]):
            continue
        if word in _NO or word.endswith("n't") or (word == "than" and words[i - 1 : i] == ["rather"]):
            return True
        if word in _TURN or (word == "," and words[i + 1] in _NEW_CLAUSE):
            return False
        if word == "and" and words[i + 1] in {"a", "an", "there", "it", "the"}:
            return False
    return False


def _taken_back(words: list[str], after: int) -> bool:
    """Whether the words after a thing deny it: "is not visible", "is absent", "can be ruled out", "- free"."""
    if words[after : after + 1] == ["free"] or words[after : after + 2] == ["-", "free"]:
        return True
    for word in words[after : after + 6]:
        if word in {
            ",",
            ".",
            "but",
            ";",
            "which",
            "because",
            "and",
            "that",
            "rather",
            "instead",
            "or",
            "while",
        }:
            return False
        if word in {
            "not",
            "absent",
            "excluded",
            "ruled",
            "wrong",
            "incorrect",
            "unlikely",
            "eliminated",
            "never",
        } or word.endswith("n't"):
            return True
    return False


def _says_defect(told_sentences: Sequence[list[Token]]) -> bool | None:
    said: bool | None = None
    for sentence in told_sentences:
        concludes = any(token.word in _CONCLUDES for token in sentence[:6])
        for clause in _clauses(sentence):
            words = [token.word for token in clause]
            one = _clause_says(words)
            limited = one is False and said is True and not concludes and not _sweeping(words)
            if one is not None and not limited:
                said = one
    return said


def _sweeping(words: list[str]) -> bool:
    """Whether a clause that finds nothing speaks of every defect and of the whole part, not of "no scratches" or "the rest"."""
    part = any(word in _REGION or word in _SIDEWAYS or word in _VERTICAL for word in words)
    return not part and any(word in _GENERIC or word in _CLEAN or word in _FINE for word in words)


def _clause_says(words: list[str]) -> bool | None:
    """Whether one clause states a defect (True), its absence (False) or nothing (None)."""
    said: bool | None = None
    if "?" in words:
        return None
    for i, word in enumerate(words):
        thing = word in _DEFECT or (
            word in _OBJECTS and any(w in _INTRODUCED for w in words[max(0, i - 3) : i])
        )
        fine = word in _CLEAN or (word in _FINE and _verdict(words, i))
        if not (thing or fine):
            continue
        denied = _negated(words, i) or _taken_back(words, i + 1)
        if not (thing and denied) and any(w in _OPEN for w in words[:i]):
            continue
        if thing:
            said = said or not denied
        elif said is None:
            said = denied
    return said


def _verdict(words: list[str], i: int) -> bool:
    """Whether "good", "fine", "clean" and "normal" judge the part: "is good", "in good condition"; not the light or the template."""
    before = words[max(0, i - 5) : i]
    after = words[i + 1] if i + 1 < len(words) else "."
    named = (
        after in _PICTURE
        or (after in _VIEWED and words[i - 1] != "a")
        or (after in _VIEW and after not in _VIEWED)
    )
    if (
        _of_view(before, _VIEW)
        or named
        or any(word in {"know", "would", "should", "needs", "need"} for word in before)
    ):
        return False
    return any(word in _JUDGES or word.endswith("n't") for word in before)


def _of_view(before: list[str], views: frozenset[str]) -> bool:
    """Whether what is judged after these words is the light, the picture or the template: "the background is", "the reference image is"."""
    return any(
        word in views and _IS & set(before[k + 1 : k + 3]) and "it" not in before[k:]
        for k, word in enumerate(before)
    )


def _places(words: list[str]) -> list[tuple[str, int]]:
    """(place, index of its first word) of every place named."""
    found, i = [], 0
    while i < len(words):
        if words[i] not in _PLACE_WORDS:
            i += 1
            continue
        j, named = i, [words[i]]
        while j + 1 < len(words) and len(named) < 3:
            step = next(
                (k for k in (1, 2, 3, 4) if j + k < len(words) and words[j + k] in _PLACE_WORDS), None
            )
            if step is None or any(
                w not in {"-", "of", "the", "part", "side", "hand", "edge", ","}
                for w in words[j + 1 : j + step]
            ):
                break
            j += step
            named.append(words[j])
        one = _region(named, words, i, j)
        if one is not None:
            found.append((one, i))
        i = j + 1
    return found


def _region(named: list[str], words: list[str], first: int, last: int) -> str | None:
    vertical = next((word for word in named if word in _VERTICAL), None)
    sideways = next((word for word in named if word in _SIDEWAYS), None)
    if (
        vertical is None
        and sideways is not None
        and "center" not in named
        and not _is_side(words, first, last)
    ):
        return None
    if vertical is None and sideways is None:
        return "center"
    return f"{vertical or 'center'} {sideways or 'center'}"


def _is_side(words: list[str], first: int, last: int) -> bool:
    """Whether a lone "left" or "right" is a place: not "what is left", not "the right answer"."""
    after = words[last + 1 : last + 2]
    led = words[max(0, first - 1) : first] in (["the"], ["far"])
    return (
        after == ["-"]
        or (bool(after) and after[0] in _SIDE)
        or (led and not (after and after[0][0].isalpha()))
    )
