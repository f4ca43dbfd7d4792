"""Inspections as one self-contained HTML page that runs no script and loads nothing."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from anomalyr1 import prompts
from anomalyr1.files import write_whole
from anomalyr1.images.door import open_image
from anomalyr1.inspection.good_parts import evidence_decides
from anomalyr1.inspection.thresholds import Threshold, in_digits
from anomalyr1.policy.licences import licence_of, limits_of
from anomalyr1.report.html import data_uri, render, shares
from anomalyr1.report.measured import Measured, measured, outlines_of, place_of_box
from anomalyr1.report.overlays import close_up, outlined, overlay, scaled
from anomalyr1.report.text import visible
from anomalyr1.types import Fingerprint, InputError, Inspection, Question, Reply, Sample
from anomalyr1.version import __version__

MAX_CARDS = 400
"""A page shows at most this many pictures, in the order of `ORDER`."""
OVERLAYS = "overlays"
"""The folder of the pictures with boxes and masks, in that of the page."""
PICTURE_LONG_SIDE = 480
OVERLAY_LONG_SIDE = 2048
"""Overlays of larger images are drawn at this size: it bounds their time and their length."""
CLOSE_UP_SIDE = 176
MAX_CLOSE_UPS = 3
WIDE = 1.5
"""From this ratio of width to height on, two pictures stand below each other."""
MANY_UNREAD = 0.2
"""From this share of replies not in the asked form on, the page explains what that means."""
ORDER = ("defect", "unsure", "failed", "good")
"""Which outcomes are shown first."""


@dataclass(frozen=True)
class About:
    """What the page says about the run."""

    fingerprint: Fingerprint
    licence: str = ""
    limits: str = ""
    """What must be known before a verdict of the model is believed."""
    command: str = ""
    version: str = ""
    threshold: Threshold | None = None
    """What scores were compared with; None = the answers alone made the verdicts."""


@dataclass(frozen=True)
class Card:
    """One inspection as the page shows it; texts are safe to look at but not yet escaped for HTML."""

    folder: str
    name: str
    outcome: str
    """One of `ORDER`."""
    inspection: Inspection
    reason: str = ""
    """The reason of the verdict, without what stands elsewhere on the card."""
    knowledge: str = ""
    references: tuple[str, ...] = ()
    size: str = ""
    layout: str = "one"
    """"two" puts the pictures side by side, "one" below each other."""
    picture: str = ""
    """Data URI of the image as inspected; empty when it cannot be opened, or is another one by now."""
    overlay: str = ""
    """Data URI with boxes and masks; empty when there are none."""
    close_ups: list[str] = field(default_factory=list)
    """Data URIs of the first boxes, enlarged."""
    replies: list[dict[str, str]] = field(default_factory=list)
    boxes: list[dict[str, str]] = field(default_factory=list)
    disagreement: str = ""
    """What the score and the answer say, where a threshold makes them say different things."""
    measured: Measured | None = None
    """What good parts say about the part; None = it was not compared with any."""


def about_run(fingerprint: Fingerprint, command: str, threshold: Threshold | None = None) -> About:
    """What a page says about a run of `command` with this fingerprint: licence and limits of the model, our
    version.
    """
    limits = limits_of(fingerprint.model, evidence_decides(fingerprint))
    limits = "; ".join(filter(None, (fingerprint.taught, limits)))
    return About(fingerprint, licence_of(fingerprint.model), limits, command, __version__, threshold)


def write(
    folder: Path,
    results: Sequence[tuple[Sample, Inspection]],
    about: About,
    max_cards: int = MAX_CARDS,
) -> Path:
    """Write `folder/overlays/*.png` for every inspection with boxes or strange places, and
    `folder/index.html`; return the page's path.

    The page shows at most `max_cards` pictures, each only where the image is still the one that was
    inspected. Raises `SetupError` when the disk refuses.
    """
    cards = []
    ranked = sorted(results, key=lambda result: ORDER.index(outcome(result[1])))
    for number, (sample, inspection) in enumerate(ranked):
        rgb = _open(sample.image, inspection.image_sha256)
        picture = None if rgb is None else _marked(inspection, rgb)
        if picture is not None:
            write_whole(folder / OVERLAYS / overlay_name(sample.id), _png(picture))
        if number < max_cards:
            cards.append(card(sample, inspection, rgb, about.threshold))
    html = page(cards, [inspection for _, inspection in results], about)
    write_whole(folder / "index.html", html.encode("utf-8"))
    return folder / "index.html"


def page(cards: Sequence[Card], inspections: Sequence[Inspection], about: About) -> str:
    """The page: a summary of all `inspections`, then the `cards`."""
    outcomes = Counter(outcome(inspection) for inspection in inspections)
    replies = Counter(reply.answer.status for inspection in inspections for reply in inspection.replies)
    reply_count = replies.total()
    return render(
        "inspection_page.html.j2",
        ["page.css"],
        cards=cards,
        about=about,
        outcomes=outcomes,
        total=len(inspections),
        order=ORDER,
        in_digits=in_digits,
        evidence=next((one.evidence for one in inspections if one.evidence is not None), None),
        bar=shares([(name, outcomes[name]) for name in ORDER]),
        replies=replies,
        asked=reply_count,
        explain=reply_count > 0 and (reply_count - replies["strict"]) / reply_count > MANY_UNREAD,
    )


def card(
    sample: Sample, inspection: Inspection, rgb: Image.Image | None, threshold: Threshold | None = None
) -> Card:
    """One inspection made ready for the page; `rgb` is the upright image at its original size, None when
    there is none to show.
    """
    questions = {
        question.id: question for question in (*prompts.inspection_questions(sample.id), *sample.questions)
    }
    folder, _, name = sample.id.rpartition("/")
    evidence = None if inspection.evidence is None else measured(inspection, rgb, answer_of(inspection))
    has_boxes = bool(inspection.boxes) and not (evidence and evidence.holds_boxes)
    enlarged = [region.box for region in inspection.evidence.regions] if inspection.evidence else []
    return Card(
        folder=visible(folder),
        name=visible(name),
        outcome=outcome(inspection),
        inspection=inspection,
        reason=inspection.reason if evidence is None else evidence.reason,
        knowledge=visible(sample.knowledge, keep="\n"),
        references=tuple(visible(path.as_posix()) for path in sample.references),
        size=f"{rgb.width} x {rgb.height} pixels" if rgb else "",
        layout="two" if rgb and rgb.width < WIDE * rgb.height else "one",
        picture=data_uri(scaled(rgb, PICTURE_LONG_SIDE)) if rgb else "",
        overlay=data_uri(overlay(inspection, rgb, PICTURE_LONG_SIDE)) if rgb and has_boxes else "",
        close_ups=[
            data_uri(close_up(rgb, box, CLOSE_UP_SIDE))
            for box in (enlarged or inspection.boxes or ())[:MAX_CLOSE_UPS]
        ]
        if rgb
        else [],
        replies=[_reply(reply, questions.get(reply.question_id)) for reply in inspection.replies],
        boxes=_boxes(inspection) if has_boxes else [],
        measured=evidence,
        disagreement="" if threshold is None else _disagreement(inspection, threshold),
    )


def outcome(inspection: Inspection) -> str:
    """The verdict, or "failed" where the inspection has an error."""
    return "failed" if inspection.error is not None else inspection.verdict


def overlay_name(sample_id: str) -> str:
    """A file name that is safe on every system and differs between sample ids."""
    stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in Path(sample_id).stem)[:40].strip("-")
    digest = hashlib.sha256(sample_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{stem or 'image'}-{digest}.png"


def answer_of(inspection: Inspection) -> str | None:
    """What the policy answers, "defect" or "good"; of several answers most count; None = neither."""
    question = prompts.inspection_questions(inspection.sample_id)[0]
    choices = Counter(reply.answer.choice for reply in inspection.replies if reply.question_id == question.id)
    by_answer = {prompts.DEFECT_LETTER: "defect", prompts.GOOD_LETTER: "good"}
    return by_answer.get(choices.most_common(1)[0][0] or "") if choices else None


def _disagreement(inspection: Inspection, threshold: Threshold) -> str:
    """What score and answer say where one says defect and the other good."""
    answer = answer_of(inspection)
    if inspection.score is None or answer is None:
        return ""
    sides = {"defect": inspection.score >= threshold.high, "good": inspection.score < threshold.low}
    against = [side for side, is_said in sides.items() if is_said and answer != side]
    return f"The score says {against[0]}, the answer {answer}" if against else ""


def _marked(inspection: Inspection, rgb: Image.Image) -> Image.Image | None:
    """The picture with boxes and masks, else with the strange places; None where there is nothing to mark."""
    long_side = min(max(rgb.size), OVERLAY_LONG_SIDE)
    if inspection.boxes:
        return overlay(inspection, rgb, long_side)
    if inspection.evidence is None or not inspection.evidence.regions:
        return None
    return outlined(rgb, outlines_of(inspection.evidence, rgb.size), long_side, inspection.verdict)


def _open(path: Path, digest: str) -> Image.Image | None:
    """The image that was inspected, upright; None when it is no longer there or cannot be opened."""
    try:
        image = open_image(path)
    except (InputError, OSError):
        return None
    return image.rgb if image.sha256 == digest else None


def _reply(reply: Reply, question: Question | None) -> dict[str, str]:
    answer = reply.answer
    answer_parts = [_option(answer.choice, question)] if answer.choice else []
    if answer.boxes is not None:
        answer_parts.append(
            f"{len(answer.boxes)} box{'' if len(answer.boxes) == 1 else 'es'}" if answer.boxes else "no box"
        )
    return {
        "title": question.text if question else reply.question_id,
        "status": answer.status,
        "reasoning": answer.reasoning,
        "conclusion": _option(answer.conclusion, question) if answer.conclusion else "",
        "answer": ", ".join(answer_parts) or "not readable",
        "raw": reply.completion,
    }


def _option(letter: str, question: Question | None) -> str:
    """An option's letter, with its text where the question is known."""
    if question is None or letter not in question.letters:
        return f"option {letter}"
    return f"option {letter} ({question.options[question.letters.index(letter)].rstrip('.')})"


def _boxes(inspection: Inspection) -> list[dict[str, str]]:
    masks = inspection.masks or ()
    return [
        {
            "label": box.label,
            "xyxy": ", ".join(f"{value:.0f}" for value in box.xyxy),
            "size": f"{box.x2 - box.x1:.0f} x {box.y2 - box.y1:.0f}",
            "mask": masks[i].source if i < len(masks) else "none",
            "place": "" if inspection.evidence is None else place_of_box(box, inspection.evidence),
        }
        for i, box in enumerate(inspection.boxes or ())
    ]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
