"""What a policy was taught with, kept in its folder: prompt, pixel cap, base, licence; and how to ask it.

`anomalyr1.json` is read again by whoever loads the folder, as data: its text becomes a user's own prompt and
nothing else. `README.md` says how to ask the policy with plain transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from string import Template

from pydantic import Field, ValidationError

from anomalyr1 import prompts
from anomalyr1.files import read_json
from anomalyr1.images.frames import Family
from anomalyr1.types import InputError, Record, Sample, first_error

FILE = "anomalyr1.json"
_LIMIT = 2**20
"""Bytes of the file."""


class Taught(Record):
    """What a policy was taught with, which is what it should be asked with."""

    anomalyr1: str = Field(max_length=100)
    """The version of this package that taught it."""
    style: str = Field(max_length=100)
    """The name of a built-in prompt style."""
    text: str | None = Field(default=None, max_length=100_000)
    """The user's own prompt, which replaces the style; None = that of the style."""
    max_pixels: int = Field(gt=0, le=2**30)
    """The largest image that it was shown, in pixels."""
    base: str = Field(max_length=1000)
    """The model that all teaching began with, as it was named."""
    licence: str = Field(max_length=1000)
    """The licence of the base's weights, in words."""
    evidence: bool = False
    """Whether its prompts held what good parts say about the image."""

    @property
    def style_id(self) -> str:
        """The prompt as fingerprints name it."""
        return prompts.style_id(self.style, self.text, self.evidence)

    def otherwise(self, style_id: str, max_pixels: int) -> str:
        """What is to be said where it is asked with another prompt or cap; empty where it is not."""
        if (style_id, max_pixels) == (self.style_id, self.max_pixels):
            return ""
        return (
            f"this policy was taught with the prompt {self.style_id} and images of at most "
            f"{self.max_pixels:,} pixels; it is asked with {style_id} and {max_pixels:,} pixels"
        )


def read_taught(folder: Path) -> Taught | None:
    """What the policy in a folder was taught with; None = the folder does not say.

    Raises `InputError` for a file that is not of this form, or whose text cannot serve as a prompt.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        taught = Taught.model_validate(read_json(path, _LIMIT))
    except ValidationError as error:
        raise InputError(
            f"{str(path)!r} does not say what a policy was taught with ({first_error(error)}); fetch the "
            "folder again, or remove the file and say the prompt yourself"
        ) from error
    if taught.text is not None:
        prompts.require_usable(taught.text, str(path))
    elif taught.style not in prompts.STYLES:
        raise InputError(
            f"{str(path)!r} names the prompt style {taught.style!r}; known are {', '.join(prompts.STYLES)}. "
            f"It was written by version {taught.anomalyr1!r}: install that one or a later one"
        )
    return taught


def write_taught(folder: Path, taught: Taught, family: Family) -> None:
    """Write both files into the folder of a policy, beside its weights."""
    record = json.dumps(taught.model_dump(), indent=1)
    (folder / FILE).write_text(record + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(taught, family), encoding="utf-8", errors="replace")


def _readme(taught: Taught, family: Family) -> str:
    """How to ask a policy with plain transformers: the same completion, word for word."""
    sample = Sample(id="part", image=Path("part.png"))
    verdict, boxes = prompts.inspection_questions(sample.id)
    messages = [
        # a fence of backticks in the user's own prompt must not end the snippet
        json.dumps(prompts.build(sample, question, taught.style, taught.text).messages, indent=4).replace(
            "`", "\\u0060"
        )
        for question in (verdict, boxes)
    ]
    units = "thousandths of each side"
    if family.units == "pixels":
        units = "pixels of the image as the model sees it"
    return Template(_README).substitute(
        base=_one_line(taught.base),
        licence=_one_line(taught.licence),
        version=_one_line(taught.anomalyr1),
        prompt=taught.style_id,
        max_pixels=f"{taught.max_pixels:,}",
        verdict=messages[0],
        boxes=messages[1],
        units=units,
    )


def _one_line(text: str) -> str:
    """A text that stands between backticks as it is: in one line, without them, all of it visible."""
    line = " ".join(text.split()).replace("`", "'")
    return "".join(c if c.isprintable() else "?" for c in line)


_README = """# A policy for visual inspection

Taught with AnomalyR1 $version from `$base`; licence of the weights: `$licence`.

It was taught with the prompt `$prompt` and images of at most $max_pixels pixels, which `$file` keeps;
AnomalyR1 asks with these where nothing else is asked for:

    anomalyr1 inspect parts/ --model THIS_FOLDER

Plain transformers asks it so, from this folder, about `part.png`:

```python
from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor

VERDICT = $verdict
BOXES = $boxes

processor = AutoProcessor.from_pretrained(".")
model = AutoModelForImageTextToText.from_pretrained(".", dtype="float32").eval()  # bfloat16 on a GPU
image = ImageOps.exif_transpose(Image.open("part.png")).convert("RGB")

def ask(messages):
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=256)
    return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

print(ask(VERDICT))  # A: a defect, B: good
print(ask(BOXES))  # in $units
```

What is known about good parts, and reference images, go into the prompt where AnomalyR1 puts them (see
its docs/guide/prompts.md).
""".replace("$file", FILE)
