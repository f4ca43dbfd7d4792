"""What good parts say about a part, as the page of an inspection shows it."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from anomalyr1 import boxes as geometry
from anomalyr1.evidence import words
from anomalyr1.inspection import decisions
from anomalyr1.report.html import data_uri
from anomalyr1.report.overlays import outlined
from anomalyr1.types import Box, Evidence, Inspection, Mask

LONG_SIDE = 480


class PlaceRow(NamedTuple):
    """A place that differs more than good parts do, in words."""

    where: str
    times: str
    share: str


class Measured(NamedTuple):
    """The evidence of a card; texts are safe to look at but not yet escaped for HTML."""

    sentence: str
    beside_threshold: str
    """What the score says beside the threshold, and what the threshold promises."""
    agreement: str
    """Whether the policy says the same; empty where the policy was not asked."""
    agrees: bool
    reason: str
    """The reason of the verdict without the sentence and the policy's words, which stand elsewhere."""
    holds_boxes: bool
    """Whether the boxes of the inspection are the places."""
    picture: str
    """Data URI with the strange places outlined and numbered; empty where there are none to show."""
    places: tuple[PlaceRow, ...]


def measured(inspection: Inspection, rgb: Image.Image | None, answer: str | None) -> Measured:
    """The evidence of an inspection made ready; `answer` is what the policy says, "defect" or "good"."""
    evidence = inspection.evidence
    assert evidence is not None
    size_wh = rgb.size if rgb else (1, 1)  # only the lines of the places depend on it
    sentence = words.describe(evidence, size_wh).partition("\n")[0]
    agreement, agrees = _agreement(evidence, answer)
    picture = ""
    if rgb is not None and evidence.regions:
        picture = data_uri(outlined(rgb, outlines_of(evidence, rgb.size), LONG_SIDE, inspection.verdict))
    return Measured(
        sentence=sentence,
        beside_threshold=_beside_threshold(evidence),
        agreement=agreement if inspection.replies else "",
        agrees=agrees,
        reason=_own_reason(inspection, evidence),
        holds_boxes=inspection.boxes == decisions.boxes_of(evidence),
        picture=picture,
        places=_places(evidence, rgb),
    )


def outlines_of(evidence: Evidence, size_wh: tuple[int, int]) -> list[Mask]:
    """The shapes of the places in a picture of this size; the box where none is kept."""
    return [region.outline or _filled(region.box, size_wh) for region in evidence.regions]


def place_of_box(box: Box, evidence: Evidence) -> str:
    """The number of the place that a box meets best; "not measured" where it meets none."""
    if not evidence.regions:
        return "not measured"
    ious = geometry.iou([box.xyxy], [region.box.xyxy for region in evidence.regions])[0]
    return f"place {1 + int(ious.argmax())}" if ious.max() > 0 else "not measured"


def _places(evidence: Evidence, rgb: Image.Image | None) -> tuple[PlaceRow, ...]:
    return tuple(
        PlaceRow(
            where=geometry.place(region.box, rgb.size) if rgb else "",
            times=f"{region.ratio:.1f}" if region.ratio < 1000 else "over 1,000",
            share=f"{100 * region.share:.1f} %",
        )
        for region in evidence.regions
    )


def _beside_threshold(evidence: Evidence) -> str:
    if evidence.threshold is None:
        return f"Score {evidence.score:.3f}; so few good parts have no threshold, and decide nothing alone"
    text = decisions.describe_score(evidence).removesuffix(".")
    if evidence.is_strange and not evidence.regions:
        text += "; no single place stands out"
    rate = evidence.false_alarm_rate
    return text if rate is None else f"{text}; at most {100 * rate:.2g} % of good parts are"


def _agreement(evidence: Evidence, answer: str | None) -> tuple[str, bool]:
    if answer is None:
        return "The policy's answer says neither good nor defect", False
    if decisions.verdict_of(evidence) == answer:
        return f"The policy agrees: it says {answer}", True
    return f"The policy does not agree: it says {answer}", False


_ELSEWHERE = re.compile(
    r"Measured against .*|\d+\. .*|The policy says \w+:.*|The image shows another kind .*|"
)
"""A line of a reason that says what the card says elsewhere."""


def _own_reason(inspection: Inspection, evidence: Evidence) -> str:
    reason = inspection.reason
    for reply in inspection.replies:
        reason = reason.replace(reply.answer.reasoning or "\n", "\n")
    score = decisions.describe_score(evidence)
    lines = (line.strip() for line in reason.split("\n"))
    return "\n".join(line for line in lines if line != score and not _ELSEWHERE.fullmatch(line))


def _filled(box: Box, size_wh: tuple[int, int]) -> Mask:
    x1, y1, x2, y2 = (round(value) for value in geometry.clip([box.xyxy], size_wh)[0])
    filled = np.zeros((size_wh[1], size_wh[0]), bool)
    filled[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = True
    return geometry.encode_mask(filled, "map")
