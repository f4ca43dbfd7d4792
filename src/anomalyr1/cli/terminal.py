"""What all verbs share: exit codes, plain lines in which nothing is interpreted, the images that paths
name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from anomalyr1.errors import InputError

OK, USER_ERROR, SOME_FAILED, SETUP_ERROR, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all well, the user's input, some images failed or some samples have problems, the environment,
stopped by Ctrl-C."""
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".jfif"}
)
"""What counts as an image when a folder is searched; a file named outright may have any suffix."""


def say(text: str, err: bool = False) -> None:
    """One plain line in which nothing is interpreted."""
    from anomalyr1.report.text import visible

    print(visible(text), file=sys.stderr if err else sys.stdout, flush=True)


def find_images(
    paths: Sequence[Path], out: Path | None = None, references: Sequence[Path] = ()
) -> list[Path]:
    """The image files that `paths` name, each once: files as given, folders searched in sorted order, without
    what lies in `out`.

    Of a folder as `folder:` reads it, with good/ and masks/, the masks are left out, and it is said how many.
    Raises `InputError` that lists all paths (and references) that do not exist, or the folders without an
    image.
    """
    missing = [path for path in (*paths, *references) if not path.exists()]
    if missing:
        raise InputError(
            "no such file or folder, so nothing was started: "
            f"{', '.join(repr(str(path)) for path in missing)}"
        )
    found: dict[Path, Path] = {}
    own = out.resolve() if out is not None else None
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(
                file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
            )
            inside = [file for file in inside if own is None or not file.resolve().is_relative_to(own)]
            masks = {
                file for file in inside if (path / "good").is_dir() and file.is_relative_to(path / "masks")
            }
            if masks:
                say(f"{len(masks)} images in {str(path / 'masks')!r} are masks, not parts: left out")
                inside = [file for file in inside if file not in masks]
        if not inside:
            raise InputError(
                f"folder {str(path)!r} holds no image; expected files ending in {', '.join(sorted(SUFFIXES))}"
            )
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


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
