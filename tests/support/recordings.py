"""Drawn images and recorded completions for them, to be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw

from anomalyr1 import prompts, records
from anomalyr1.images.frames import FAMILIES, Frame
from anomalyr1.types import Answer, Fingerprint, Inspection, Reply, Sample

FAMILY = FAMILIES["qwen2_5_vl"]
FINGERPRINT = Fingerprint(
    model="recorded", family=FAMILY.name, style="ours", max_pixels=100_352, engine="local"
)
SIZE_WH = (112, 84)
FRAME = Frame(SIZE_WH, SIZE_WH, FAMILY.units)
"""At this size the model sees the original pixels."""


def draw(path: Path, spot_xy: tuple[int, int] | None = (60, 40)) -> Path:
    """A grey plate, with a dark spot 20 x 14 pixels wide at `spot_xy` unless None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", SIZE_WH, (150, 154, 160))
    ink = ImageDraw.Draw(image)
    ink.rectangle((8, 8, 103, 75), outline=(120, 124, 130), width=2)
    if spot_xy:
        ink.ellipse((*spot_xy, spot_xy[0] + 19, spot_xy[1] + 13), fill=(30, 30, 34))
    image.save(path, "PNG")
    return path


def sample(path: Path, **known: object) -> Sample:
    return Sample(id=path.as_posix(), image=path, **known)


def record(path: Path, completions: Mapping[str, tuple[str, str]]) -> Path:
    """An inspections file with the completions for (verdict, grounding) of each sample id."""
    with records.Writer(path, FINGERPRINT) as writer:
        for name, texts in completions.items():
            asked = prompts.inspection_questions(name)
            replies = [
                Reply(question_id=q.id, completion=text, answer=Answer(status="unparseable"))
                for q, text in zip(asked, texts, strict=True)
            ]
            writer.append(
                Inspection(sample_id=name, verdict="unsure", reason="recorded", replies=tuple(replies))
            )
    return path
