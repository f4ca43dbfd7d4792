"""Image files as samples, and what must hold of samples before anything is inspected."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from anomalyr1.data.samples import listed
from anomalyr1.images.door import digest_of
from anomalyr1.types import InputError, Inspection, Sample

EXAMPLES = 5
"""So many of the names that are concerned stand in a message."""


def samples_of_images(
    paths: Sequence[str | Path], references: Sequence[str | Path] = (), knowledge: str = ""
) -> tuple[list[Sample], str]:
    """Samples of plain image files, and the digest of what they share, for `Inspector.run`.

    A sample's id is its path. The digest is of knowledge and reference images; empty without either.
    """
    shared = tuple(Path(path) for path in references)
    samples = [
        Sample(id=path.as_posix(), image=path, references=shared, knowledge=knowledge)
        for path in map(Path, paths)
    ]
    if not knowledge and not shared:
        return samples, ""
    content = "\0".join((knowledge, *map(digest_if_readable, shared)))
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    return samples, f"knowledge@{digest[:12]}"


def require_files(samples: Sequence[Sample], loaded: Container[Path] = ()) -> None:
    """Raise `InputError` that says how many files of the samples are missing, where, and names some.

    Images in `loaded` need no file.
    """
    paths = dict.fromkeys(path for sample in samples for path in (sample.image, *sample.references))
    missing = [path.absolute() for path in paths if path not in loaded and not path.is_file()]
    if missing:
        folder = os.path.commonpath([path.parent for path in missing])
        names = [path.relative_to(folder).as_posix() for path in missing]
        raise InputError(
            f"{len(missing)} of {len(paths)} image files are missing or no files below {folder!r}, "
            f"so nothing was started: {listed(names, 5)}"
        )


def require_unique(samples: Sequence[Sample]) -> None:
    """Raise `InputError` that lists the ids that come more than once."""
    times = Counter(sample.id for sample in samples)
    repeated = [repr(sample_id) for sample_id, n in times.items() if n > 1]
    if repeated:
        raise InputError(f"sample ids must be unique; these are not: {', '.join(repeated)}")


def require_unchanged(samples: Sequence[Sample], done: Mapping[str, Inspection], out: str | Path) -> None:
    """Raise `InputError` when images have changed since they were inspected; one that failed may have."""
    changed = [
        repr(sample.id)
        for sample in samples
        if sample.id in done
        and done[sample.id].error is None
        and done[sample.id].image_sha256 != digest_if_readable(sample.image)
    ]
    if changed:
        others = f" and {len(changed) - EXAMPLES} more" if len(changed) > EXAMPLES else ""
        raise InputError(
            f"{str(out)!r} holds inspections of other images under these names: "
            f"{', '.join(changed[:EXAMPLES])}{others}; write to another folder"
        )


def digest_if_readable(path: Path) -> str:
    """SHA-256 of an image file; empty when it cannot be read, or is too long for an image."""
    try:
        return digest_of(path)
    except OSError:
        return ""
