"""Which samples a spec names: a data set, one side of a split, or parts that are drawn into a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from anomalyr1.data import splits
from anomalyr1.data.loading import SCHEMES, load
from anomalyr1.data.places import data_folders, lies_below, resolve_place
from anomalyr1.data.samples import require_unique
from anomalyr1.data.splits import Manifest, Side
from anomalyr1.types import InputError, Sample, quoted

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
MOST_DRAWN = 10_000
"""So many parts are drawn because a file names them; a user may have more drawn."""

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

    `boxes` says when masks are opened for boxes. What a split names lies where `places.resolve_place` finds
    it. Raises `InputError` as `loading.load` and `splits.select` do, for options that the split sets itself,
    and for data that it may not name.
    """
    loader_options = dict(options or {})
    if spec.startswith(SPLIT):
        file = Path(spec.removeprefix(SPLIT))
        manifest = splits.read(file)
        split_spec, split_options = named_by(file, *manifest.source(side), base)
        conflicts = sorted(split_options.keys() & loader_options.keys())
        if conflicts:
            raise InputError(f"{spec!r} sets {', '.join(conflicts)} itself; leave the option out")
        source = load_source(split_spec, split_options | loader_options, folder, side, boxes)
        return LoadedSource(splits.select(manifest, source.samples, side), source.notes, manifest)
    scheme = spec.partition(":")[0]
    if scheme == "drawn" and folder is not None:
        loader_options.setdefault("folder", folder)
    samples = load(spec, **loader_options)
    if boxes == "always" or (boxes == "unless MMAD" and scheme != "mmad" and "boxes" not in loader_options):
        samples = samples.with_boxes()
    return LoadedSource(list(samples), dict(samples.notes), None)


def load_named(file: Path, spec: str, options: Mapping[str, str], base: Path | None = None) -> LoadedSource:
    """The samples of a spec that a file names, or the test side of a split that it names.

    Relative paths begin at `base` (see `places.resolve_place`); parts are drawn below the file's folder.
    Raises as `load_source` does, and for what a file may not name (`places`).
    """
    if spec.startswith(SPLIT):
        spec = f"{SPLIT}{resolve_place(Path(spec.removeprefix(SPLIT)), file, base)}"
        options = _without_permissions(options)
    else:
        spec, options = named_by(file, spec, options, base)
    return load_source(spec, options, file.parent / "drawn", base=base)


def named_by(
    file: Path, spec: str, options: Mapping[str, str], base: Path | None = None
) -> tuple[str, dict[str, str]]:
    """Spec and options that a file names, as they are loaded.

    Where parts are drawn to (`folder`) the user alone says, and whether links are followed (`links`), too,
    but for data below `ANOMALYR1_DATA`: the file's word is left out. Raises `InputError` for what a file may
    not name (`places`), and for more parts to draw than `MOST_DRAWN`.
    """
    scheme, _, location = spec.partition(":")
    if scheme == "drawn":
        number = re.search(r"[?&]n=0*([0-9]+)", location)
        if number and (len(number[1]) > 9 or int(number[1]) > MOST_DRAWN):
            raise InputError(
                f"{str(file)!r} draws more than {MOST_DRAWN:,} parts ({quoted(spec)}); give the spec itself"
            )
        return spec, {}
    if scheme not in SCHEMES:  # a split of a split, which nobody makes, could go on for ever
        raise InputError(f"{str(file)!r} names {quoted(spec)}, which is no kind of data set")
    checked_options = _without_permissions(options)
    if "root" in options:
        checked_options["root"] = str(resolve_place(Path(options["root"]), file, base))
    if location:
        place = resolve_place(Path(os.path.expanduser(location)), file, base)  # noqa: PTH111  # as `load` does
        spec = f"{scheme}:{place}"
        if "links" in options and lies_below(place, data_folders()):
            checked_options["links"] = options["links"]
    return spec, checked_options


def _without_permissions(options: Mapping[str, str]) -> dict[str, str]:
    """The options without those by which the user alone says where is written and what is followed."""
    return {name: value for name, value in options.items() if name not in ("folder", "links")}


def load_sources(specs: Sequence[str], folder: Path, side: Side = "train") -> list[Sample]:
    """The samples of several specs, all with boxes from their masks; parts are drawn into `folder`.

    Raises `InputError` as `load_source` does, and for ids that come twice.
    """
    samples = [sample for spec in specs for sample in load_source(spec, None, folder, side, "always").samples]
    require_unique((sample.id for sample in samples), ", ".join(specs))
    return samples
