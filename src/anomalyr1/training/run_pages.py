"""A page a group: the picture with the boxes of each completion, what was written, and what it earned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from anomalyr1.files import parse_json, read_text, write_whole
from anomalyr1.images.door import ImageError, open_image
from anomalyr1.report import training_page
from anomalyr1.report.html import data_uri, render
from anomalyr1.report.overlays import overlay
from anomalyr1.report.training_page import LastGroup, TrainingRun
from anomalyr1.training.explain import gold
from anomalyr1.training.run_folder import EVALUATIONS, METRICS, RECIPE, RUN, Group, read_groups, read_lines
from anomalyr1.types import Answer, Box, InputError, Inspection
from anomalyr1.version import __version__

SHOWN_GROUPS = 6
"""So many of the last groups of a training run are on its page."""
LONG_SIDE = 360
"""The longer side of a picture on the page, in pixels."""


def write_page(path: Path, group: Group, answers: Sequence[Answer]) -> None:
    """Write the page of a group, whose completions say `answers`.

    Where the image cannot be read, it says so and has no pictures. Raises `SetupError` when the disk refuses.
    """
    image, missing = None, ""
    try:
        image = open_image(group.image).rgb
    except (ImageError, OSError) as error:
        missing = str(error)
    rows = [
        {
            "number": i + 1,
            "answer": answer,
            "picture": _picture(image, answer.boxes),
            "rewards": group.rewards_of(i),
            "total": total,
            "advantage": advantage,
        }
        for i, (answer, total, advantage) in enumerate(
            zip(answers, group.totals(), group.advantages, strict=True)
        )
    ]
    page = render(
        "group.html.j2",
        ["page.css", "group.css"],
        group=group,
        rows=rows,
        missing=missing,
        gold=gold(group.question),
        picture=_picture(image, group.question.boxes or (), "good"),
    )
    write_whole(path, page.encode("utf-8", "backslashreplace"))


def _picture(image: Image.Image | None, boxes: tuple[Box, ...] | None, verdict: str = "defect") -> str | None:
    """The image with boxes, as part of a page, None without either; gold ones have the colour of good."""
    if image is None or boxes is None:
        return None
    inspection = Inspection.model_validate({"sample_id": "", "verdict": verdict, "boxes": boxes})
    return data_uri(overlay(inspection, image, LONG_SIDE))


def is_run(folder: Path) -> bool:
    """Whether a folder holds a training run."""
    return folder.is_dir() and any((folder / name).is_file() for name in (METRICS, RECIPE))


def write_run_page(folder: Path, out: Path) -> Path:
    """Write the page of a training run's folder, its tables and plots into `out`; returns the page's path.

    Raises `InputError` for a file of the run that cannot be read.
    """
    groups = [
        LastGroup(
            group.step,
            group.sample_id,
            group.question.text,
            group.question.answer or "",
            list(zip(group.completions, group.totals(), group.advantages, strict=True)),
        )
        for group in read_groups(folder)[-SHOWN_GROUPS:]
    ]
    return training_page.write(
        out,
        TrainingRun(
            title=str(folder),
            metrics=read_lines(folder / METRICS),
            evaluations=read_lines(folder / EVALUATIONS),
            recipe=_read_if_there(folder / RECIPE),
            about=_read_about(folder / RUN),
            last_groups=groups,
            version=__version__,
        ),
    )


def _read_about(path: Path) -> dict[str, object]:
    about = parse_json(_read_if_there(path) or "{}", repr(str(path)))
    return about if isinstance(about, dict) else {"run": about}


def _read_if_there(path: Path) -> str:
    """The text of a file; empty where there is none."""
    try:
        return read_text(path) if os.path.lexists(path) else ""
    except InputError as error:
        raise InputError(f"{error}; restore it, or delete it to report without it") from error
