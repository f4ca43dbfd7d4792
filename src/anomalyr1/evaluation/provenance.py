"""Where evaluated data comes from, what its model was trained on, and what the two share.

What is found: training data named in the run folder of the model (`RUN/recipe.yaml`, the model being
`RUN/final` or one of its checkpoints), and all that `data.leaks` finds between it and the evaluated samples.
What is not: what the makers of the base weights trained on, and training data that is no longer where the
recipe says.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anomalyr1.data import sources
from anomalyr1.drawn import dataset as drawn_dataset
from anomalyr1.files import read_yaml
from anomalyr1.types import InputError, Record, Sample, SetupError

if TYPE_CHECKING:
    from anomalyr1.data.splits import Manifest

NANO = ("nano", "nano-raw")
NANO_DATA = "The bundled nano policy was trained on drawn parts (docs/lab/nano.md) and on no photograph."
UNKNOWN_DATA = (
    "The model has no run folder of ours: what it was trained on is not known here, "
    "so overlaps cannot be ruled out."
)
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
    """What follows for the figures, in words."""
    leak_free: bool | None
    """Whether training and evaluated data share nothing; None = cannot be told."""
    overlaps: dict[str, int]
    """Kind of overlap -> how many evaluated samples it gives away."""
    examples: tuple[Overlap, ...]
    """Some of the overlaps."""


def questions_digest(samples: Iterable[Sample], with_context: bool) -> str:
    """A digest of what is asked: ids, texts, options and gold answers of all questions.

    `with_context` adds what is shown beside the image: knowledge and the names of reference images.
    """
    digest = hashlib.sha256()
    for sample in samples:
        parts = [sample.id]
        if with_context:
            parts += [sample.knowledge, *(path.name for path in sample.references)]
        for question in sample.questions:
            boxes = () if question.boxes is None else [box.xyxy for box in question.boxes]
            parts += [question.id, question.text, *question.options, str(question.answer), repr(boxes)]
        digest.update("\0".join(parts).encode("utf-8", "surrogatepass") + b"\1")
    return digest.hexdigest()[:16]


def training_data(model: str) -> tuple[str, ...] | None:
    """The specs that the run of a model folder learned from; None when the model has no run folder of ours.

    Raises `InputError` when the recipe of the run cannot be read.
    """
    folder = Path(model)
    paths = [folder / "recipe.yaml", folder.parent / "recipe.yaml"] if folder.is_dir() else []
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    try:
        recipe = read_yaml(path)
    except InputError as error:
        raise InputError(f"{error}, so it is not known what was trained on") from error
    specs = recipe.get("data") if isinstance(recipe, dict) else None
    if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
        raise InputError(
            f"{str(path)!r} has no list of specs under data, so it is not known what was trained on"
        )
    return tuple(specs)


def examine(model: str, loaded: sources.LoadedSource) -> Provenance:
    """What is to be said about a model on these samples; opens images where the training data is known."""
    trained_on: tuple[str, ...] = ()
    overlaps: list[Overlap] = []
    leak_free: bool | None = None
    try:
        specs = training_data(model)
    except InputError as error:
        statement = f"Overlaps cannot be ruled out: {error}"
    else:
        if specs is None:
            statement = NANO_DATA if model in NANO else UNKNOWN_DATA
        else:
            trained_on = specs
            statement, leak_free, overlaps = _compare(specs, loaded.samples)
    overlaps += _reference_overlaps(loaded.samples)
    return Provenance(
        protocol=_protocol(loaded.split),
        trained_on=trained_on,
        statement=statement,
        leak_free=leak_free,
        overlaps=dict(Counter(overlap.kind for overlap in overlaps)),
        examples=tuple(overlaps[:EXAMPLES]),
    )


def _protocol(split: Manifest | None) -> str:
    """How the evaluated samples were chosen, in words."""
    if split is None:
        return "all samples of the data; no split"
    plan = split.plan
    if plan.protocol == "few-shot":
        details = f"{plan.shots} images of each kind a {plan.per} to train on"
    elif plan.protocol == "share":
        details = f"{100 * plan.share:g} % to train on and {100 - 100 * plan.share:g} % to test on"
    else:
        details = f"held out: {', '.join(plan.held_out)}" if plan.held_out else "two sets as they are"
    leaks = ", ".join(f"{n} {kind}" for kind, n in split.leaks.counts.items())
    between = f"leaks allowed when it was made: {leaks}" if leaks else "no leaks between its sides"
    return f"test side of a split: {plan.protocol} ({details}), seed {plan.seed}; {between}"


def _compare(specs: Sequence[str], samples: Sequence[Sample]) -> tuple[str, bool | None, list[Overlap]]:
    """What follows from the training data, whether it is free of leaks, and the overlaps."""
    try:
        number, overlaps = _overlaps(specs, samples)
    except (InputError, SetupError) as error:
        problem = f"The training data could not be looked at, so overlaps cannot be ruled out: {error}"
        return problem, None, []
    sizes = f"{number} training and {len(samples)} evaluated samples"
    if overlaps:
        leaked = len({overlap.test for overlap in overlaps})
        return f"NOT leak-free: {leaked} evaluated samples are given away ({sizes}).", False, overlaps
    return f"Leak-free as far as can be seen: no overlap between {sizes}.", True, []


def _overlaps(specs: Sequence[str], samples: Sequence[Sample]) -> tuple[int, list[Overlap]]:
    """How many samples were trained on, and what gives evaluated samples away.

    Drawn parts are told by their ids, without drawing them.
    """
    from anomalyr1.data import leaks

    drawn_ids: set[str] = set()
    learned: list[Sample] = []
    for spec in specs:
        if spec.startswith("drawn:"):
            drawn_ids.update(drawn_dataset.sample_ids(spec))
        else:
            learned += sources.load_source(spec, {}, Path(), "train").samples
    overlaps = [
        Overlap(kind="exact", train=sample.id, test=sample.id) for sample in samples if sample.id in drawn_ids
    ]
    if learned:
        overlaps += [Overlap.model_validate(leak.model_dump()) for leak in leaks.find(learned, samples)]
    return len(drawn_ids) + len(learned), overlaps


def _reference_overlaps(samples: Sequence[Sample]) -> list[Overlap]:
    """Evaluated samples that serve as the reference image of another one."""
    ids = {sample.image: sample.id for sample in samples}
    shown_beside: dict[Path, str] = {}
    for sample in samples:
        for path in sample.references:
            if ids.get(path, sample.id) != sample.id:
                shown_beside[path] = sample.id
    return [
        Overlap(kind="reference", train=sample_id, test=ids[path], detail="shown as good beside it")
        for path, sample_id in shown_beside.items()
    ]
