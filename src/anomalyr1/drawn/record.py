"""What a drawn part is: its image and all that is true of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomalyr1.types import Box

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Facts:
    """What can be asked about a good part of this design; names are plain words."""

    material: str
    colour: str
    shape: str
    count: tuple[str, int] | None = None
    """Name (in the plural) and number of what can be counted; None = nothing."""
    layout: str = ""
    """Sentences that say what decides a logical defect; empty where nothing does."""


@dataclass(frozen=True)
class Drawn:
    """One drawn image and all that is true of it."""

    image: Image
    """(H, W, 3), RGB."""
    mask: NDArray[np.bool_]
    """(H, W), where the defect is."""
    boxes: tuple[Box, ...]
    """Boxes of the mask's parts, the largest first, labelled with the defect; () when good."""
    category: str
    defect: str | None
    """Kind of defect; None = good."""
    description: str
    """What the defect looks like, e.g. "long bright scratch"; empty when good."""
    place: str | None
    """One of `types.PLACES`, where the largest box is; None when good."""
    knowledge: str
    """What is known about the class, in sentences."""
    seed: int
    facts: Facts
