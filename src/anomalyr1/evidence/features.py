"""What a network sees in a picture: features of its patches; and what every backbone has."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from PIL import Image

LONGEST = 1024
"""Pixels of the longer side of what a network is shown, at most."""


class Features(NamedTuple):
    """What a network sees in a picture."""

    patches: torch.Tensor
    """(h * w, D) unit vectors, row by row, float32."""
    grid_wh: tuple[int, int]
    pooled: torch.Tensor
    """(P,) a unit vector for the picture as a whole, float32."""


class Backbone(Protocol):
    """A network that a bank is made with."""

    name: str
    """How it is asked for."""
    digest: str
    """SHA-256 of its weights."""
    factor: int
    """Both sides of what it is shown are multiples of it."""

    def features(self, rgb: Image.Image, short_side: int) -> Features:
        """The features of a picture (RGB), scaled so that its shorter side has about so many pixels."""
        ...


def input_size(
    size_wh: tuple[int, int], short_side: int, factor: int, longest: int = LONGEST
) -> tuple[int, int]:
    """Width and height of what a network is shown of a picture: multiples of `factor`."""
    scale = min(short_side / min(size_wh), longest / max(size_wh))
    width, height = (max(factor, round(side * scale / factor) * factor) for side in size_wh)
    return width, height
