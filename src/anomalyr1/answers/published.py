"""The readers and the reward of two published systems, quirks included, to check published numbers with.

Known to misread ("Answer: C" as A, "B. A crack" as A, the article "A" as a choice): use `answers.parse` for
everything else. Rewritten from their behaviour; the tests hold recorded input and output pairs of the
published functions.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

from anomalyr1.types import LETTERS

FUZZY_CHARS = 4000
"""MMAD's fuzzy fallback is quadratic without a limit; here it sees the first characters only, which is the
one deviation."""

_CAPITALS = "ABCD"
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz")
_CUES = (
    "答案", "选择", "正确", "是", "对", "认为", "应该", "觉得",
    "ANSWER", "CORRECT", "CHOOSE", "SELECT", "RIGHT", "THINK", "BELIEVE", "SHOULD",
)  # fmt: skip
_STOPS = "。.!！,，"


def read_letter(text: str) -> str | None:
    """The choice that AnomalyR1's released reward reads; of a text under 3 characters any first character.

    Source: chaoyuhao/AnomalyR1 at de3f95c, `extract_choice`. Linear time.
    """
    text = _one_space(text)
    if len(text) < 3:
        kept = [char for char in text if char.isalnum() or char == "_" or char.isspace()]
        return kept[0] if kept else None
    capitals = _free_capitals(text)
    if not capitals:
        return None
    if len(set(capitals)) == 1:
        return capitals[0]
    counts = Counter(capitals)  # keeps the order of first occurrence, which decides ties
    score = {letter: count * _context_score(text, text.rfind(letter)) for letter, count in counts.items()}
    return max(score, key=score.__getitem__)


def read_evaluation(text: str, options: Sequence[str]) -> str | None:
    """The letter that AnomalyR1's released evaluation reads: the first capital A-E in the answer tags.

    Source: chaoyuhao/AnomalyR1 at de3f95c, `eval/thinkad_query.py`; its "X" is None here.
    """
    opened, closed = text.rfind("<answer>"), text.rfind("</answer>")
    inside = text[opened + len("<answer>") : closed].strip() if -1 < opened < closed else ""
    for char in inside:
        if char in "ABCDE":
            return char
    lowered = inside.lower()
    return next(
        (LETTERS[i] for i, option in enumerate(options) if inside and option.lower() in lowered), None
    )


def read_mmad(text: str, options: Sequence[str]) -> str | None:
    """The letter that MMAD's own evaluation reads: the last lone A-E, else the option closest in spelling.

    Source: jam-cc/MMAD at bad03b4, the Qwen2.5-VL script. None only without options.
    """
    for i in range(len(text) - 1, -1, -1):
        if text[i] in "ABCDE" and not _is_word(text[i - 1 : i]) and not _is_word(text[i + 1 : i + 2]):
            return text[i]
    closest = difflib.get_close_matches(text[:FUZZY_CHARS], list(options), n=1, cutoff=0.0)
    return LETTERS[list(options).index(closest[0])] if closest else None


def roam(completion: str, gold: str) -> float:
    """The released ROAM of a completion, 0..1.

    Source: chaoyuhao/AnomalyR1 at de3f95c, `roam_reward`. The gate is one pair of tags; the values come from
    the last elements anywhere. Linear time, where the published expression is quadratic.
    """
    if not _passes_gate(completion):
        return 0.0
    thought, answer = last_element(completion, "think"), last_element(completion, "answer")
    t = read_letter(thought.strip()) if thought is not None else None
    a = read_letter(answer.strip()) if answer is not None else None
    if t is None:
        return 0.0 if a is None else 0.8 if a == gold else 0.05
    if t == gold and a == gold:
        return 1.0
    return 0.1 if t == a else 0.0


def last_element(text: str, tag: str) -> str | None:
    """The inside of the last of the shortest elements `<tag>..</tag>`, None without any."""
    opening, closing, at, inside = f"<{tag}>", f"</{tag}>", 0, None
    while (start := text.find(opening, at)) != -1:
        end = text.find(closing, start + len(opening))
        if end == -1:
            break
        inside, at = text[start + len(opening) : end], end + len(closing)
    return inside


def _passes_gate(text: str) -> bool:
    """Whether `<think>`, `</think>`, blanks, `<answer>`, `</answer>` follow, with text between."""
    start, end = text.find("<think>"), text.rfind("</answer>")
    at = text.find("</think>", start + len("<think>")) if start != -1 else -1
    while at != -1:
        at += len("</think>")
        while at < len(text) and text[at].isspace():
            at += 1
        if text.startswith("<answer>", at) and at + len("<answer>") <= end:
            return True
        at = text.find("</think>", at)
    return False


def _one_space(text: str) -> str:
    """Every run of blanks as one space, at the ends too."""
    body = " ".join(text.split())
    if not body:
        return " " if text else ""
    return " " * text[0].isspace() + body + " " * text[-1].isspace()


def _free_capitals(text: str) -> list[str]:
    return [
        char
        for i, char in enumerate(text)
        if char in _CAPITALS and text[i - 1 : i] not in _LOWER and text[i + 1 : i + 2] not in _LOWER
    ]


def _context_score(text: str, at: int) -> int:
    window = text[max(0, at - 20) : at + 20]
    score = sum(cue in window for cue in _CUES)
    score += 2 * (at > len(text) * 0.7)
    return score + (text[at + 1 : at + 2] != "" and text[at + 1] in _STOPS)


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"
