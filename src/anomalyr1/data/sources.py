"""Which samples a spec names: a data set, one side of a split, or parts that are drawn into a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from anomalyr1.data import splits
from anomalyr1.data.loading import load
from anomalyr1.data.samples import require_unique
from anomalyr1.data.splits import Manifest, Side
from anomalyr1.types import InputError, Sample

SPLIT = "split:"
"""Opens a spec that names one side of a split which `anomalyr1 data split` wrote."""

LICENCES = {
    "mmad": "CC BY-NC-SA 4.0 (MMAD and the data sets in it): not for commercial use",
    "mvtec": "CC BY-NC-SA 4.0: not for commercial use",
    "loco": "CC BY-NC-SA 4.0: not for commercial use",
    "visa": "CC BY 4.0",
    "goodsad": "see its authors' page: research use",
    "elpv": "CC BY-NC-SA 4.0: not for commercial use",
    "drawn": "drawn by this package, free of rights of others",
}
"""Licences of the data, by the scheme of its spec."""

HAD_FROM = {
    "mmad": "MMAD's images and questions are had from https://github.com/jam-cc/MMAD",
}
"""Where a data set is had, in words, by the scheme of its spec."""

Boxes = Literal["always", "unless MMAD", "as asked"]
"""When masks are opened for boxes.

Always; or unless the options say how, or the data is MMAD, which asks for no boxes and may be there without
its images and masks; or only where the options ask for it."""


class LoadedSource(NamedTuple):
    """The samples of a spec, and where they come from."""

    samples: list[Sample]
    notes: dict[str, int]
    """What was found while loading, under its name."""
    split: Manifest | None
    """The split that the samples are one side of; None where the spec names none."""


def load_source(
    spec: str,
    options: Mapping[str, object] | None = None,
    folder: Path | None = None,
    side: Side = "test",
    boxes: Boxes = "unless MMAD",
    base: Path | None = None,
) -> LoadedSource:
    """The samples of a data set, or one `side` of a split (`split:FILE`); parts are drawn into `folder`.

    `boxes` says when masks are opened for boxes. Relative paths begin at `base`, where that is given and
    something lies there, else in the working folder; those that a split names also beside it. Raises
    `InputError` as `loading.load` and `splits.select` do, and for options that the split sets itself.
    """
    loader_options = dict(options or {})
    spec = _placed(spec, base)
    if spec.startswith(SPLIT):
        split_file = Path(spec.removeprefix(SPLIT))
        manifest = splits.read(split_file)
        split_spec, split_options = manifest.source(side)
        conflicts = sorted(split_options.keys() & loader_options.keys())
        if conflicts:
            raise InputError(f"{spec!r} sets {', '.join(conflicts)} itself; leave the option out")
        split_spec = _placed(split_spec, split_file.parent)
        source = load_source(split_spec, split_options | loader_options, folder, side, boxes, base)
        return LoadedSource(splits.select(manifest, source.samples, side), source.notes, manifest)
    scheme = spec.partition(":")[0]
    if scheme == "drawn" and folder is not None:
        loader_options.setdefault("folder", folder)
    samples = load(spec, **loader_options)
    if boxes == "always" or (boxes == "unless MMAD" and scheme != "mmad" and "boxes" not in loader_options):
        samples = samples.with_boxes()
    return LoadedSource(list(samples), dict(samples.notes), None)


def _placed(spec: str, base: Path | None) -> str:
    """A spec whose relative path is one from the working folder, where something lies at it below `base`."""
    scheme, colon, place = spec.partition(":")
    if base is None or not place or Path(place).expanduser().is_absolute():
        return spec
    if base.resolve() == Path.cwd() or not os.path.lexists(base / place):
        return spec
    return f"{scheme}{colon}{base / place}"


def load_sources(specs: Sequence[str], folder: Path, side: Side = "train") -> list[Sample]:
    """The samples of several specs, all with boxes from their masks; parts are drawn into `folder`.

    Raises `InputError` as `load_source` does, and for ids that come twice.
    """
    samples = [sample for spec in specs for sample in load_source(spec, None, folder, side, "always").samples]
    require_unique((sample.id for sample in samples), ", ".join(specs))
    return samples
