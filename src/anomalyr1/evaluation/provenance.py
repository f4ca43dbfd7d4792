"""Where evaluated data comes from, what the model was trained on as far as its run folder says, and what the two share.

What is found: training data named in the run folder of the model (`RUN/recipe.yaml`, the model being
`RUN/final` or one of its checkpoints), and all that `data.leaks` finds between it and the evaluated samples.
What is not: what the makers of the base weights trained on, and training data that is no longer where the
recipe says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anomalyr1.data.sources import LoadedSource, load_source
from anomalyr1.drawn import dataset as drawn_dataset
from anomalyr1.types import InputError, Record, Sample, SetupError

if TYPE_CHECKING:
    from anomalyr1.data.splits import Manifest

NANO = ("nano", "nano-raw")
EXAMPLES = 20
"""So many overlaps are named; all are counted."""


class Overlap(Record):
    """An evaluated sample that the training data, or a reference image, gives away."""

    kind: str
    """One of `data.leaks.LeakKind`."""
    train: str
    test: str
    detail: str = ""


class Provenance(Record):
    """How honest a figure is."""

    protocol: str
    """How the evaluated samples were chosen, in words."""
    trained_on: tuple[str, ...]
    """Specs of the training data; empty when not known."""
    statement: str
    """What follows, in words."""
    leak_free: bool | None
    """None = cannot be told."""
    overlaps: dict[str, int]
    """Kind of overlap -> evaluated samples."""
    examples: tuple[Overlap, ...]


def questions_digest(samples: Iterable[Sample], given: bool) -> str:
    """A digest of what is asked: ids, texts, options and gold answers; with `given`, knowledge and names of reference images too."""
    whole = hashlib.sha256()
    for sample in samples:
        parts = [
            sample.id,
            *((sample.knowledge, *(path.name for path in sample.references)) if given else ()),
        ]
        for question in sample.questions:
            boxes = () if question.boxes is None else [box.xyxy for box in question.boxes]
            parts += [question.id, question.text, *question.options, str(question.answer), repr(boxes)]
        whole.update("\0".join(parts).encode("utf-8", "surrogatepass") + b"\1")
    return whole.hexdigest()[:16]


def training_data(model: str) -> tuple[str, ...] | None:
    """The specs that the run of a model folder learned from; None when the model has no run folder of ours.

    Raises `InputError` when the recipe of the run cannot be read.
    """
    import yaml

    folder = Path(model)
    run = (
        next((one for one in (folder, folder.parent) if (one / "recipe.yaml").is_file()), None)
        if folder.is_dir()
        else None
    )
    if run is None:
        return None
    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"{str(run / 'recipe.yaml')!r} cannot be read ({error}), so it is not known what was trained on"
        ) from error
    specs = recipe.get("data") if isinstance(recipe, dict) else None
    if not isinstance(specs, list) or not all(isinstance(one, str) for one in specs):
        raise InputError(
            f"{str(run / 'recipe.yaml')!r} has no list of specs under data, so it is not known what was trained on"
        )
    return tuple(specs)


def examine(model: str, loaded: LoadedSource) -> Provenance:
    """What is to be said about a model on these samples; opens images only when the training data is known."""
    references = _reference_overlaps(loaded.samples)
    common: dict[str, object] = {"protocol": _protocol(loaded.split), "trained_on": ()}
    try:
        trained = training_data(model)
    except InputError as error:
        return _provenance(common, f"Overlaps cannot be ruled out: {error}", None, references)
    if trained is None:
        known = (
            "The bundled nano policy was trained on drawn parts (docs/nano.md) and on no photograph."
            if model in NANO
            else "The model has no run folder of ours: what it was trained on is not known here, so overlaps cannot be ruled out."
        )
        return _provenance(common, known, None, references)
    common["trained_on"] = trained
    try:
        number, found = _overlaps(trained, loaded.samples)
    except (InputError, SetupError) as error:
        return _provenance(
            common,
            f"The training data could not be looked at, so overlaps cannot be ruled out: {error}",
            None,
            references,
        )
    sizes = f"{number} training and {len(loaded.samples)} evaluated samples"
    if found:
        concerned = len({one.test for one in found})
        return _provenance(
            common,
            f"NOT leak-free: {concerned} evaluated samples are given away ({sizes}).",
            False,
            [*found, *references],
        )
    return _provenance(
        common, f"Leak-free as far as can be seen: no overlap between {sizes}.", True, references
    )


def _provenance(
    common: Mapping[str, object], statement: str, leak_free: bool | None, found: Sequence[Overlap]
) -> Provenance:
    counts: dict[str, int] = {}
    for one in found:
        counts[one.kind] = counts.get(one.kind, 0) + 1
    more = {
        "statement": statement,
        "leak_free": leak_free,
        "overlaps": counts,
        "examples": tuple(found[:EXAMPLES]),
    }
    return Provenance.model_validate({**common, **more})


def _protocol(split: Manifest | None) -> str:
    if split is None:
        return "all samples of the data; no split"
    plan = split.plan
    details = {
        "few-shot": f"{plan.shots} images of each kind a {plan.per} to train on",
        "share": f"{100 * plan.share:g} % to train on and {100 - 100 * plan.share:g} % to test on",
    }
    left_out = f"held out: {', '.join(plan.held_out)}" if plan.held_out else "two sets as they are"
    leaks = ", ".join(f"{n} {kind}" for kind, n in split.leaks.counts.items())
    found = f"leaks allowed when it was made: {leaks}" if leaks else "no leaks between its sides"
    return f"test side of a split: {plan.protocol} ({details.get(plan.protocol, left_out)}), seed {plan.seed}; {found}"


def _overlaps(trained: Sequence[str], samples: Sequence[Sample]) -> tuple[int, list[Overlap]]:
    """How many samples were trained on, and what gives evaluated samples away; drawn parts are told by their ids, without drawing them."""
    from anomalyr1.data import leaks

    drawn = {name for spec in trained if spec.startswith("drawn:") for name in drawn_dataset.sample_ids(spec)}
    learned = [
        one
        for spec in trained
        if not spec.startswith("drawn:")
        for one in load_source(spec, {}, Path(), "train").samples
    ]
    found = [Overlap(kind="exact", train=one.id, test=one.id) for one in samples if one.id in drawn]
    found += [
        Overlap.model_validate(leak.model_dump())
        for leak in (leaks.find(learned, samples) if learned else ())
    ]
    return len(drawn) + len(learned), found


def _reference_overlaps(samples: Sequence[Sample]) -> list[Overlap]:
    """Evaluated samples that serve as the reference image of another one."""
    images = {sample.image: sample.id for sample in samples}
    given = {
        path: sample.id
        for sample in samples
        for path in sample.references
        if path in images and images[path] != sample.id
    }
    return [
        Overlap(kind="reference", train=asked, test=images[path], detail="shown as good beside it")
        for path, asked in given.items()
    ]
