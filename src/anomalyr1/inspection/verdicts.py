"""Answers -> a verdict, fail-safe: reasoning, answer, boxes and score are checked against each other.

The verdict is "good" or "defect" only when all of them could be read and none contradicts another; everything
else is "unsure", with the contradiction named. Of several samples each comes to its own verdict, and more
than half of all must agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from anomalyr1.answers.findings import says_defect
from anomalyr1.boxes import set_iou, to_array
from anomalyr1.types import PLACES, Answer, Box, Question, Reply, Verdict, Votes

DEFECT, GOOD = "A", "B"
"""The options of `prompts.VERDICT_OPTIONS`."""
FAST = "probability of option A in one forward pass without reasoning"
REASONED = "probability of option A after the model's own reasoning"


class Opinion(NamedTuple):
    """What the replies about one sample amount to."""

    verdict: Verdict
    reason: str
    boxes: tuple[Box, ...] | None
    score: float | None
    score_from: str
    """How the score was made; empty where there is none."""
    votes: Votes | None = None


def conclude(verdicts: Sequence[Reply], groundings: Sequence[Reply], size_wh: tuple[int, int]) -> Opinion:
    """The verdict of K replies to each of the two questions; the n-th of one and of the other are a sample together.

    Without groundings (a reply without reasoning has no boxes) the one verdict stands by itself.
    """
    score, score_from = _score(verdicts, fast=not groundings)
    if not groundings:
        verdict, reason = _alone(verdicts[0], score)
        return Opinion(verdict, reason, None, score, score_from)
    samples = list(zip(verdicts, groundings, strict=True))
    decided = [
        decide(
            first.answer, second.answer, cut_off="length" in (first.finish, second.finish), size_wh=size_wh
        )
        for first, second in samples
    ]
    votes = None
    if len(samples) == 1:
        chosen, (verdict, reason) = 0, decided[0]
    else:
        found = [second.answer.boxes for _, second in samples]
        votes = Votes(
            verdicts=dict(sorted(Counter(one for one, _ in decided).items())), box_stability=_stability(found)
        )
        verdict, chosen = _majority([one for one, _ in decided], found)
        reason = _voted(verdict, decided[chosen][1], votes)
    problem = against_score(verdict, score)
    if problem:
        verdict, reason = "unsure", _unsure(problem, reason)
    return Opinion(verdict, reason, samples[chosen][1].answer.boxes, score, score_from, votes)


def defect_letter(question: Question) -> str | None:
    """The option of a yes/no question that says "defect"; None when no option says yes."""
    plain = [option.strip().casefold().rstrip(".") for option in question.options]
    return question.letters[plain.index("yes")] if "yes" in plain else None


def of_questions(questions: Sequence[Question], replies: Sequence[Reply]) -> Opinion:
    """What a sample's own questions and their replies amount to: the verdict of its yes/no question, the boxes of its grounding.

    Unlike `conclude`, nothing is checked against anything else: evaluation wants to see each answer as it is.
    """
    asked = list(zip(questions, replies, strict=True))
    boxes = next((reply.answer.boxes for question, reply in asked if question.kind == "grounding"), None)
    for question, reply in asked:
        letter = defect_letter(question) if question.kind == "anomaly detection" else None
        if letter is None:
            continue
        score = reply.option_scores.get(letter) if reply.option_scores else None
        score_from = "" if score is None else f"probability of option {letter}"
        if reply.answer.choice is None:
            return Opinion(
                "unsure",
                _unsure("the verdict could not be read", reply.answer.reasoning),
                boxes,
                score,
                score_from,
            )
        verdict: Verdict = "defect" if reply.answer.choice == letter else "good"
        return Opinion(verdict, reply.answer.reasoning, boxes, score, score_from)
    return Opinion("unsure", _unsure("its questions ask for no verdict", ""), boxes, None, "")


def decide(
    verdict: Answer, grounding: Answer, cut_off: bool = False, size_wh: tuple[int, int] | None = None
) -> tuple[Verdict, str]:
    """The verdict of the two answers of one sample, and why; "unsure" unless they agree. `size_wh` is the original image's."""
    reasoning = verdict.reasoning or grounding.reasoning
    problem = "a reply was cut off before its end" if cut_off else disagreement(verdict, grounding, size_wh)
    if problem:
        return "unsure", _unsure(problem, reasoning)
    return ("defect" if verdict.choice == DEFECT else "good"), reasoning


def disagreement(verdict: Answer, grounding: Answer, size_wh: tuple[int, int] | None = None) -> str:
    """What keeps two answers from making a verdict, in words; empty when they agree."""
    if verdict.status == "unparseable" or verdict.choice not in (DEFECT, GOOD):
        return "the verdict could not be read"
    if verdict.conclusion not in (None, verdict.choice):
        return f"the reasoning concludes {verdict.conclusion} but the answer is {verdict.choice}"
    defect = verdict.choice == DEFECT
    said = "defect" if defect else "good"
    if verdict.says_defect not in (None, defect):
        return f"the reasoning {'finds a defect' if verdict.says_defect else 'finds no defect'}, but the answer says {said}"
    if grounding.status == "unparseable" or grounding.boxes is None:
        return f"the answer says {said}, but the boxes could not be read"
    drawn = len(grounding.boxes)
    if grounding.says_defect not in (None, drawn > 0):
        found = "finds a defect" if grounding.says_defect else "finds no defect"
        return f"the reasoning about the place {found}, but {_boxes(drawn)} drawn"
    if defect != (drawn > 0):
        return f"the answer says {said}, but {_boxes(drawn)} drawn"
    if not defect and any(_defect_outside_reasoning(answer) for answer in (verdict, grounding)):
        return "the answer says good, but the text around it finds a defect"
    return _misplaced(verdict, grounding, size_wh)


def against_score(verdict: Verdict, score: float | None) -> str:
    """How the anomaly score contradicts a verdict, in words; empty when it does not."""
    if score is None or verdict == "unsure" or score == 0.5 or (score > 0.5) == (verdict == "defect"):
        return ""
    return f"the answer says {verdict}, but the probability of a defect is {score:.2f}"


def _misplaced(verdict: Answer, grounding: Answer, size_wh: tuple[int, int] | None) -> str:
    """How the boxes lie elsewhere than a reasoning says, in words.

    Milder than the reward, which wants the centre of the largest box there: a box beside the border of two
    regions is no contradiction.
    """
    for answer, about in ((grounding, " about the place"), (verdict, "")):
        place = answer.place
        if (
            size_wh
            and place
            and grounding.boxes
            and not any(_touches(box, place, size_wh) for box in grounding.boxes)
        ):
            return f"the reasoning{about} puts the defect in the {place}, but no box touches it"
    return ""


def _touches(box: Box, place: str, size_wh: tuple[int, int]) -> bool:
    """Whether a box reaches into one of the 3 x 3 regions of an image."""
    row, column = divmod(PLACES.index(place), 3)
    width, height = size_wh[0] / 3, size_wh[1] / 3
    across = box.x1 < (column + 1) * width and box.x2 > column * width
    return across and box.y1 < (row + 1) * height and box.y2 > row * height


def _defect_outside_reasoning(answer: Answer) -> bool:
    """Whether a completion that did not keep the form says in any of its text that there is a defect."""
    loose = answer.status != "strict" or "text_outside_tags" in answer.counts
    return loose and says_defect(answer.raw) is True


def _score(verdicts: Sequence[Reply], fast: bool) -> tuple[float | None, str]:
    """The mean probability of a defect over the replies that have one, and how it was made."""
    known = [reply.option_scores[DEFECT] for reply in verdicts if reply.option_scores]
    if not known:
        return None, ""
    how = FAST if fast else REASONED
    if len(verdicts) > 1:
        how = f"mean of {len(known)} of {len(verdicts)} samples: {how}"
    return sum(known) / len(known), how


def _alone(reply: Reply, score: float | None) -> tuple[Verdict, str]:
    """The verdict of a reply without reasoning."""
    if reply.answer.choice not in (DEFECT, GOOD) or score is None:
        return "unsure", _unsure("the verdict could not be read", "")
    reason = f"Without reasoning: the probability of a defect is {score:.2f}."
    return ("defect" if reply.answer.choice == DEFECT else "good"), reason


def _majority(verdicts: Sequence[Verdict], boxes: Sequence[tuple[Box, ...] | None]) -> tuple[Verdict, int]:
    """What more than half of the samples say, else "unsure"; and the sample that says so whose boxes are most like the others'."""
    winner, count = Counter(verdicts).most_common(1)[0]
    agreed: Verdict = winner if 2 * count > len(verdicts) else "unsure"
    speakers = [i for i, one in enumerate(verdicts) if one == winner]
    return agreed, max(speakers, key=lambda i: (_likeness(i, speakers, boxes), -i))


def _likeness(i: int, others: Sequence[int], boxes: Sequence[tuple[Box, ...] | None]) -> float:
    """The summed set IoU of a sample's boxes with the others'; -1 where it has none to compare."""
    own = boxes[i]
    return (
        -1.0
        if own is None
        else sum(_same(own, other) for k in others if k != i and (other := boxes[k]) is not None)
    )


def _stability(boxes: Sequence[tuple[Box, ...] | None]) -> float | None:
    pairs = list(combinations([one for one in boxes if one is not None], 2))
    return sum(_same(one, other) for one, other in pairs) / len(pairs) if pairs else None


def _same(one: Sequence[Box], other: Sequence[Box]) -> float:
    return set_iou(to_array(one), to_array(other))


def _voted(verdict: Verdict, reason: str, votes: Votes) -> str:
    """The reason of a vote: how it went, then what the chosen sample reasons."""
    tally = ", ".join(f"{n} {name}" for name, n in votes.verdicts.items())
    if verdict == "unsure":
        return _unsure(f"of {votes.samples} samples too few agree on a verdict ({tally})", reason)
    return f"{votes.verdicts[verdict]} of {votes.samples} samples say {verdict}.\n{reason}".strip()


def _unsure(problem: str, reasoning: str) -> str:
    return f"Unsure because {problem}." + (f"\n{reasoning}" if reasoning else "")


def _boxes(n: int) -> str:
    return {0: "no box was", 1: "a box was"}.get(n, f"{n} boxes were")
