"""Answers -> a verdict, fail-safe: reasoning, answer, boxes and score are checked against each other.

The verdict is "good" or "defect" only when all of them could be read and none contradicts another; everything
else is "unsure", with the contradiction named. "Good" must be earned besides: both completions keep the form,
with nothing beside the answer, and the reasoning says in words that are understood that the part is good. Of
several samples each comes to its own verdict, and more than half of all must agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from anomalyr1.answers.cleanness import doubt_of_clean
from anomalyr1.boxes import set_iou, to_array
from anomalyr1.prompts import DEFECT_LETTER, GOOD_LETTER
from anomalyr1.types import PLACES, Answer, Box, Question, Reply, Verdict, Votes

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
    only_boxes_lack: bool = False
    """Whether the verdict would be "defect" if its boxes could be read: what a threshold does without."""


def conclude(
    yes_no_replies: Sequence[Reply], box_replies: Sequence[Reply], size_wh: tuple[int, int]
) -> Opinion:
    """The verdict of K replies to each of the two questions; the n-th of both are a sample together.

    Without box replies (a reply without reasoning has no boxes) the one verdict stands by itself. `size_wh`
    is the original image's.
    """
    score, score_from = _score(yes_no_replies, fast=not box_replies)
    if not box_replies:
        verdict, reason = _fast_verdict(yes_no_replies[0], score)
        return Opinion(verdict, reason, None, score, score_from)
    # 1. Each sample comes to a verdict of its own.
    pairs = list(zip(yes_no_replies, box_replies, strict=True))
    decisions = [
        decide(judged.answer, located.answer, "length" in (judged.finish, located.finish), size_wh)
        for judged, located in pairs
    ]
    boxes = [located.answer.boxes for located in box_replies]
    # 2. Of several samples more than half must agree.
    votes, speaker = None, 0
    verdict, reason = decisions[0]
    if len(decisions) > 1:
        votes = _count_votes([vote for vote, _ in decisions], boxes)
        verdict, speaker = _majority([vote for vote, _ in decisions], boxes)
        reason = _vote_reason(verdict, decisions[speaker][1], votes)
    lacking = [_only_boxes_lack(judged, located) for judged, located in pairs]
    defects = sum(lack or vote == "defect" for lack, (vote, _) in zip(lacking, decisions, strict=True))
    only_boxes_lack = verdict == "unsure" and any(lacking) and 2 * defects > len(decisions)
    # 3. The score must not contradict the verdict.
    problem = against_score(verdict, score)
    if problem:
        verdict, reason = "unsure", unsure_because(problem, reason)
    return Opinion(verdict, reason, boxes[speaker], score, score_from, votes, only_boxes_lack)


def defect_letter(question: Question) -> str | None:
    """The option of a yes/no question that says "defect"; None when no option says yes."""
    plain = [option.strip().casefold().rstrip(".") for option in question.options]
    return question.letters[plain.index("yes")] if "yes" in plain else None


def of_questions(questions: Sequence[Question], replies: Sequence[Reply]) -> Opinion:
    """What a sample's own questions and their replies amount to.

    The verdict of its yes/no question, the boxes of its grounding. Unlike `conclude`, nothing is checked
    against anything else: evaluation wants to see each answer as it is.
    """
    pairs = list(zip(questions, replies, strict=True))
    boxes = next((reply.answer.boxes for question, reply in pairs if question.kind == "grounding"), None)
    for question, reply in pairs:
        letter = defect_letter(question) if question.kind == "anomaly detection" else None
        if letter is not None:
            return _yes_no_opinion(reply, letter, boxes)
    return Opinion("unsure", unsure_because("its questions ask for no verdict"), boxes, None, "")


def decide(yes_no: Answer, grounding: Answer, cut_off: bool, size_wh: tuple[int, int]) -> tuple[Verdict, str]:
    """The verdict of the two answers of one sample, and why; "unsure" unless they agree.

    `size_wh` is the original image's.
    """
    reasoning = yes_no.reasoning or grounding.reasoning
    problem = "a reply was cut off before its end" if cut_off else disagreement(yes_no, grounding, size_wh)
    if problem:
        return "unsure", unsure_because(problem, reasoning)
    return ("defect" if yes_no.choice == DEFECT_LETTER else "good"), reasoning


def disagreement(yes_no: Answer, grounding: Answer, size_wh: tuple[int, int]) -> str:
    """What keeps two answers from making a verdict, in words; empty when they agree."""
    # 1. The verdict's own reasoning and answer.
    problem = _own_contradiction(yes_no)
    if problem:
        return problem
    defect = yes_no.choice == DEFECT_LETTER
    answer_says = f"the answer says {'defect' if defect else 'good'}"
    # 2. The grounding's own reasoning and boxes.
    if grounding.status == "unparseable" or grounding.boxes is None:
        return f"{answer_says}, but the boxes could not be read"
    boxes = len(grounding.boxes)
    if grounding.says_defect not in (None, boxes > 0):
        return f"the reasoning about the place {_finding(grounding.says_defect)}, but {_boxes(boxes)} drawn"
    # 3. One against the other.
    if defect != (boxes > 0):
        return f"{answer_says}, but {_boxes(boxes)} drawn"
    return _misplaced(yes_no, grounding, size_wh) if defect else _unearned(yes_no, grounding)


def _own_contradiction(yes_no: Answer) -> str:
    """What keeps the answer to the yes/no question from being read by itself, in words."""
    if yes_no.status == "unparseable" or yes_no.choice not in (DEFECT_LETTER, GOOD_LETTER):
        return "the verdict could not be read"
    if yes_no.conclusion not in (None, yes_no.choice):
        return f"the reasoning concludes {yes_no.conclusion} but the answer is {yes_no.choice}"
    defect = yes_no.choice == DEFECT_LETTER
    answer_says = f"the answer says {'defect' if defect else 'good'}"
    if yes_no.says_defect not in (None, defect):
        return f"the reasoning {_finding(yes_no.says_defect)}, but {answer_says}"
    return ""


def _only_boxes_lack(judged: Reply, located: Reply) -> bool:
    """Whether a sample's answer says defect, by itself without contradiction, and has no boxes beside it."""
    says_defect = judged.answer.choice == DEFECT_LETTER and not _own_contradiction(judged.answer)
    return says_defect and judged.finish == "stop" and not located.answer.boxes


def against_score(verdict: Verdict, score: float | None) -> str:
    """How the anomaly score contradicts a verdict, in words; empty when it does not."""
    if score is None or verdict == "unsure" or score == 0.5 or (score > 0.5) == (verdict == "defect"):
        return ""
    return f"the answer says {verdict}, but the probability of a defect is {score:.2f}"


def unsure_because(problem: str, reasoning: str = "") -> str:
    """The reason of a verdict "unsure": the problem, then the model's reasoning, if there is any."""
    return f"Unsure because {problem}." + (f"\n{reasoning}" if reasoning else "")


def _yes_no_opinion(reply: Reply, letter: str, boxes: tuple[Box, ...] | None) -> Opinion:
    """What the reply to a yes/no question says, whose option `letter` means a defect."""
    reasoning = reply.answer.reasoning
    score = reply.option_scores.get(letter) if reply.option_scores else None
    score_from = "" if score is None else f"probability of option {letter}"
    if reply.answer.choice is None:
        reason = unsure_because("the verdict could not be read", reasoning)
        return Opinion("unsure", reason, boxes, score, score_from)
    verdict: Verdict = "defect" if reply.answer.choice == letter else "good"
    return Opinion(verdict, reasoning, boxes, score, score_from)


def _misplaced(yes_no: Answer, grounding: Answer, size_wh: tuple[int, int]) -> str:
    """How the boxes lie elsewhere than a reasoning says, in words.

    Milder than the reward, which wants the centre of the largest box there: a box beside the border of two
    regions is no contradiction.
    """
    if not grounding.boxes:
        return ""
    for place, about in ((grounding.place, " about the place"), (yes_no.place, "")):
        if place and not any(_touches(box, place, size_wh) for box in grounding.boxes):
            return f"the reasoning{about} puts the defect in the {place}, but no box touches it"
    return ""


def _touches(box: Box, place: str, size_wh: tuple[int, int]) -> bool:
    """Whether a box reaches into one of the 3 x 3 regions of an image."""
    row, column = divmod(PLACES.index(place), 3)
    width, height = size_wh[0] / 3, size_wh[1] / 3
    across = box.x1 < (column + 1) * width and box.x2 > column * width
    return across and box.y1 < (row + 1) * height and box.y2 > row * height


def _unearned(yes_no: Answer, grounding: Answer) -> str:
    """What two answers that say good lack to be believed, in words."""
    for answer, about in ((yes_no, ""), (grounding, " about the place")):
        if answer.status != "strict" or "text_outside_tags" in answer.counts:
            return f"the answer says good, but the reply{about} holds more than reasoning and answer"
    doubt = doubt_of_clean(yes_no.reasoning)
    if doubt:
        return f"the answer says good, but {doubt}"
    doubt = doubt_of_clean(grounding.reasoning, may_be_silent=True)
    return f"no box was drawn, but about the place {doubt}" if doubt else ""


def _score(verdicts: Sequence[Reply], fast: bool) -> tuple[float | None, str]:
    """The mean probability of a defect over the replies that have one, and how it was made."""
    scores = [reply.option_scores[DEFECT_LETTER] for reply in verdicts if reply.option_scores]
    if not scores:
        return None, ""
    method = FAST if fast else REASONED
    if len(verdicts) > 1:
        method = f"mean of {len(scores)} of {len(verdicts)} samples: {method}"
    return sum(scores) / len(scores), method


def _fast_verdict(reply: Reply, score: float | None) -> tuple[Verdict, str]:
    """The verdict of a reply without reasoning, and why."""
    if reply.answer.choice not in (DEFECT_LETTER, GOOD_LETTER) or score is None:
        return "unsure", unsure_because("the verdict could not be read")
    reason = f"Without reasoning: the probability of a defect is {score:.2f}."
    return ("defect" if reply.answer.choice == DEFECT_LETTER else "good"), reason


def _count_votes(verdicts: Sequence[Verdict], boxes: Sequence[tuple[Box, ...] | None]) -> Votes:
    """How the samples voted, and the mean set IoU over all pairs of samples that have boxes."""
    readable = [sample_boxes for sample_boxes in boxes if sample_boxes is not None]
    overlaps = [_overlap(*pair) for pair in combinations(readable, 2)]
    return Votes(
        verdicts=dict(sorted(Counter(verdicts).items())),
        box_stability=sum(overlaps) / len(overlaps) if overlaps else None,
    )


def _majority(verdicts: Sequence[Verdict], boxes: Sequence[tuple[Box, ...] | None]) -> tuple[Verdict, int]:
    """What more than half of the samples say, else "unsure"; and the sample that speaks for them.

    That is, of those with the commonest verdict, the one whose boxes are most like the boxes of the others.
    """
    winner, count = Counter(verdicts).most_common(1)[0]
    agreed: Verdict = winner if 2 * count > len(verdicts) else "unsure"
    speakers = [i for i, verdict in enumerate(verdicts) if verdict == winner]
    return agreed, max(speakers, key=lambda i: (_likeness(i, speakers, boxes), -i))


def _likeness(sample: int, speakers: Sequence[int], boxes: Sequence[tuple[Box, ...] | None]) -> float:
    """The summed set IoU of a sample's boxes with those of the other speakers; -1 where it has none."""
    sample_boxes = boxes[sample]
    if sample_boxes is None:
        return -1.0
    peers = [boxes[i] for i in speakers if i != sample]
    return sum(_overlap(sample_boxes, peer_boxes) for peer_boxes in peers if peer_boxes is not None)


def _overlap(boxes: Sequence[Box], reference: Sequence[Box]) -> float:
    return set_iou(to_array(boxes), to_array(reference))


def _vote_reason(verdict: Verdict, reason: str, votes: Votes) -> str:
    """The reason of a vote: how it went, then what the sample that speaks for it reasons."""
    tally = ", ".join(f"{n} {name}" for name, n in votes.verdicts.items())
    if verdict == "unsure":
        problem = f"of {votes.samples} samples too few agree on a verdict ({tally})"
        return unsure_because(problem, reason)
    return f"{votes.verdicts[verdict]} of {votes.samples} samples say {verdict}.\n{reason}".strip()


def _finding(says_defect: bool | None) -> str:
    return "finds a defect" if says_defect else "finds no defect"


def _boxes(n: int) -> str:
    return {0: "no box was", 1: "a box was"}.get(n, f"{n} boxes were")
