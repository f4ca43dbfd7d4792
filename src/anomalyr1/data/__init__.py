"""Data: `load` turns what is on disk into samples with questions; splits, leaks, exports and archives.

    from anomalyr1 import data
    samples = data.load("mvtec:/data/mvtec", split="test", boxes=True)
    samples[0].questions, samples.notes

See docs/data.md for every scheme and option. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalyr1.data.loading import SCHEMES, load
    from anomalyr1.data.readers import find_images
    from anomalyr1.data.samples import Samples
    from anomalyr1.data.sources import LoadedSource, load_source, load_sources

__all__ = ["SCHEMES", "LoadedSource", "Samples", "find_images", "load", "load_source", "load_sources"]

_FILES = {
    "SCHEMES": "loading", "load": "loading", "find_images": "readers", "Samples": "samples",
    "LoadedSource": "sources", "load_source": "sources", "load_sources": "sources",
}  # fmt: skip
"""The file of this folder that defines each public name."""


def __getattr__(name: str) -> object:
    """Load what is public when it is used (PEP 562)."""
    if name not in _FILES:
        raise AttributeError(f"module 'anomalyr1.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"anomalyr1.data.{_FILES[name]}"), name)
