"""A page a group: the picture with the boxes of each completion, what was written, and what it earned."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from anomalyr1.files import write_whole
from anomalyr1.images import ImageError, open_image
from anomalyr1.report.html import data_uri, render
from anomalyr1.report.overlay import overlay
from anomalyr1.training.explain import gold
from anomalyr1.training.run_folder import Group
from anomalyr1.types import Box, Inspection

LONG_SIDE = 360
"""Of a picture on the page, in pixels."""


def write_page(path: Path, group: Group) -> None:
    """Write the page of a group; where the image can no longer be read, it says so and has no pictures."""
    image, missing = None, ""
    try:
        image = open_image(group.image).rgb
    except (ImageError, OSError) as error:
        missing = str(error)
    rows = [
        {
            "number": number,
            "answer": answer,
            "picture": None if image is None or answer.boxes is None else _picture(image, answer.boxes),
            "rewards": {name: values[number - 1] for name, values in group.rewards.items()},
            "total": total,
            "advantage": advantage,
        }
        for number, (answer, total, advantage) in enumerate(
            zip(group.answers(), group.totals(), group.advantages, strict=True), start=1
        )
    ]
    page = render(
        "group.html.j2", ["page.css", "group.css"], group=group, rows=rows, missing=missing, gold=gold(group.question),
        picture=None if image is None else _picture(image, group.question.boxes or (), "good"),
    )  # fmt: skip
    write_whole(path, page.encode("utf-8", "backslashreplace"))


def _picture(image: Image.Image, boxes: tuple[Box, ...], verdict: str = "defect") -> str:
    """The image with boxes, as part of a page; gold ones are drawn in the colour of good."""
    shown = Inspection.model_validate({"sample_id": "", "verdict": verdict, "boxes": boxes})
    return data_uri(overlay(shown, image, LONG_SIDE))
