"""Pictures that no policy should judge: nothing to be seen in them, or unlike the pictures it was taught.

A policy answers whatever it is shown, a lens cap too. So before it is asked, a picture must have as many
pixels as one token of the policy, more than one tone, and more than noise. A policy that was taught here
carries `taught_images.json`: the range of each of some 130 figures (`measure_look`) over its training
pictures, and how far a picture may leave these ranges, by how far each of them leaves those of the others.
That finds noise, other products and most negatives, not small changes: a hole in a good part is the policy's.
Not found is what is as varied as the training pictures were, and nothing where they are fewer than eight.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import Field, ValidationError, model_validator

from anomalyr1.boxes import Floats
from anomalyr1.files import read_json, write_whole
from anomalyr1.images.door import open_image
from anomalyr1.images.frames import Family
from anomalyr1.types import InputError, Record, Sample, first_error

FILE = "taught_images.json"

ONE_TONE = 4.0
"""Grey levels: what the blocks of a picture of one tone differ by at most."""
NOISE = 4.0
"""How often the variance of blocks is at most what it would be if all pixels were independent."""
BLOCKS = 16
"""Blocks a side."""
LARGEST_SIDE = 512
"""Pixels; a larger picture is reduced before its blocks are compared."""

FEWEST = 8
"""Training pictures, without which their ranges say nothing."""
MOST = 1000
"""Training pictures that are looked at; of more, these many are spread over all."""
MARGIN = 1.5
"""How much farther outside the ranges a picture may lie than any training picture outside the others'."""
OUTLIER = 2.0
"""How much farther than the next one the farthest training picture counts, lest one stretches the margin."""
NEGATIVE = 0.5, 4.0
"""A negative lies farther than this share of the limit, and so many times as far as the picture inverted."""
_MOST_WIDTHS = 3.0
"""A figure that leaves its range by more widths of the range counts no more."""


class Doubt(NamedTuple):
    """Why a picture should not be judged."""

    name: str
    """What it is counted under."""
    words: str
    """The same in words."""


TINY = "picture_tiny"
PLAIN = Doubt("picture_of_one_tone", "nothing can be seen in the picture, it is of one tone")
NOISY = Doubt("picture_of_noise", "nothing can be seen in the picture, it is noise")
STRANGE = Doubt("picture_unlike_taught", "the picture is unlike those that the policy was taught")


class TaughtLook(Record):
    """What the training pictures of a policy looked like: the file `taught_images.json`."""

    images: int = Field(ge=0)
    """How many pictures were looked at, turned ones included."""
    left_out: int = Field(default=0, ge=0)
    """How many could not be opened any more."""
    lowest: tuple[float, ...]
    """The smallest value of each figure of `measure_look`."""
    highest: tuple[float, ...]
    """The largest value of each."""
    limit: float = Field(ge=0)
    """The distance from which on a picture is unlike them; before `MARGIN`."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not len(self.lowest) == len(self.highest) == len(_SCALES):
            raise ValueError(
                f"expected {len(_SCALES)} ranges, got {len(self.lowest)} and {len(self.highest)}"
            )
        return self

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> TaughtLook | None:
        """What the pictures of training samples look like; None where they are fewer than eight.

        Turned versions of a picture are one with it (`training.orientations`).
        """
        image_by_id = {sample.image: sample.id.partition("-turned-")[0] for sample in samples}
        images = list(image_by_id)
        images = [images[i] for i in np.linspace(0, len(images) - 1, min(len(images), MOST), dtype=int)]
        # 1. The figures of each picture.
        looks, sources, left_out = [], [], 0
        for path in images:
            try:
                looks.append(measure_look(open_image(path).rgb))
            except (InputError, OSError):
                left_out += 1
                continue
            sources.append(image_by_id[path])
        names, groups = np.unique(np.array(sources), return_inverse=True)
        if len(names) < FEWEST:
            return None
        figures = np.stack(looks)  # (N, F)
        # 2. How far each lies outside the ranges of the others.
        distances = []
        for group in range(len(names)):
            own = groups == group
            others = figures[~own]
            distances.append(max(_distance(look, others.min(0), others.max(0)) for look in figures[own]))
        # 3. The limit: the farthest, unless it is alone far out.
        far = sorted(distances)[-3:]
        limit = min(far[2], OUTLIER * far[1], OUTLIER**2 * far[0])
        lowest, highest = (tuple(map(float, np.round(ends, 4))) for ends in (figures.min(0), figures.max(0)))
        return cls(
            images=len(figures), left_out=left_out, lowest=lowest, highest=highest, limit=round(limit, 6)
        )

    def write(self, folder: Path) -> None:
        """Write the file into the folder of a policy."""
        write_whole(folder / FILE, self.to_json().encode("ascii") + b"\n")

    @classmethod
    def read(cls, folder: Path) -> TaughtLook | None:
        """The file in the folder of a policy, None without one. Raises `InputError` when it is damaged."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            return cls.model_validate(read_json(path, limit=2**20))
        except ValidationError as error:
            raise InputError(
                f"{str(path)!r} does not say what the taught pictures looked like ({first_error(error)}); "
                "copy it again from the run, or delete it to do without that check"
            ) from error

    @property
    def digest(self) -> str:
        """What the fingerprint of a run says of it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def is_strange(self, rgb: Image.Image) -> bool:
        """Whether a picture is unlike the taught ones, or a negative of one."""
        lowest, highest = np.array(self.lowest), np.array(self.highest)
        distance = _distance(measure_look(rgb), lowest, highest)
        if distance > MARGIN * self.limit:
            return True
        share, times = NEGATIVE
        if distance <= share * self.limit:
            return False
        return distance > times * _distance(measure_look(ImageOps.invert(rgb)), lowest, highest)


def doubt_of_picture(rgb: Image.Image, family: Family | None, taught: TaughtLook | None) -> Doubt | None:
    """Why a picture should not be judged; None when nothing speaks against it."""
    if family is not None and rgb.width * rgb.height < family.factor**2:
        size = f"{rgb.width} x {rgb.height} pixels are fewer than the {family.factor} x {family.factor}"
        return Doubt(TINY, f"the picture is too small: its {size} that the policy sees as one")
    tones, structure = _measure_blocks(rgb)
    if tones < ONE_TONE:
        return PLAIN
    if structure < NOISE:
        return NOISY
    return STRANGE if taught is not None and taught.is_strange(rgb) else None


def _measure_blocks(rgb: Image.Image) -> tuple[float, float]:
    """By how many grey levels blocks differ, and how often their variance is that of independent pixels."""
    step = max(1, -(-max(rgb.size) // LARGEST_SIDE))
    pixels = np.asarray(rgb.reduce(step)).astype(np.uint32)  # (h, w, 3); sums of 32 x 32 squares fit
    # 1. Where blocks begin, and how many pixels each has.
    ends = [np.linspace(0, side, min(BLOCKS, side) + 1).astype(int) for side in pixels.shape[:2]]
    counts = np.outer(*(np.diff(end) for end in ends))[..., None]  # (B, B, 1)

    def mean_of_blocks(values: NDArray[np.uint32]) -> Floats:
        sums = np.add.reduceat(
            np.add.reduceat(values, ends[0][:-1], axis=0, dtype=np.uint32),
            ends[1][:-1],
            axis=1,
            dtype=np.uint32,
        )
        means: Floats = sums / counts
        return means

    # 2. The variance between blocks, and inside.
    means = mean_of_blocks(pixels)  # (B, B, 3)
    inside = np.maximum(mean_of_blocks(pixels**2) - means**2, 0).mean((0, 1))
    structure = means.var((0, 1)) * counts.mean() / np.maximum(inside, 1e-3)
    return float(np.ptp(means, axis=(0, 1)).max()), float(structure.max())


def measure_look(rgb: Image.Image) -> Floats:
    """(F,) figures of a picture: aspect, tones, colour, layout, gradients, and what is darker than its
    surroundings, each divided by what is a small difference of it.
    """
    small = np.asarray(rgb.resize((64, 64), Image.Resampling.BOX), np.float64) / 255  # (64, 64, 3)
    grey = small.mean(-1)
    tones = np.quantile(grey, np.linspace(0.02, 0.98, 9)) / 3
    colour = np.quantile((small - grey[..., None]).reshape(-1, 3), (0.1, 0.5, 0.9), axis=0).ravel() * 2 / 3
    layout = grey.reshape(8, 8, 8, 8).mean((1, 3)) - grey.mean()  # (8, 8)
    layout = layout.ravel() / (np.sqrt((layout**2).mean()) + 0.02) / 8
    gradients, darker, whole = [], [], rgb.convert("L")
    for side in (256, 128, 64):
        plane = np.asarray(whole.resize((side, side), Image.Resampling.BOX), np.float64) / 255
        gradients += _measure_gradients(plane)
        darker += _measure_asymmetry(plane)
    aspect = [np.log(rgb.width / rgb.height)]
    figures: Floats = np.concatenate([aspect, tones, colour, layout, gradients, darker]) / _SCALES
    return figures


def _measure_gradients(plane: Floats) -> list[float]:
    """The shares of eight directions in the gradients of a plane, and the log of their mean."""
    down, right = np.gradient(plane)
    size = np.hypot(right, down)
    direction = np.minimum(np.arctan2(down, right) % np.pi / np.pi * 8, 7).astype(int)
    shares = np.bincount(direction.ravel(), size.ravel(), 8) / (size.sum() + 1e-6)
    return [*shares, np.log(size.mean() + 2e-3) / 4]


def _measure_asymmetry(plane: Floats) -> list[float]:
    """How much farther than down pixels reach up from their 4 x 4 surroundings, at two quantiles."""
    blocks = plane.reshape(len(plane) // 4, 4, len(plane) // 4, 4)
    relief = blocks - blocks.mean((1, 3), keepdims=True)
    ends = np.quantile(relief, (0.01, 0.05, 0.5, 0.95, 0.99))
    pairs = (ends[0], ends[4]), (ends[1], ends[3])
    return [float((high + low - 2 * ends[2]) / (high - low + 5e-3) / 2) for low, high in pairs]


_GROUPS = ((1, 0.05), (9, 0.02), (9, 0.015), (64, 0.03), (27, 0.02), (6, 0.03))
"""How many figures each group of `measure_look` has, and what is a small difference of the whole group."""
_SCALES = np.concatenate([np.full(n, scale * n**0.5) for n, scale in _GROUPS])
_SLACK = np.concatenate([np.full(n, 2 / n**0.5) for n, _ in _GROUPS])
"""What is added to the width of a range, which few pictures may leave too narrow."""


def _distance(look: Floats, lowest: Floats, highest: Floats) -> float:
    """How far (F,) figures lie outside their ranges, in widths of a range, on average."""
    outside = np.maximum(0, np.maximum(lowest - look, look - highest)) / (highest - lowest + _SLACK)
    return float(np.minimum(outside, _MOST_WIDTHS).mean())


def keep_look(samples: Iterable[Sample], folder: Path) -> None:
    """Write into the folder of a policy what its training pictures look like, where they are enough."""
    taught = TaughtLook.of(samples)
    if taught is not None:
        taught.write(folder)
