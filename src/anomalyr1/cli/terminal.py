"""What all verbs share: exit codes, plain lines in which nothing is interpreted, options, the images that
paths name.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyr1.errors import InputError, Stopped

if TYPE_CHECKING:
    from rich.progress import Progress

OK, USER_ERROR, SOME_FAILED, SETUP_ERROR, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all well, the user's input, some images failed or some samples have problems, the environment,
stopped by Ctrl-C."""

Style = Annotated[
    str | None,
    typer.Option(help="Prompt style: ours, mmad or released; default: the taught one, else ours."),
]
PromptFile = Annotated[Path | None, typer.Option(help="Text file with your own prompt, instead of a style.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", help="Option of the loader as key=value; may be given more than once."),
]


def say(text: str, err: bool = False) -> None:
    """One plain line in which nothing is interpreted."""
    from anomalyr1.report.text import visible

    print(visible(text), file=sys.stderr if err else sys.stdout, flush=True)


@contextlib.contextmanager
def stop_explained(explain: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C end the block with what `explain` then says: where it stopped, and how it goes on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Stopped(explain()) from stop


def new_bar() -> Progress:
    """A bar with the time left, for a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(markup=False, highlight=False, emoji=False))


@contextlib.contextmanager
def progress_bar(title: str, total: int, silent: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, else nothing; the function takes how many are done, and of how many."""
    if silent or not sys.stdout.isatty():
        yield lambda done, total: None
        return
    with new_bar() as bar:
        task = bar.add_task(title, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def find_images(
    paths: Sequence[Path], out: Path | None = None, references: Sequence[Path] = ()
) -> list[Path]:
    """The paths that `readers.find_images` finds; it is said how much was left out.

    Raises as that does, and `InputError` for a folder that lies in `out`, where all images are outputs.
    """
    from anomalyr1.data import readers

    for path in paths:
        if out is not None and path.is_dir() and path.resolve().is_relative_to(out.resolve()):
            raise InputError(
                f"{str(path)!r} lies in the folder of the outputs, {str(out)!r}; name another with --out"
            )
    images = readers.find_images(paths, out, references)
    for folder, count in images.masks_left_out.items():
        say(f"{count} images in {str(folder)!r} are masks, not parts: left out")
    for folder, kinds in images.unopenable.items():
        for what, count in kinds.items():
            say(f"left out of {str(folder)!r}: {count} {what}")
    return images.paths


def inspections_file(what: Path) -> Path:
    """The inspections file that a path names, itself or as the folder of a run.

    Raises `InputError` that says what to do for the folder of a training run, and for anything else.
    """
    path = what / "inspections.jsonl" if what.is_dir() else what
    if path.is_file():
        return path
    cure = "give an inspections file, or a folder of `anomalyr1 inspect` or `evaluate`"
    if (what / "recipe.yaml").is_file():
        cure = (
            f"it is a training run: ask its policy with `anomalyr1 evaluate model -m {what / 'final'} "
            f"--data SPEC` or `anomalyr1 inspect IMAGES --model {what / 'final'}`, and name that folder"
        )
    raise InputError(f"{str(what)!r} holds no inspections; {cure}")


def loader_options(texts: Sequence[str] | None) -> dict[str, str]:
    """Options of a data set's loader, written key=value.

    Raises `InputError` for any other form, and for a key that comes twice.
    """
    options: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InputError(f"an option of the loader is written key=value, got {text!r}")
        if key in options:
            raise InputError(f"the option {key!r} of the loader is given twice; leave one of the two out")
        options[key] = value
    return options
