"""Self-contained HTML pages that run no script and load nothing: what all pages share."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from typing import Literal

from PIL import Image

from anomalyr1.report.text import visible


def render(template: str, styles: Sequence[str], extra_style: str = "", **values: object) -> str:
    """A page from a template of this folder and its style sheets; every value is escaped. `extra_style` must hold no text of others.

    The page's content security policy allows its own styles, by their digest, and pictures in data URIs.
    """
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("anomalyr1.report")
    style = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in styles) + extra_style
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    environment.filters["visible_lines"] = lambda text: visible(text, keep="\n")
    return environment.from_string(folder.joinpath(template).read_text(encoding="utf-8")).render(
        style=Markup(style),  # our own file
        style_hash=base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii"),
        **values,
    )


def data_uri(image: Image.Image, form: Literal["JPEG", "WEBP"] = "JPEG") -> str:
    """A picture as part of a page; WebP where there are many, since it takes a third of the room."""
    buffer = io.BytesIO()
    if form == "JPEG":
        image.save(buffer, "JPEG", quality=88)
    else:
        image.save(buffer, "WEBP", quality=72, method=2)
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
