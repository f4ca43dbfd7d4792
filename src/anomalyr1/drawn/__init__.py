"""Drawn parts: images of industrial parts, good and defective, with their ground truth.

`drawn.draw.draw` makes a part, `drawn.reference` another good one of its design, `drawn.write` a data set.
Importing this loads no image library; drawing does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from anomalyr1.drawn.record import Drawn, Facts
from anomalyr1.drawn.words import HELD_OUT_DEFECTS, SPLITS

if TYPE_CHECKING:
    from anomalyr1.drawn.dataset import DrawnSpec, draw_spec, parse_spec, sample_ids, write
    from anomalyr1.drawn.draw import DEFECTS, LEGAL, reference

__all__ = [
    "DEFECTS",
    "HELD_OUT_DEFECTS",
    "LEGAL",
    "SPLITS",
    "Drawn",
    "DrawnSpec",
    "Facts",
    "draw_spec",
    "parse_spec",
    "reference",
    "sample_ids",
    "write",
]

_DRAW = ("DEFECTS", "LEGAL", "reference")


def __getattr__(name: str) -> object:
    """Load what draws when it is named (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'anomalyr1.drawn' has no attribute {name!r}")
    module = import_module("anomalyr1.drawn." + ("draw" if name in _DRAW else "dataset"))
    return getattr(module, name)
