"""Evidence in words, and words read back: an inverse pair.

    Measured against 8 good parts: 2 places differ more than good parts do.
    1. bottom left, box [212, 300, 268, 361], 6.2 times what good parts show, 0.4 % of the image.
    2. center, box [80, 90, 112, 120], 1.3 times what good parts show, 0.1 % of the image.

or "Measured against 8 good parts: no place differs more than good parts do (strongest: 0.7 times)."
"""

from __future__ import annotations

import re
from typing import NamedTuple

from anomalyr1.boxes import place
from anomalyr1.images.frames import Frame
from anomalyr1.types import PLACES, Box, Evidence, Region

OTHER_KIND = "The image shows another kind of part than the good ones."
_PARTS = r"(\d{1,6}) good parts?(, estimated from so few)?"
_OPENING = re.compile(
    rf"Measured against {_PARTS}: (?:(no place differs) more than good parts do \(strongest: "
    rf"(\d{{1,7}}\.\d) times\)|(\d{{1,3}}) places? differs? more than good parts do)\."
)
_CORNERS = ", ".join([r"(-?\d{1,5})"] * 4)  # so no picture maps them beyond what a box may be
_REGION = re.compile(
    rf"(\d{{1,3}})\. ({'|'.join(sorted(PLACES, key=len, reverse=True))}), box \[{_CORNERS}\], "
    r"(\d{1,7}\.\d) times what good parts show, (\d{1,3}\.\d) % of the image\."
)


class StrangePlace(NamedTuple):
    """A place as the words say it."""

    place: str
    """One of `PLACES`."""
    box: Box
    """In original pixels."""
    ratio: float
    """To a tenth."""
    share: float
    """Of the image, to a thousandth."""


class Saying(NamedTuple):
    """What the words say."""

    learned: int
    calibrated: bool
    same_kind: bool
    ratio: float
    """Of the strongest place, to a tenth."""
    places: tuple[StrangePlace, ...]


def write(evidence: Evidence, frame: Frame) -> str:
    """The words that a prompt holds, with boxes in the units of the model."""
    lines = [
        f"{number}. {place(region.box, frame.original_wh)}, "
        f"box [{', '.join(map(str, frame.to_model(region.box.xyxy)))}], {_amounts(region)}."
        for number, region in enumerate(evidence.regions, start=1)
    ]
    return "\n".join([_opening(evidence), *lines, *([] if evidence.same_kind else [OTHER_KIND])])


def describe(evidence: Evidence, size_wh: tuple[int, int]) -> str:
    """The same for a person, who sees the places in the picture; `size_wh` is the image's."""
    lines = [
        f"{number}. {place(region.box, size_wh)}, {_amounts(region)}."
        for number, region in enumerate(evidence.regions, start=1)
    ]
    return "\n".join([_opening(evidence), *lines, *([] if evidence.same_kind else [OTHER_KIND])])


def read(text: str, frame: Frame) -> Saying | None:
    """What the first words of this kind in a text say; None where there are none.

    Never raises, and reads a text once: a line that is no place ends the list.
    """
    opening = _OPENING.search(text)
    if opening is None:
        return None
    learned, estimated, _, strongest, _ = opening.groups()
    places: list[StrangePlace] = []
    # The line behind the opening, and those behind that, as long as they are places.
    lines = text[opening.end() :].split("\n")[1:]
    for line in lines:
        match = _REGION.fullmatch(line)
        corners = frame.to_original([int(number) for number in match.groups()[2:6]]) if match else ()
        if match is None or not (corners[0] < corners[2] and corners[1] < corners[3]):
            break
        box = Box(x1=corners[0], y1=corners[1], x2=corners[2], y2=corners[3])
        places.append(StrangePlace(match[2], box, float(match[7]), round(float(match[8]) / 100, 3)))
    ratio = float(strongest) if strongest else max((region.ratio for region in places), default=0.0)
    same_kind = lines[len(places) : len(places) + 1] != [OTHER_KIND]
    return Saying(int(learned), estimated is None, same_kind, ratio, tuple(places))


def _opening(evidence: Evidence) -> str:
    parts = "1 good part" if evidence.learned == 1 else f"{evidence.learned} good parts"
    estimated = "" if evidence.calibrated else ", estimated from so few"
    if not evidence.regions:
        finding = f"no place differs more than good parts do (strongest: {evidence.ratio:.1f} times)"
    elif len(evidence.regions) == 1:
        finding = "1 place differs more than good parts do"
    else:
        finding = f"{len(evidence.regions)} places differ more than good parts do"
    return f"Measured against {parts}{estimated}: {finding}."


def _amounts(region: Region) -> str:
    return f"{region.ratio:.1f} times what good parts show, {100 * region.share:.1f} % of the image"
