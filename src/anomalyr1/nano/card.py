"""The model card of the nano policy: what it is, how it was made, what it can and cannot do, from the figures of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = (
    "balanced accuracy", "defect found", "good passed", "physical found", "logical found", "other options",
    "defect classification", "defect localization", "defect description", "defect analysis",
    "object classification", "object analysis", "object structure", "object details",
    "box mIoU", "box IoU > 0.3", "box IoU > 0.5", "no box when good", "strict", "reasoning agrees", "reasoning silent",
    "verdict and boxes agree", "images",
)  # fmt: skip
"""Rows of the table, in order."""

AIMS = (
    ("seen", "balanced accuracy", 0.92), ("seen", "other options", 0.75), ("seen", "box mIoU", 0.40), ("seen", "box IoU > 0.3", 0.60),
    ("seen", "strict", 0.995), ("seen", "reasoning agrees", 0.98),
    ("development", "balanced accuracy", 0.65), ("development", "other options", 0.50), ("development", "box mIoU", 0.20),
    ("development, with reference", "balanced accuracy", 0.78), ("development, with reference", "other options", 0.55),
    ("development, with reference", "box mIoU", 0.25),
)  # fmt: skip
"""What was aimed at before training: column, row, least value."""

TEXT = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# AnomalyR1 nano

A Qwen2.5-VL of {parameters:.1f} million parameters ({megabytes:.1f} MB in bfloat16), trained from scratch to inspect *drawn* industrial
parts: it reasons, answers with an option letter, and points at defects with boxes in pixels. It has the classes, the processor, the
chat format and the box convention of Qwen2.5-VL-3B-Instruct, so that what is built with it, on a laptop and without a download, is built
for the real models, too.

**It has seen drawings only.** For photographs of real parts name a real model (`--model`), for instance Qwen/Qwen2.5-VL-7B-Instruct.

Licence: Apache-2.0, weights and code. No weights and no text of other models went into it.

## How it was made

`{command}` on {machine}: {minutes}. Schedules follow the clock, so no two runs end at the same weights.

1. *sight*: the vision tower learns to write a symbolic code of what an image shows, on single squares of images and their good twins;
2. *text*: beside it, the text model learns to read that code, to reason, to find option letters, to write boxes, and to answer;
3. *both*: plugged together, trained on images; several questions share one image.

Training data: {images} pairs of drawings, one defective and the same part good, half of the 12 seen categories, half of *unfamiliar parts*,
each of another design, with 10 seen kinds of defect (`anomalyr1.drawn.draw`). Prompts, answers and parser are the package's own.
{notes}

## What it can do

Greedy, strict reading (what is not well-formed is wrong), held-out drawings; the class's knowledge stands in the prompt, so that
*object classification* and much of *object analysis* can be read there. *Seen*: other drawings of the categories it was
trained on. *Development*: categories it never saw (ceramic tile, bearing, connector), with two kinds of defects that it never saw
either. Chance is 0.5 for balanced accuracy and 0.25 for other options.
*Reasoning agrees* counts answers to questions with options whose reasoning concludes one; boxes are held against the verdict in *verdict
and boxes agree*. `python benchmarks/nano_exam.py` (in the repository) prints these figures and the controls anew.

{table}

What was aimed at before training, and what came:

{aims}
{limits}
Controls, on the same drawings. If the policy looks, its verdict falls to chance (0.5) with another image of the same size in place of the
right one; if it reads, its answer follows its text when options are shuffled (one question an image, of all kinds in turn), and knowledge
that names an unseen object makes "what is this" answerable.

{controls}

The curve of the last stage. Its points are of few images (a standard error of about 0.05 in balanced accuracy), so its last one differs
from the table; its other options are only the first of each image, about the object:

{curve}

## Limits

- It knows drawings only. On photographs, see the package's README for what was measured.
- Images are scaled to at most 448 x 448 pixels; larger ones it never saw. One image token covers 28 x 28 pixels: small defects are missed.
- On categories it never saw it is right far less often than on those it knows, with a reference image or without; few-shot training on the
  part in question helps.
- Logical defects (missing, extra, misplaced, wrong count) are found far less often than physical ones.
- Names in the knowledge are copied well where its tokenizer knows their words (a list of about a thousand); others may come out misspelt.
- Its reasoning is in a handful of fixed wordings.
- The words of its tokenizer hold some that stand in names of unseen categories, also of the final ones (gear, leather, cable).
- Figures of the development categories guided how it was made, so they flatter it.
"""


RAW = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# AnomalyR1 nano-raw

A start for experiments on rewards, not a policy to inspect with: the vision tower of AnomalyR1 nano, and its text model taught for
{minutes:.0f} minutes more (`{command}`, {machine}) on completions whose answer is right but whose reasoning contradicts it in a quarter of
them and says nothing of it in a tenth, as base models do. Trained on drawn parts only. Licence: Apache-2.0.

On {images} held-out drawings of seen categories, greedy, and sampled at temperature 1 as rollouts are. It contradicts itself where it is
sampled; greedy, it hardly does. *Reasoning agrees* counts the completions whose reasoning names an option; *silent* those that tell neither
an option nor whether there is a defect.

{table}
"""


def raw_card(results: Mapping[str, Mapping[str, Any]], minutes: float, machine: str) -> str:
    """The card of nano-raw; `results` are columns of figures by name."""
    names = [
        name for name in SHOWN if name != "images" and any(name in figures for figures in results.values())
    ]
    rows = [[name, *(str(figures.get(name, "")) for figures in results.values())] for name in names]
    command, images = "python -m anomalyr1.nano.make --raw", next(iter(results.values()))["images"]
    return RAW.format(
        minutes=minutes, command=command, machine=machine, images=images, table=_table(["", *results], rows)
    )


def card(
    facts: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
    controls: Mapping[str, float],
    curve: Sequence[Mapping[str, Any]],
) -> str:
    """The card's text; `facts` fills `TEXT`, `results` are columns of figures by name, `curve` the examinations on the way."""
    names = [name for name in SHOWN if any(name in figures for figures in results.values())]
    rows = [[name, *(str(figures.get(name, "")) for figures in results.values())] for name in names]
    columns = ("minutes", "step", "split", "images", "balanced accuracy", "other options", "box mIoU")
    points = [[str(point.get(name, "")) for name in columns] for point in curve]
    aims = []
    for column, row, least in AIMS:
        found = results.get(column, {}).get(row)
        if found is not None:
            aims.append(
                [f"{row}, {column}", f">= {least}", str(found), "reached" if found >= least else "missed"]
            )
    return TEXT.format(
        **facts,
        table=_table(["", *results], rows),
        aims=_table(("", "aim", "measured", ""), aims),
        controls=_table(("control", "share"), [[name, str(value)] for name, value in controls.items()]),
        curve=_table(columns, points),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
