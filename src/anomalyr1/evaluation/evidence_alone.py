"""What evidence alone would have said of the inspected images, in the same figures as the verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from anomalyr1.evaluation import detection, localisation
from anomalyr1.evaluation.detection import DetectionReport, Pair
from anomalyr1.evaluation.localisation import Localisation
from anomalyr1.inspection.decisions import (
    FROM_EVIDENCE,
    LEARNED_ITSELF,
    boxes_of,
    can_decide,
    outlines_of,
    verdict_of,
)
from anomalyr1.inspection.verdicts import unsure_because
from anomalyr1.types import Inspection, Record


class EvidenceFigures(Record):
    """Figures of the evidence, beside those of the verdicts that were given."""

    images: int
    """Inspections that hold evidence."""
    agreement: dict[str, int]
    """How the verdicts that were given lie to it: "same", "other", "unsure" (either of both)."""
    detection: DetectionReport | None
    localisation: Localisation | None
    """Of the strange places as boxes and masks; None = no true place is known."""


def figures_of(
    pairs: Sequence[Pair], labelled: bool, located: bool, repeats: int, seed: int
) -> EvidenceFigures | None:
    """The figures of what evidence says alone; None where no inspection holds any."""
    alone = [
        (sample, of_evidence(inspection)) for sample, inspection in pairs if inspection.evidence is not None
    ]
    if not alone:
        return None
    verdicts = [inspection.verdict for _, inspection in pairs if inspection.evidence is not None]
    agreement = Counter(
        _compare(verdict, inspection.verdict)
        for verdict, (_, inspection) in zip(verdicts, alone, strict=True)
    )
    return EvidenceFigures(
        images=len(alone),
        agreement=dict(sorted(agreement.items())),
        detection=detection.detect(alone, repeats, seed) if labelled else None,
        localisation=localisation.localise(alone, repeats=repeats, seed=seed) if located else None,
    )


def of_evidence(inspection: Inspection) -> Inspection:
    """The inspection as evidence alone makes it: "unsure" where it may not decide."""
    evidence = inspection.evidence
    assert evidence is not None
    may_decide = can_decide(evidence) and evidence.same_kind and not inspection.counts.get(LEARNED_ITSELF)
    boxes = boxes_of(evidence)
    return Inspection(
        sample_id=inspection.sample_id,
        verdict=verdict_of(evidence) if may_decide else "unsure",
        score=evidence.score,
        score_from=FROM_EVIDENCE,
        reason="" if may_decide else unsure_because("the good parts may not decide alone"),
        boxes=boxes,
        masks=outlines_of(evidence, boxes),
        error=inspection.error if not may_decide else None,
        image_sha256=inspection.image_sha256,
        evidence=evidence,
    )


def _compare(verdict: str, by_evidence: str) -> str:
    if "unsure" in (verdict, by_evidence):
        return "unsure"
    return "same" if verdict == by_evidence else "other"
