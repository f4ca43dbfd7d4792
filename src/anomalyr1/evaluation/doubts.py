"""What the checks of `anomalyr1 inspect` would make of verdicts that an evaluation takes as they are.

An evaluation asks the data's questions and takes the answer to the yes/no question for the verdict;
`inspect` calls it "unsure" where reasoning, boxes or score contradict it. So its figures of verdicts can be
lower, and an evaluation says by how much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from anomalyr1.inspection import verdicts
from anomalyr1.prompts import DEFECT_LETTER, GOOD_LETTER
from anomalyr1.types import Answer, Inspection, Question, Record, Reply, Sample


class Doubts(Record):
    """How many verdicts `inspect` would take back, of those whose data asks for boxes, too."""

    checked: int
    doubted: int
    """Those among them that `inspect` would call "unsure"."""
    balanced_accuracy: float | None = None
    """Balanced accuracy of all verdicts after that; None = there are not both kinds of images."""


def doubts_of(pairs: Sequence[tuple[Sample, Inspection]]) -> Doubts | None:
    """What `inspect` would doubt; None where no inspection answers both questions of its data."""
    checked = doubted = 0
    images: Counter[bool] = Counter()
    right: Counter[bool] = Counter()
    for sample, inspection in pairs:
        doubt = None if inspection.verdict == "unsure" else doubt_of(sample, inspection)
        checked += doubt is not None
        doubted += bool(doubt)
        if sample.anomalous is not None:
            images[sample.anomalous] += 1
            right[sample.anomalous] += not doubt and inspection.verdict == _true_verdict(sample)
    if not checked:
        return None
    shares = [right[kind] / images[kind] for kind in images]
    return Doubts(
        checked=checked, doubted=doubted, balanced_accuracy=sum(shares) / 2 if len(shares) == 2 else None
    )


def doubt_of(sample: Sample, inspection: Inspection) -> str | None:
    """Why `inspect` would call a verdict "unsure", in words; "" = it would not, None = nobody can tell."""
    replies = {reply.question_id: reply for reply in inspection.replies}
    answered = [(question, replies[question.id]) for question in sample.questions if question.id in replies]
    judged = next((pair for pair in answered if _asks_for_a_verdict(pair[0])), None)
    located = next((reply for question, reply in answered if question.kind == "grounding"), None)
    if judged is None or located is None:
        return None
    if "length" in (judged[1].finish, located.finish):
        return "a reply was cut off before its end"
    yes_no, grounding = _with_letters_of_inspect(*judged), located.answer
    if inspection.masks:
        size_wh = inspection.masks[0].size_wh
    else:  # without the image's size places are not compared
        size_wh = (1, 1)
        yes_no, grounding = (answer.model_copy(update={"place": None}) for answer in (yes_no, grounding))
    doubt = verdicts.disagreement(yes_no, grounding, size_wh)
    return doubt or verdicts.against_score(inspection.verdict, inspection.score)


def _true_verdict(sample: Sample) -> str:
    return "defect" if sample.anomalous else "good"


def _asks_for_a_verdict(question: Question) -> bool:
    return question.kind == "anomaly detection" and verdicts.defect_letter(question) is not None


def _with_letters_of_inspect(question: Question, reply: Reply) -> Answer:
    """The answer as if its options stood in the order in which `inspect` asks."""
    renamed: dict[str | None, str | None] = dict.fromkeys(question.letters, GOOD_LETTER)
    renamed |= {verdicts.defect_letter(question): DEFECT_LETTER, None: None}
    choice, conclusion = reply.answer.choice, reply.answer.conclusion
    return reply.answer.model_copy(
        update={"choice": renamed.get(choice, choice), "conclusion": renamed.get(conclusion, conclusion)}
    )
