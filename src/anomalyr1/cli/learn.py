"""The verb `anomalyr1 learn`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyr1.cli.outputs import require_output
from anomalyr1.cli.terminal import OK, find_images, loader_options, progress_bar, say, stop_explained
from anomalyr1.errors import InputError

if TYPE_CHECKING:
    from anomalyr1.evidence.bank import Bank
    from anomalyr1.evidence.learning import Settings
    from anomalyr1.types import Sample

WITHOUT_SIDES = ("drawn", "jsonl")
"""Data sets that have no train side of their own."""


def learn(
    good: Annotated[
        list[str],
        typer.Argument(help="Images of good parts, folders of them, or a data set such as mvtec:FOLDER."),
    ],
    out: Annotated[Path, typer.Option(help="The file to write; a page of the same name lies beside it.")],
    learned: Annotated[
        int | None,
        typer.Option("--learn", min=1, help="Learn from so many; the others promise. Default: 8."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="efficientnet-lite0 (default), dinov2-small, a DINOv2 folder, package.module:name."
        ),
    ] = None,
    rotations: Annotated[bool, typer.Option("--rotations", help="Parts may lie turned by quarters.")] = False,
    category: Annotated[str | None, typer.Option(help="The class of a data set that has several.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="Option of the data set's loader as key=value."),
    ] = None,
) -> int:
    """Learn what good parts look like, from a few of them, so that `inspect --bank` can measure new ones."""
    from anomalyr1.evidence.learning import Settings
    from anomalyr1.report import learn_page

    page = out.with_suffix(".html")
    if page == out:
        raise InputError(f"{str(out)!r} is the name of a page; name the bank otherwise, e.g. housing.bank")
    for path in (out, page):
        require_output("learn", path, good)
    given_settings = {"backbone": backbone, "rotations": rotations}
    settings = Settings.model_validate(
        {name: value for name, value in given_settings.items() if value is not None}
    )
    images, notes = _without_copies(_find_good(good, out, category, loader_options(option)))
    for note in notes:
        say(note)
    with stop_explained(lambda: "stopped: nothing was written"):
        bank = learn_images(images, settings, learned)
        bank.write(out)
        with progress_bar("page", len(bank.parts)) as show:
            learn_page.write(page, bank, out, notes, show)
    _say_result(bank, out, page)
    return OK


def learn_images(
    images: Sequence[Path], settings: Settings, learned: int | None, silent: bool = False
) -> Bank:
    """A bank of images, with a bar."""
    from anomalyr1.evidence.bank import Bank

    with progress_bar("learning", len(images), silent) as show:
        return Bank.learn(images, settings, learned, show)


def _find_good(
    good: Sequence[str], out: Path, category: str | None, options: Mapping[str, str]
) -> list[Path]:
    """The images of good parts that the arguments name."""
    from anomalyr1.data.loading import SCHEMES
    from anomalyr1.data.sources import SPLIT

    specs = [
        text
        for text in good
        if not Path(text).exists() and (text.partition(":")[0] in SCHEMES or text.startswith(SPLIT))
    ]
    if not specs:
        if category is not None or options:
            raise InputError("--category and --option are for data sets such as mvtec:FOLDER; leave them out")
        return find_images([Path(text) for text in good])
    if len(good) > 1:
        raise InputError(
            f"{specs[0]!r} is a data set, and goes alone; name one data set, or images and folders"
        )
    return _good_of(_train_side(specs[0], options, out.parent / "drawn"), specs[0], category)


def _train_side(spec: str, options: Mapping[str, str], folder: Path) -> list[Sample]:
    """What may be learned of a data set: its train side, or all where it has no sides."""
    from anomalyr1.data.sources import SPLIT, load_source

    scheme = spec.partition(":")[0]
    if scheme == "mmad":
        raise InputError("mmad is there to test on, so nothing is learned from it; give your own good parts")
    if spec.startswith(SPLIT) or scheme in WITHOUT_SIDES or "split" in options:
        return load_source(spec, options, folder, "train", "as asked").samples
    try:
        return load_source(spec, {**options, "split": "train"}, folder, "train", "as asked").samples
    except InputError as error:
        if "has no split" not in str(error) or not str(error).endswith("it has no splits"):
            raise
        return load_source(spec, options, folder, "train", "as asked").samples


def _good_of(samples: Sequence[Sample], spec: str, category: str | None) -> list[Path]:
    """The good images of the one class that there is, or of the one that was chosen."""
    good = [sample for sample in samples if sample.anomalous is False]
    categories = sorted({sample.category for sample in good})
    if category is not None:
        good = [sample for sample in good if sample.category == category]
    elif len(categories) > 1:
        raise InputError(
            f"{spec!r} holds good parts of {len(categories)} classes, and a bank is of one; choose with "
            f"--category: {', '.join(categories[:20])}{', ...' if len(categories) > 20 else ''}"
        )
    if not good:
        chosen = "" if category is None else f" of {category!r}"
        raise InputError(
            f"{spec!r} holds no good part{chosen} to learn from"
            + (f"; its classes: {', '.join(categories[:20])}" if categories else "")
        )
    return [sample.image for sample in good]


def _without_copies(images: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Each picture once, and what was left out, in words: a copy that is held out would promise falsely."""
    from anomalyr1.images.door import digest_of

    by_digest: dict[str, Path] = {}
    for image in images:
        by_digest.setdefault(digest_of(image), image)
    copies = len(images) - len(by_digest)
    if not copies:
        return list(images), []
    was = "image is a copy" if copies == 1 else "images are copies"
    return list(by_digest.values()), [f"{copies} {was} of others, byte for byte: left out"]


def _say_result(bank: Bank, out: Path, page: Path) -> None:
    from anomalyr1.report import learn_page

    held_out = len(bank.held_out_scores)
    say(
        f"learned from {bank.learned} good part{'' if bank.learned == 1 else 's'}, {held_out} held out: {out}"
    )
    for rate, needed, lacking in learn_page.promises(bank):
        state = f"add {lacking} good parts" if lacking else "promised"
        say(f"  at most {100 * rate:.3g} % false alarms: {needed} held out, {state}")
    if bank.false_alarm_rate is not None:
        say(f"  so many promise at most {100 * bank.false_alarm_rate:.3g} %, with 95 % confidence")
    suspects = learn_page.that_stand_out(bank)
    for part in suspects[:5]:
        say(f"look at it, is it good? {part.name}")
    if len(suspects) > 5:
        say(f"and at {len(suspects) - 5} more, on the page")
    say(f"page: {page}")
    say(f"next: anomalyr1 inspect PARTS --bank {shlex.quote(str(out))}")
