"""The verb `anomalyr1 learn`."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyr1.cli.outputs import require_output
from anomalyr1.cli.terminal import OK, find_images, progress_bar, say
from anomalyr1.errors import InputError

if TYPE_CHECKING:
    from anomalyr1.evidence.bank import Bank
    from anomalyr1.evidence.learning import Settings


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
        typer.Option("--learn", min=1, help="Learn so many, 8 by default; the others promise how often."),
    ] = None,
    backbone: Annotated[
        str,
        typer.Option(help="efficientnet-lite0, dinov2-small, a folder of DINOv2, or package.module:name."),
    ] = "efficientnet-lite0",
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Of a data set of several classes, this one.")
    ] = None,
) -> int:
    """Learn what good parts look like: seconds for each dozen. The page shows the strangest of them first."""
    from anomalyr1.evidence.learning import Settings
    from anomalyr1.report import learn_page

    page = out.with_name(f"{out.stem}.html")
    require_output("learn", out, good)
    require_output("learn", page, good)
    with tempfile.TemporaryDirectory() as folder:  # parts that are drawn for this
        images = _find_good(good, classes or [], Path(folder))
        bank = learn_images(images, Settings(backbone=backbone), learned)
        bank.write(out)
        learn_page.write(page, bank, images)
    for line in bank.describe():
        say(line)
    say(f"bank: {out}")
    say(f"page: {page}, the strangest good parts first: is one of them bad?")
    say(f"next: anomalyr1 inspect IMAGES --bank {shlex.quote(str(out))}")
    return OK


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
    """The good images of a data set, of the side of a split that is learned from."""
    from anomalyr1.data.sources import load_source

    samples = load_source(spec, None, folder, "train", "as asked").samples
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
