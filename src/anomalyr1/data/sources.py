"""Which samples a spec names: a data set, a split of one, or drawn parts, which are drawn into a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anomalyr1 import data
from anomalyr1.data import splits as fewshot
from anomalyr1.data.samples import require_unique
from anomalyr1.data.splits import Side
from anomalyr1.types import InputError, Sample

if TYPE_CHECKING:
    from anomalyr1.data.splits import Manifest, Side


SPLIT = "split:"
"""A spec that names one side of a split which `anomalyr1 data split` wrote."""


class Loaded(NamedTuple):
    """Samples to evaluate on."""

    samples: list[Sample]
    notes: dict[str, int]
    """What was found while loading, under its name."""
    split: Manifest | None


def load(spec: str, options: Mapping[str, object], folder: Path, side: Side = "test") -> Loaded:
    """The samples of a spec with their boxes, or one side of a split (`split:FILE`); drawn parts are drawn into `folder`.

    Raises `InputError` as `data.load` and `fewshot.select` do, and for options beside a split, which holds
    its own.
    """
    from anomalyr1 import data

    if not spec.startswith(SPLIT):
        drawn = {"folder": folder} if spec.startswith("drawn") else {}
        samples = data.load(spec, **(drawn | dict(options)))
        # MMAD asks for no boxes, and may be evaluated from a file without its images and masks.
        as_asked = "boxes" in options or spec.startswith("mmad:")
        return Loaded(list(samples if as_asked else samples.with_boxes()), dict(samples.notes), None)
    from anomalyr1.data import splits as fewshot

    manifest = fewshot.read(spec.removeprefix(SPLIT))
    source, own = manifest.source(side)
    if both := sorted(set(own) & set(options)):
        raise InputError(f"{spec!r} sets {', '.join(both)} itself; leave the option out")
    whole = load(source, {**own, **options}, folder)
    return Loaded(fewshot.select(manifest, whole.samples, side), whole.notes, manifest)


LICENCES = {
    "mmad": "CC BY-NC-SA 4.0 (MMAD and the data sets in it): not for commercial use",
    "mvtec": "CC BY-NC-SA 4.0: not for commercial use",
    "loco": "CC BY-NC-SA 4.0: not for commercial use",
    "visa": "CC BY 4.0",
    "goodsad": "see its authors' page: research use",
    "elpv": "CC BY-NC-SA 4.0: not for commercial use",
    "drawn": "drawn by this package, free of rights of others",
}
"""Of the data, by the scheme of its spec."""


def load_samples(specs: Sequence[str], folder: Path, side: Side = "train") -> list[Sample]:
    """The samples of the specs of a recipe, with boxes from their masks; `split:FILE` is one `side` of a split of `data split`.

    Drawn parts are drawn into `folder`. Raises `InputError` as `data.load` does, and for ids that come twice.
    """
    found: list[Sample] = []
    for spec in specs:
        if spec.startswith("split:"):
            found += _side_of(spec, folder, side)
        else:
            found += _load(spec, {}, folder)
    require_unique((sample.id for sample in found), ", ".join(specs))
    return found


def _side_of(spec: str, folder: Path, side: Side) -> list[Sample]:
    manifest = fewshot.read(spec.partition(":")[2])
    return fewshot.select(manifest, _load(*manifest.source(side), folder), side)


def _load(spec: str, options: Mapping[str, str], folder: Path) -> list[Sample]:
    own: dict[str, object] = {"folder": folder / "drawn"} if spec.startswith("drawn") else {}
    return list(data.load(spec, **(own | dict(options))).with_boxes())
