"""A page a group: the picture with the boxes of each completion, what was written, and what it earned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from anomalyr1.files import write_whole
from anomalyr1.images import ImageError, open_image
from anomalyr1.report.html import data_uri, render
from anomalyr1.report.overlay import overlay
from anomalyr1.training.explain import gold
from anomalyr1.training.run_folder import Group
from anomalyr1.types import Answer, Box, Inspection

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
