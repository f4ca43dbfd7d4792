"""Self-contained HTML pages that run no script and load nothing: what all pages share."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from typing import Literal

from PIL import Image

from anomalyr1.report.text import visible

WEBP_BYTES = 9_000
"""So many bytes a picture keep a page of 1,000 images with two pictures each under 30 MB."""
WEBP_QUALITIES = (72, 30)


def render(template: str, styles: Sequence[str], extra_style: str = "", **values: object) -> str:
    """A page from a template of this folder and its style sheets; every value is escaped. `extra_style` must
    hold no text of others.

    The page's content security policy allows its own styles, by their digest, and pictures in data URIs.
    """
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("anomalyr1.report")
    style = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in styles) + extra_style
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible
    environment.filters["visible_lines"] = lambda text: visible(text, keep="\n")
    return environment.from_string(folder.joinpath(template).read_text(encoding="utf-8")).render(
        style=Markup(style),  # our own file
        style_hash=base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii"),
        **values,
    )


def data_uri(image: Image.Image, form: Literal["JPEG", "WEBP"] = "JPEG") -> str:
    """A picture as part of a page; WebP where there are many: it takes less room, and quality goes down until
    `WEBP_BYTES` suffice.
    """
    buffer = io.BytesIO()
    for quality in (88,) if form == "JPEG" else WEBP_QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, form, quality=quality, **({} if form == "JPEG" else {"method": 0}))
        if buffer.tell() <= WEBP_BYTES:
            break
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def shares(amounts: Sequence[tuple[str, int]]) -> list[tuple[str, float, float]]:
    """(name, start, width) of each part of a bar, in percent."""
    total = sum(amount for _, amount in amounts)
    parts, start = [], 0.0
    for name, amount in amounts:
        width = 100 * amount / max(total, 1)
        parts.append((name, round(start, 3), round(width, 3)))
        start += width
    return parts
