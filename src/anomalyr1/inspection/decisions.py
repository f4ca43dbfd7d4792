"""Policy and evidence -> one verdict: who decides, and what happens where they disagree.

"both": they must agree, else "unsure". "evidence": the score of the evidence decides, and what the policy
says stands below it. "policy": the evidence is shown only. One to three good parts never decide alone, a part
of another kind or one that was itself learned as good is "unsure".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from anomalyr1.boxes import iou, to_array
from anomalyr1.evidence import words
from anomalyr1.inspection.verdicts import Opinion, unsure_because
from anomalyr1.types import Box, Evidence, InputError, Mask

Decider = Literal["both", "evidence", "policy"]
DECIDERS: tuple[Decider, ...] = get_args(Decider)

LEARNED_ITSELF = "learned_itself"
"""The count of an image that is itself one of the good parts that were learned."""
FROM_EVIDENCE = "beside good parts, 0 to 1"


def require_decider(name: str) -> None:
    """Raise `InputError` for a name that is none of `DECIDERS`."""
    if name not in DECIDERS:
        raise InputError(f"unknown decider {name!r}: expected one of {', '.join(DECIDERS)}")


def decide_beside(
    opinion: Opinion, evidence: Evidence, decider: Decider, size_wh: tuple[int, int], is_learned: bool
) -> tuple[Opinion, dict[str, int]]:
    """What a policy's opinion becomes beside evidence, and how often they disagree, under its name.

    `size_wh` is the image's; `is_learned`: this very image is one of the good parts that were learned.
    """
    described = words.describe(evidence, size_wh)
    finding = verdict_of(evidence)
    contradicts = opinion.verdict not in ("unsure", finding)
    counts = {
        "policy_contradicts_evidence": int(contradicts),
        LEARNED_ITSELF: int(is_learned),
        **_count_unmeasured(opinion, evidence),
    }
    reason = f"{opinion.reason}\n{described}".strip()
    if decider == "policy":
        return opinion._replace(reason=reason), counts
    # 1. What speaks against a comparison.
    problem = ""
    if is_learned:
        problem = "this very image was learned as a good part"
    elif not evidence.same_kind:
        problem = "the image shows another kind of part than the good ones that were learned"
    # 2. Who decides; too few good parts never do so alone.
    if decider == "evidence":
        opinion = opinion._replace(score=evidence.score, score_from=FROM_EVIDENCE)
    if decider == "evidence" and can_decide(evidence):
        policy_words = f"The policy says {opinion.verdict}: {opinion.reason}" if opinion.reason else ""
        reason = f"{describe_score(evidence)}\n{described}\n{policy_words}".strip()
        opinion = opinion._replace(
            verdict=finding, boxes=boxes_of(evidence), votes=None, only_boxes_lack=False
        )
    elif contradicts and not problem:
        agrees = bool(evidence.regions) == (finding == "defect")  # the places say what the score says
        problem = f"the policy says {opinion.verdict}, but " + _first_line(
            described if agrees else describe_score(evidence)
        )
    if problem:
        return opinion._replace(verdict="unsure", reason=unsure_because(problem, reason)), counts
    return opinion._replace(reason=reason), counts


def outlines_of(evidence: Evidence | None, boxes: Sequence[Box]) -> tuple[Mask, ...] | None:
    """The outlines of the strange places, where `boxes` are theirs; else None."""
    if evidence is None or tuple(boxes) != boxes_of(evidence):
        return None
    outlines = tuple(region.outline for region in evidence.regions if region.outline is not None)
    return outlines if len(outlines) == len(boxes) else None


def can_decide(evidence: Evidence) -> bool:
    """Whether evidence may come to a verdict without the policy."""
    return evidence.calibrated and evidence.threshold is not None


def describe_score(evidence: Evidence) -> str:
    """How the score lies to its threshold, in words."""
    if evidence.threshold is None:
        return ""
    if evidence.defects and not evidence.held_out:
        nearer, farther = f"{evidence.defects} defective parts", f"{evidence.learned} good ones"
        if not evidence.is_strange:
            nearer, farther = f"{evidence.learned} good parts", f"{evidence.defects} defective ones"
        return (
            f"As a whole the part is more like {nearer} than like {farther} "
            f"(score {evidence.score:.3f}, defective above {evidence.threshold:.3f})."
        )
    count = evidence.held_out or evidence.learned
    kind = "1 good part" if count == 1 else f"{count} good parts"
    if evidence.held_out:
        kind += " that was held out" if count == 1 else " that were held out"
    relation = "stranger than" if evidence.is_strange else "no stranger than"
    return (
        f"As a whole the part is {relation} {kind} "
        f"(score {evidence.score:.3f}, at most {evidence.threshold:.3f} in good parts)."
    )


def verdict_of(evidence: Evidence) -> Literal["good", "defect"]:
    """What evidence says by itself; without a threshold, whether any place is stranger than in good parts."""
    is_strange = bool(evidence.regions) if evidence.is_strange is None else evidence.is_strange
    return "defect" if is_strange else "good"


def boxes_of(evidence: Evidence) -> tuple[Box, ...]:
    """The boxes of the strange places, the strangest first."""
    return tuple(region.box for region in evidence.regions)


def _count_unmeasured(opinion: Opinion, evidence: Evidence) -> dict[str, int]:
    """How many of the policy's boxes touch no strange place."""
    if not opinion.boxes:
        return {}
    overlaps = iou(to_array(opinion.boxes), to_array(boxes_of(evidence)))  # (boxes, regions)
    return {"boxes_not_measured": int((overlaps.max(axis=1, initial=0) == 0).sum())}


def _first_line(described: str) -> str:
    """The beginning of a description, to stand inside a sentence."""
    line = described.partition("\n")[0].removesuffix(".")
    return line[:1].lower() + line[1:]
