"""Evidence in words, and words read back: an inverse pair, in the model's own box units."""

from __future__ import annotations

from anomalyr1.images.frames import Frame
from anomalyr1.types import Evidence


def write(evidence: Evidence, frame: Frame) -> str:
    """The sentence that a prompt holds and a person reads."""
    parts = f"{evidence.learned} good part" + ("s" if evidence.learned > 1 else "")
    return (
        f"Measured against {parts}: the strongest place is {evidence.ratio:.1f} times what good parts show."
    )
