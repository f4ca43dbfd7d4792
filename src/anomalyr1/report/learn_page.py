"""What was learned from good parts as one self-contained page: the strangest first, what may be promised."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalyr1.boxes import Bools, encode_mask
from anomalyr1.evidence import promise
from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.learning import FEW, Part
from anomalyr1.files import write_whole
from anomalyr1.images.door import open_image
from anomalyr1.report.html import data_uri, render
from anomalyr1.report.overlays import outlined, scaled
from anomalyr1.types import InputError, Mask
from anomalyr1.version import __version__

STRANGEST = 12
"""Of so many parts the page shows the strangest place."""
MAX_PICTURES = 200
STANDS_OUT = 2.0
"""A part stands out whose score is more than so many times that of the middle one."""
RATES = (0.1, 0.05, 0.02, 0.01)
"""Rates of false alarms that may be promised."""
LONG_SIDE = 360


class PartCard(NamedTuple):
    """A good part as the page shows it."""

    part: Part
    name: str
    """Its path below the folder of all."""
    picture: str
    """Data URI; empty where the image is gone, or another one by now."""
    times: float
    """Its score in units of the middle one."""
    stands_out: bool
    has_outline: bool = False


class Promise(NamedTuple):
    """A rate of false alarms, and what it takes."""

    rate: float
    needed: int
    """Good parts to hold out."""
    lacking: int
    """How many more of them; 0 = it is promised."""


def promises(bank: Bank) -> list[Promise]:
    """What each of `RATES` takes, and what of it is there."""
    held_out = len(bank.held_out_scores)
    needed = {rate: promise.held_out_for(rate) for rate in RATES}
    return [Promise(rate, count, max(0, count - held_out)) for rate, count in needed.items()]


def ranked(bank: Bank) -> list[Part]:
    """The good parts of a bank, the strangest first."""
    return sorted(bank.parts, key=lambda part: (-part.score, part.name))


def that_stand_out(bank: Bank) -> list[Part]:
    """The good parts that look much stranger than most; the strangest first."""
    if len(bank.parts) <= FEW:
        return []
    limit = STANDS_OUT * statistics.median(part.score for part in bank.parts)
    return [part for part in ranked(bank) if part.score > limit]


def estimate(bank: Bank) -> tuple[float, float]:
    """The middle and the highest score of the learned parts, each beside the others: no promise."""
    scores = [part.score for part in bank.parts if not part.held_out]
    return statistics.median(scores), max(scores)


def write(
    path: Path,
    bank: Bank,
    bank_file: Path,
    notes: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the page; `notes` are what else is to be known. Raises `SetupError` when the disk refuses."""
    cards = []
    middle = max(statistics.median(part.score for part in bank.parts), 1e-6)
    suspects = that_stand_out(bank)
    chosen = ranked(bank)[:MAX_PICTURES]
    folder = os.path.commonpath([Path(part.name).parent.absolute() for part in bank.parts])
    for number, part in enumerate(chosen):
        rgb = _open(part)
        place = strangest_place(bank, part, rgb) if rgb is not None and number < STRANGEST else None
        picture = None if rgb is None else scaled(rgb, LONG_SIDE)
        if place is not None and rgb is not None:
            picture = outlined(rgb, (place,), LONG_SIDE)
        cards.append(
            PartCard(
                part=part,
                name=Path(part.name).absolute().relative_to(folder).as_posix(),
                picture="" if picture is None else data_uri(picture, "WEBP"),
                times=part.score / middle,
                stands_out=part in suspects,
                has_outline=place is not None,
            )
        )
        progress(number + 1, len(chosen))
    html = render(
        "learn_page.html.j2",
        ["page.css", "dataset_page.css", "learn_page.css"],
        bank=bank,
        bank_file=bank_file.as_posix(),
        megabytes=bank_file.stat().st_size / 1e6,
        held_out=len(bank.held_out_scores),
        cards=cards,
        folder=folder,
        suspects=[card for card in cards if card.stands_out],
        few=FEW,
        promises=promises(bank),
        estimate=estimate(bank),
        notes=notes,
        version=__version__,
    )
    write_whole(path, html.encode("utf-8"))
    return path


def strangest_place(bank: Bank, part: Part, rgb: Image.Image) -> Mask | None:
    """Where a good part differs most from the other learned ones; None where there is nothing to compare."""
    if bank.learned <= FEW:
        return None
    heat = bank.measure(rgb, leave_out=bank.parts.index(part)).heat  # (h, w)
    return encode_mask(_hottest_piece(heat, rgb.size), "map") if heat.any() else None


def _hottest_piece(heat: NDArray[np.uint8], size_wh: tuple[int, int]) -> Bools:
    """(H, W) of the piece of (h, w) that is hottest in sum."""
    import cv2

    hot = heat >= max(1, heat.max() // 3)
    _, labels = cv2.connectedComponents(hot.astype(np.uint8), connectivity=8)
    sums = np.bincount(labels.ravel(), heat.ravel())
    piece = labels == 1 + int(sums[1:].argmax())
    large: Bools = cv2.resize(piece.astype(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST) > 0
    return large


def _open(part: Part) -> Image.Image | None:
    """The image that was learned, upright; None when it is no longer there."""
    try:
        image = open_image(Path(part.name))
    except (InputError, OSError):
        return None
    return image.rgb if image.sha256 == part.sha256 else None
