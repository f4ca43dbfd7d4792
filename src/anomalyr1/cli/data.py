"""The verbs about data: `anomalyr1 data check`, `split`, `stats`, `export`, `show`, `extract`.

Exit codes as for all verbs; `check` gives 2 when samples have problems.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anomalyr1.cli.outputs import require_output
from anomalyr1.cli.terminal import OK, SOME_FAILED, Options, loader_options, say
from anomalyr1.errors import InputError

if TYPE_CHECKING:
    from anomalyr1.data import splits
    from anomalyr1.data.samples import Samples
    from anomalyr1.types import Box, Question, Sample

Spec = Annotated[
    str, typer.Argument(help="What to load, e.g. mmad:FOLDER, mvtec:FOLDER, coco:FILE, jsonl:FILE.")
]
Protocols = Literal["few-shot", "share", "leave-classes-out", "leave-defects-out", "leave-datasets-out"]
Formats = Literal["coco", "yolo", "jsonl", "hf"]


def check(
    spec: Spec,
    option: Options = None,
    family: Annotated[
        str, typer.Option(help="Model family in whose coordinates gold boxes are written.")
    ] = "qwen2_5_vl",
    max_pixels: Annotated[
        int | None, typer.Option(help="Pixel cap of the model; default: 1280 image tokens.")
    ] = None,
) -> int:
    """List what is wrong: missing files, masks, boxes, labels, questions, and gold answers that do not earn
    full reward.
    """
    from anomalyr1.evaluation import checks

    samples = load(spec, option)
    _say_notes(samples.notes)
    problems = checks.check(checks.readable(samples), family, max_pixels)
    for problem in problems:
        say(f"{problem.sample_id}: {problem.what}; {problem.fix}")
    unlabelled = sum(sample.anomalous is None for sample in samples.without_opening())
    if 0 < unlabelled < len(samples):
        say(f"note: {unlabelled} of {len(samples)} samples have no verdict")
    concerned = len({problem.sample_id for problem in problems})
    say(
        f"{len(samples)} samples checked: {len(problems) or 'no'} "
        f"problems{f' of {concerned} samples' if problems else ''}"
    )
    return SOME_FAILED if problems else OK


def split(
    spec: Spec,
    out: Annotated[
        Path, typer.Option(help="The file to write: ids and hashes of all images, and how they were drawn.")
    ],
    protocol: Annotated[
        Protocols | None, typer.Option(help="How to split; few-shot when none is given.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Good and anomalous images of each class to train on.")
    ] = None,
    good_shots: Annotated[
        int | None, typer.Option(min=0, help="Good images of each class where that is another number.")
    ] = None,
    per: Annotated[
        Literal["class", "defect"],
        typer.Option(help="Whether shots are of each class or of each defect type."),
    ] = "class",
    share: Annotated[
        float, typer.Option(min=0.001, max=0.999, help="Share to train on, for the protocol share.")
    ] = 0.2,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(help="Class, defect or data set to test on; may be given more than once."),
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Another spec to test on; SPEC is then trained on as it is.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.")] = 0,
    allow_short: Annotated[
        bool, typer.Option("--allow-short", help="Let classes with too few images give what they have.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write over another split, which a run may have been trained on.")
    ] = False,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Write the split although the test set leaks; it says so.")
    ] = False,
    drop_leaks: Annotated[
        bool, typer.Option("--drop-leaks", help="Leave test images that leak out of the test set, counted.")
    ] = False,
    max_distance: Annotated[
        int, typer.Option(min=0, max=256, help="Bits of 256 in which hashes of copies differ.")
    ] = 16,
    option: Options = None,
    test_option: Annotated[
        list[str] | None, typer.Option(help="Option of the loader of --test as key=value.")
    ] = None,
) -> int:
    """Choose what to train and what to test on, and look for leaks between the two."""
    from anomalyr1.data import splits
    from anomalyr1.data.protocols import SplitPlan
    from anomalyr1.evaluation.statistics import warn_of_few

    require_output("data split", out, (spec, test))
    samples = test_samples = load(spec, option)
    plan = SplitPlan(
        protocol="given" if test is not None else protocol or "few-shot",
        seed=seed,
        shots=shots,
        good_shots=good_shots,
        per=per,
        share=share,
        held_out=tuple(hold_out or ()),
        allow_short=allow_short,
        drop_leaks=drop_leaks,
        max_distance=max_distance,
    )
    if test is None:
        manifest = splits.make(samples, plan, spec, loader_options(option), allow_leaks)
    elif protocol is not None:
        raise InputError("--test takes both sets as they are, so it goes without --protocol")
    else:
        test_samples = load(test, test_option)
        manifest = splits.pair(
            samples,
            test_samples,
            plan,
            (spec, test),
            (loader_options(option), loader_options(test_option)),
            allow_leaks,
        )
    if out.exists() and not force and splits.to_bytes(manifest) != out.read_bytes():
        raise InputError(
            f"{str(out)!r} holds another split, which a run may have been trained on; name another file with "
            "--out, or write over it with --force"
        )
    splits.write(out, manifest)
    test_ids = {entry.id for entry in manifest.test}
    truths = Counter(sample.anomalous for sample in test_samples if sample.id in test_ids)
    for name, number in (
        ("train", len(manifest.train)),
        ("test", len(manifest.test)),
        *manifest.counts.items(),
    ):
        say(f"{name}: {number}")
    leaks = ", ".join(f"{number} {kind}" for kind, number in manifest.leaks.counts.items())
    say(f"leaks: {f'{leaks} (allowed, and written down)' if leaks else 'none found'}")
    if warning := warn_of_few({"good images": truths[False], "anomalous images": truths[True]}):
        say(f"warning: to test on there are {warning}; take fewer --shots, or add images")
    say(f"split: {out}")
    say(f"next: {_environment(out, manifest)}anomalyr1 train nano-sft {shlex.quote(f'data=split:{out}')}")
    return OK


def _environment(out: Path, manifest: splits.Manifest) -> str:
    """What must stand before a command that reads a split, where its data, which its user has named, lie
    elsewhere.
    """
    from anomalyr1.data import sources
    from anomalyr1.data.places import VARIABLE, PlaceError, data_folders

    elsewhere = dict.fromkeys(data_folders())
    for spec, _ in (manifest.source("train"), manifest.source("test")):
        try:
            sources.named_by(out, spec, {})
        except PlaceError:
            place = Path(os.path.expanduser(spec.partition(":")[2])).resolve()  # noqa: PTH111  # as `load` does
            elsewhere[place if place.is_dir() else place.parent] = None
        except InputError as error:
            say(f"note: {error}")
    if len(elsewhere) == len(data_folders()):
        return ""
    setting = f"{VARIABLE}={shlex.quote(os.pathsep.join(map(str, elsewhere)))}"
    say(f"note: its data lie elsewhere, so whatever reads it needs this in the environment: {setting}")
    return f"{setting} "


def stats(
    spec: Spec,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("stats.html"),
    option: Options = None,
) -> int:
    """Draw a page: balance of classes, defects and gold answers, sizes of boxes, example pictures."""
    import anomalyr1
    from anomalyr1.evaluation import checks
    from anomalyr1.report import dataset_page as dataset

    require_output("data stats", out, (spec,))
    samples = load(spec, option)
    summary = dataset.write(out, spec, checks.readable(samples), samples.notes, anomalyr1.__version__)
    sides = summary.sides()
    classes = f"{len(summary.classes)} class{'' if len(summary.classes) == 1 else 'es'}"
    say(
        f"{summary.samples} samples of {classes}: "
        f"{', '.join(f'{sides[side]} {side}' for side in dataset.SIDES)}"
    )
    say(f"page: {out}")
    return OK


def export(
    spec: Spec,
    to: Annotated[Formats, typer.Option(help="The format.")],
    out: Annotated[Path, typer.Option(help="The folder to make; images are copied into it.")],
    split_file: Annotated[
        Path | None, typer.Option("--split", help="Only one side of a split that `split` wrote.")
    ] = None,
    side: Annotated[Literal["train", "test"], typer.Option(help="Which side of the split.")] = "train",
    option: Options = None,
) -> int:
    """Write samples in another format; what it cannot hold is counted and named."""
    from anomalyr1.data import export as exports
    from anomalyr1.data import splits

    require_output("data export", out, (spec, split_file))
    loaded = load(spec, option).with_boxes()
    samples: Sequence[Sample] = (
        loaded if split_file is None else splits.select(splits.read(split_file), loaded, side)
    )
    done = exports.export(samples, to, out)
    say(f"{done.samples} of {len(samples)} samples exported to {out}")
    for what, counted in (("dropped", done.dropped), ("left out", done.left_out)):
        for name, number in counted.items():
            say(f"{what}: {name}, {number} samples")
    if done.load:
        say(f"load it with: {done.load}")
    return OK


def show(
    spec: Spec,
    sample_id: Annotated[str, typer.Argument(metavar="ID", help="The sample's id.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The picture to write; default: a name made from the id, in this folder."),
    ] = None,
    option: Options = None,
) -> int:
    """Print a sample and write its picture with boxes and mask."""
    import io

    from PIL.PngImagePlugin import PngInfo

    from anomalyr1.evaluation import checks
    from anomalyr1.files import write_whole
    from anomalyr1.report import dataset_page as dataset
    from anomalyr1.report.inspection_page import overlay_name

    path = out or Path(overlay_name(sample_id))
    require_output("data show", path, (spec,))
    samples = load(spec, option)
    sample = next(checks.readable(samples.select([_find(samples, sample_id)])))
    for line in _described(sample):
        say(line)
    picture = dataset.picture(sample)
    buffer = io.BytesIO()
    origin = PngInfo()
    origin.add_text("Software", "AnomalyR1 data show")
    picture.save(buffer, "PNG", pnginfo=origin)
    write_whole(path, buffer.getvalue())
    say(f"picture: {path}, {picture.width} x {picture.height} pixels")
    return OK


def extract(
    archive: Annotated[Path, typer.Argument(help="A zip, tar, tar.gz, tar.bz2 or tar.xz file.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    max_ratio: Annotated[
        float, typer.Option(min=1, help="How many times larger than the archive its content may be.")
    ] = 100,
) -> int:
    """Unpack a downloaded archive, whole or not at all; links, devices and paths that lead elsewhere are
    refused.
    """
    from anomalyr1.data.archives import ArchiveLimits
    from anomalyr1.data.archives import extract as unpack

    require_output("data extract", out, (archive,))
    done = unpack(archive, out, ArchiveLimits(max_ratio=max_ratio))
    say(f"{done.files} files, {done.bytes:,} bytes in {done.folder}")
    return OK


def load(spec: str, options: Sequence[str] | None) -> Samples:
    """The samples of a spec, with options as `key=value`. Raises `InputError` as `data.load` does."""
    from anomalyr1.data import loading

    return loading.load(spec, **loader_options(options))


def _say_notes(notes: Mapping[str, int]) -> None:
    for what, number in notes.items():
        say(f"note: {what}: {number}")


def _find(samples: Samples, sample_id: str) -> int:
    """The position of a sample. Raises `InputError` that names ids which look alike."""
    import difflib

    alike: list[str] = []
    for place, sample in enumerate(samples.without_opening()):
        if sample.id == sample_id:
            return place
        if sample_id in sample.id or len(alike) < 2000:
            alike.append(sample.id)
    near = (
        [name for name in alike if sample_id in name][:5]
        or difflib.get_close_matches(sample_id, alike, 5, 0.3)
        or alike[:5]
    )
    raise InputError(
        f"there is no sample {sample_id!r} in {samples.spec!r}; there are, e.g., {', '.join(map(repr, near))}"
    )


def _described(sample: Sample) -> list[str]:
    """A sample in lines for people."""
    verdict = {None: "unknown", False: "good", True: "anomalous"}[sample.anomalous]
    facts = {
        "id": sample.id,
        "image": str(sample.image),
        "data set": sample.dataset,
        "category": sample.category,
        "verdict": f"{verdict}{', logical' if sample.logical else ''}",
        "defect": sample.defect or "",
        "mask": str(sample.mask or ""),
        "references": ", ".join(map(str, sample.references)),
        "knowledge": sample.knowledge,
        "boxes": _boxes(sample.boxes),
    }
    lines = [f"{name + ':':12}{text}" for name, text in facts.items() if text]
    for question in sample.questions:
        lines += _asked(question)
    return lines


def _asked(question: Question) -> list[str]:
    lines = [f"{question.kind}: {question.text}"]
    for letter, text in zip(question.letters, question.options, strict=True):
        lines.append(f"  {'*' if letter == question.answer else ' '} {letter}. {text}")
    return lines if question.options else [*lines, f"  * {_boxes(question.boxes)}"]


def _boxes(boxes: Sequence[Box] | None) -> str:
    if boxes is None:
        return "unknown"
    return (
        "; ".join(f"{box.label} ({', '.join(f'{value:g}' for value in box.xyxy)})".strip() for box in boxes)
        or "none"
    )
