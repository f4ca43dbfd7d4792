"""AnomalyR1: industrial visual inspection with a vision-language model that reasons, answers and points at the defect.

    from anomalyr1 import Inspector
    inspection = Inspector.load("nano")("part.png")

Importing the package loads no model library; the first use does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalyr1.inspection.inspector import Inspector

    __version__: str

__all__ = ["Inspector", "__version__"]


def __getattr__(name: str) -> object:
    """Load what is asked for, when it is asked for (PEP 562)."""
    if name == "Inspector":
        from anomalyr1.inspection.inspector import Inspector

        return Inspector
    if name == "__version__":
        from anomalyr1.version import __version__

        return __version__
    raise AttributeError(f"module 'anomalyr1' has no attribute {name!r}")
