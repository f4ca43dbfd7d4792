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


def describe(evidence: Evidence) -> str:
    """The same for a person, without boxes."""
    parts = f"{evidence.learned} good part" + ("s" if evidence.learned > 1 else "")
    count = len(evidence.regions)
    if not count:
        return (
            f"Compared with {parts}: no place differs more than good parts do "
            f"(strongest: {evidence.ratio:.1f} times)."
        )
    verb = "place differs" if count == 1 else "places differ"
    return f"Compared with {parts}: {count} {verb} more than good parts do."
