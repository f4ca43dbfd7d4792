"""A bank of good parts as one self-contained page: what may be promised, the strangest part first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anomalyr1.evidence.promise import held_out_for
from anomalyr1.files import write_whole
from anomalyr1.images.door import open_image
from anomalyr1.report.html import data_uri, render
from anomalyr1.report.overlays import overlay
from anomalyr1.report.text import visible
from anomalyr1.types import Inspection
from anomalyr1.version import __version__

if TYPE_CHECKING:
    from anomalyr1.evidence.bank import Bank

MAX_PICTURES = 24
"""So many good parts are shown, the strangest."""
LONG_SIDE = 320
STANDS_OUT = 1.5
"""From this multiple of the median score on a part is said to stand out."""
RATES = (0.1, 0.05, 0.02, 0.01)
"""Rates of false alarms that the page says what they need."""


class Picture(NamedTuple):
    """A good part as the page shows it."""

    name: str
    uri: str
    score: float
    held_out: bool
    stands_out: bool


class Need(NamedTuple):
    """What a promise needs."""

    rate: float
    parts: int
    """Good parts that are held out."""
    lacking: int


def write(path: Path, bank: Bank, images: Sequence[Path]) -> None:
    """Write the page of a bank; `images` are those that it was learned from, in any order.

    Raises `SetupError` when the disk refuses, and what `open_image` does.
    """
    by_name = {image.as_posix(): image for image in images}
    scores = sorted(part.score for part in bank.parts)
    median = scores[len(scores) // 2]
    ranked = sorted(enumerate(bank.parts), key=lambda numbered: -numbered[1].score)
    pictures = []
    for number, part in ranked[:MAX_PICTURES]:
        image = open_image(by_name[part.name])
        evidence = bank.measure(image, leave_out=number).evidence
        shown = Inspection(
            sample_id=part.name,
            verdict="unsure",
            boxes=tuple(region.box for region in evidence.regions),
            masks=tuple(region.outline for region in evidence.regions if region.outline),
        )
        pictures.append(
            Picture(
                visible(Path(part.name).name),
                data_uri(overlay(shown, image.rgb, LONG_SIDE)),
                part.score,
                part.held_out,
                part.score > STANDS_OUT * median,
            )
        )
    held_out = len(bank.held_out_scores)
    html = render(
        "learn_page.html.j2",
        ["page.css"],
        bank=bank,
        pictures=pictures,
        total=len(bank.parts),
        held_out=held_out,
        needs=[Need(rate, held_out_for(rate), max(0, held_out_for(rate) - held_out)) for rate in RATES],
        estimate=_estimate(bank),
        version=__version__,
    )
    write_whole(path, html.encode("utf-8"))


def _estimate(bank: Bank) -> float | None:
    """The share of learned parts that are stranger than the threshold, each beside the others."""
    learned = [part.score for part in bank.parts if not part.held_out]
    if bank.threshold is None or not bank.held_out_scores:
        return None
    return sum(score > bank.threshold for score in learned) / len(learned)
