"""The verb `anomalyr1 learn`."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyr1.cli.outputs import require_output
from anomalyr1.cli.terminal import OK, find_images, progress_bar, say, stop_explained
from anomalyr1.errors import InputError

if TYPE_CHECKING:
    from anomalyr1.evidence.bank import Bank
    from anomalyr1.evidence.learning import Settings
    from anomalyr1.types import Mask, Sample

WITHOUT_SIDES = ("drawn", "jsonl")
"""Data sets that have no train side of their own."""
SUSPECTS = 5
"""So many parts that stand out are named."""


def learn(
    good: Annotated[
        list[str],
        typer.Argument(help="Images of good parts, folders of them, or a data set (SPEC): its good images."),
    ],
    out: Annotated[
        Path, typer.Option(help="The file to write, for: anomalyr1 inspect --bank; a page stands beside it.")
    ] = Path("good.bank"),
    learned: Annotated[
        int | None,
        typer.Option(
            "--learn",
            min=1,
            help="Learn so many, 8 by default or as many as defective ones; the others promise how often.",
        ),
    ] = None,
    defects: Annotated[
        list[Path] | None,
        typer.Option(help="Images of defective parts, or folders: what they show is learned, too."),
    ] = None,
    backbone: Annotated[
        str,
        typer.Option(help="efficientnet-lite0, dinov2-small, a folder of DINOv2, or package.module:name."),
    ] = "efficientnet-lite0",
    rotations: Annotated[
        bool, typer.Option("--rotations", help="Good parts may lie turned by quarters.")
    ] = False,
    ignore: Annotated[
        Path | None, typer.Option(help="Black and white image; where it is white, pictures do not count.")
    ] = None,
    smallest: Annotated[
        int, typer.Option(min=1, help="Places of fewer pixels of the picture are no places.")
    ] = 1,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Of a data set of several classes, this one.")
    ] = None,
) -> int:
    """Learn what good parts look like: seconds for each dozen. The page shows the strangest of them first."""
    from anomalyr1.evidence.head import learned_beside
    from anomalyr1.evidence.learning import Settings
    from anomalyr1.report import learn_page

    page = out.with_suffix(".html")
    if page == out:
        raise InputError(f"{str(out)!r} is the name of a page; name the bank otherwise, e.g. housing.bank")
    for path in (out, page):
        require_output("learn", path, (*good, *(defects or ()), ignore))
    options = {"rotations": rotations, "ignore": _read_mask(ignore), "smallest": smallest}
    settings = Settings.model_validate({"backbone": backbone, **options})
    with (
        stop_explained(lambda: "stopped: the same command begins anew"),
        tempfile.TemporaryDirectory() as folder,  # parts that are drawn for this
    ):
        images, notes = without_copies(_find_good(good, classes or [], Path(folder)))
        for note in notes:
            say(note)
        defective, more_notes = without_copies(find_images(defects) if defects else [])
        for note in more_notes:
            say(f"defective: {note}")
        if defective and learned is None:
            learned = learned_beside(len(defective))
        bank = learn_images(images, settings, learned)
        if defective:
            with progress_bar("defects", len(images) + len(defective)) as show:
                bank = bank.with_defects(defective, show)
        if bank.head is not None:
            notes = [*notes, bank.head.describe()]
        bank.write(out)
        with progress_bar("page", len(images)) as show:
            learn_page.write(page, bank, out, notes, show)
    _say_result(bank, out, page)
    return OK


def _read_mask(path: Path | None) -> Mask | None:
    """Where a mask is white."""
    import numpy as np

    from anomalyr1.boxes import encode_mask
    from anomalyr1.images.door import open_image

    return None if path is None else encode_mask(np.asarray(open_image(path).rgb.convert("L")) > 127, "map")


def _say_result(bank: Bank, out: Path, page: Path) -> None:
    from anomalyr1.report import learn_page

    for line in bank.describe():
        say(line)
    suspects = learn_page.that_stand_out(bank)
    for part in suspects[:SUSPECTS]:
        say(f"look at it, is it good? {part.name}")
    if len(suspects) > SUSPECTS:
        say(f"and at {len(suspects) - SUSPECTS} more, on the page")
    say(f"bank: {out}")
    say(f"page: {page}, the strangest good parts first: is one of them bad?")
    say(f"next: anomalyr1 inspect IMAGES --bank {shlex.quote(str(out))}")


def without_copies(images: Sequence[Path]) -> tuple[list[Path], list[str]]:
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


def learn_images(
    images: Sequence[Path], settings: Settings | None, learned: int | None, as_json: bool = False
) -> Bank:
    """A bank of images, with a bar."""
    from anomalyr1.evidence.bank import Bank

    with progress_bar("learning", len(images), as_json) as show:
        return Bank.learn(images, settings, learned, show)


def _find_good(sources: Sequence[str], classes: Sequence[str], folder: Path) -> list[Path]:
    """The images of good parts that files, folders and specs name; parts are drawn into `folder`."""
    paths = [Path(source) for source in sources if Path(source).exists() or ":" not in source]
    images = find_images(paths) if paths else []
    for source in sources:
        if Path(source) not in paths:
            images += _good_of_data(source, classes, folder)
    return list(dict.fromkeys(images))


def _good_of_data(spec: str, classes: Sequence[str], folder: Path) -> list[Path]:
    """The good images of a data set, of the side that is learned from."""
    samples = _train_side(spec, folder)
    good = [sample for sample in samples if sample.anomalous is False]
    names = sorted({sample.class_name for sample in good})
    unknown = sorted(set(classes) - set(names))
    if unknown:
        raise InputError(f"{spec!r} has no good image of {unknown[0]!r}; it has {', '.join(names)}")
    if len(names) > 1 and len(classes) != 1:
        raise InputError(
            f"{spec!r} has good images of {len(names)} classes ({', '.join(names[:8])}), and a bank is of "
            "one kind of part; choose it with --class"
        )
    chosen = [sample.image for sample in good if not classes or sample.class_name in classes]
    if not chosen:
        raise InputError(f"{spec!r} has no good image to learn from; name another data set")
    return chosen


def _train_side(spec: str, folder: Path) -> list[Sample]:
    """What may be learned of a data set: its train side, or all where it has no sides."""
    from anomalyr1.data.sources import SPLIT, load_source

    scheme = spec.partition(":")[0]
    if scheme == "mmad":
        raise InputError("mmad is there to test on, so nothing is learned from it; give your own good parts")
    if spec.startswith(SPLIT) or scheme in WITHOUT_SIDES:
        return load_source(spec, None, folder, "train", "as asked").samples
    try:
        return load_source(spec, {"split": "train"}, folder, "train", "as asked").samples
    except InputError as error:
        if not str(error).endswith("it has no splits"):
            raise
        return load_source(spec, None, folder, "train", "as asked").samples
