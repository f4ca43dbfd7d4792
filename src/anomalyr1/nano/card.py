"""The model cards of nano and nano-raw: what they are and what they can and cannot do, with figures of a run.

The texts are `card.md` and `raw_card.md` beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SHOWN = (
    "balanced accuracy", "defect found", "good passed", "physical found", "logical found", "other options",
    "defect classification", "defect localization", "defect description", "defect analysis",
    "object classification", "object analysis", "object structure", "object details",
    "box mIoU", "box IoU > 0.3", "box IoU > 0.5", "no box when good", "strict", "reasoning agrees",
    "reasoning silent", "verdict and boxes agree", "images",
)  # fmt: skip
"""Rows of the table, in order."""
POINT = ("minutes", "step", "split", "images", "balanced accuracy", "other options", "box mIoU")
"""What the card shows of a point of the curve."""
AIMS = (
    ("seen", "balanced accuracy", 0.92), ("seen", "other options", 0.75), ("seen", "box mIoU", 0.40),
    ("seen", "box IoU > 0.3", 0.60), ("seen", "strict", 0.995), ("seen", "reasoning agrees", 0.98),
    ("development", "balanced accuracy", 0.65), ("development", "other options", 0.50),
    ("development", "box mIoU", 0.20), ("development, with reference", "balanced accuracy", 0.78),
    ("development, with reference", "other options", 0.55), ("development, with reference", "box mIoU", 0.25),
)  # fmt: skip
"""What was aimed at before training: column, row, least value."""

Results = Mapping[str, Mapping[str, Any]]
"""Columns of figures by name."""


def nano_card(
    facts: Mapping[str, Any],
    results: Results,
    controls: Mapping[str, float],
    curve: Sequence[Mapping[str, Any]],
) -> str:
    """The card of nano; `facts` fills the text, `curve` are the examinations on the way."""
    aims = []
    for column, row, least in AIMS:
        value = results.get(column, {}).get(row)
        if value is not None:
            outcome = "reached" if value >= least else "missed"
            aims.append([f"{row}, {column}", f">= {least}", str(value), outcome])
    text = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    return text.format(
        **facts,
        table=_table_of_results(results, SHOWN),
        aims=_table(("", "aim", "measured", ""), aims),
        controls=_table(("control", "share"), [[name, str(value)] for name, value in controls.items()]),
        curve=_table(POINT, [[str(point.get(name, "")) for name in POINT] for point in curve]),
    )


def raw_card(results: Results, minutes: float, machine: str) -> str:
    """The card of nano-raw."""
    text = Path(__file__).with_name("raw_card.md").read_text(encoding="utf-8")
    command, images = "python -m anomalyr1.nano.make --raw", next(iter(results.values()))["images"]
    table = _table_of_results(results, [name for name in SHOWN if name != "images"])
    return text.format(minutes=minutes, command=command, machine=machine, images=images, table=table)


def _table_of_results(results: Results, names: Sequence[str]) -> str:
    """The figures with these names that a column has, a row each."""
    rows = [
        [name, *(str(figures.get(name, "")) for figures in results.values())]
        for name in names
        if any(name in figures for figures in results.values())
    ]
    return _table(["", *results], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
