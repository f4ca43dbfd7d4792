"""A comparison of two runs as one self-contained HTML page: the table of subtasks, and the answers that
flipped with their pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomalyr1.evaluation.comparison import FILE, ComparedRun, Comparison, Flip
from anomalyr1.files import write_together
from anomalyr1.images.door import open_image
from anomalyr1.report.html import data_uri, render
from anomalyr1.report.overlays import scaled
from anomalyr1.types import InputError, Question, Reply

MAX_CARDS = 100
"""So many flips are shown, both directions in turn; all are in comparison.json."""
PICTURE_LONG_SIDE = 360


@dataclass(frozen=True)
class FlipCard:
    """One flip as the page shows it."""

    flip: Flip
    question: Question
    picture: str
    """Data URI; empty when the image cannot be opened."""
    replies: tuple[tuple[str, Reply | None], ...]
    """Name of the run and its reply, first and second."""


def write(folder: Path, comparison: Comparison, runs: tuple[ComparedRun, ComparedRun], version: str) -> Path:
    """Write the record and the page, whose path is given back. Raises `SetupError` when the disk refuses."""
    gained, lost = (
        [flip for flip in comparison.flips if flip.direction == way] for way in ("gained", "lost")
    )
    shown_flips = _in_turn(gained, lost)[:MAX_CARDS]
    samples = {sample.id: sample for sample, _ in runs[0].pairs}
    replies = [
        {
            (sample.id, reply.question_id): reply
            for sample, inspection in run.pairs
            for reply in inspection.replies
        }
        for run in runs
    ]
    pictures: dict[Path, str] = {}
    cards = []
    for flip in shown_flips:
        sample = samples[flip.sample_id]
        questions = {question.id: question for question in sample.questions}
        answers = (
            (comparison.first, replies[0].get((flip.sample_id, flip.question_id))),
            (comparison.second, replies[1].get((flip.sample_id, flip.question_id))),
        )
        cards.append(_card(flip, questions, sample.image, pictures, answers))
    letters = {
        card.flip.question_id: dict(zip(card.question.letters, card.question.options, strict=True))
        for card in cards
    }
    html = render(
        "comparison_page.html.j2",
        ["page.css", "comparison_page.css"],
        comparison=comparison,
        cards=cards,
        gained=len(gained),
        lost=len(lost),
        version=version,
        letters=letters,
    )
    record = comparison.to_json().encode("ascii") + b"\n"
    write_together(folder, {FILE: record, "index.html": html.encode("utf-8")})
    return folder / "index.html"


def _card(
    flip: Flip,
    questions: Mapping[str, Question],
    image: Path,
    pictures: dict[Path, str],
    replies: tuple[tuple[str, Reply | None], ...],
) -> FlipCard:
    if image not in pictures:
        try:
            pictures[image] = data_uri(scaled(open_image(image).rgb.convert("RGB"), PICTURE_LONG_SIDE))
        except (InputError, OSError):
            pictures[image] = ""
    return FlipCard(flip, questions[flip.question_id], pictures[image], replies)


def _in_turn(gained: Sequence[Flip], lost: Sequence[Flip]) -> list[Flip]:
    """Both lists in turn, the rest of the longer one at the end."""
    flips = [flip for pair in zip(gained, lost, strict=False) for flip in pair]
    least = min(len(gained), len(lost))
    return [*flips, *gained[least:], *lost[least:]]
