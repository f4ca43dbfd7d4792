"""The three stages of the nano policy's training: what a batch is and what its losses are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional

from anomalyr1 import prompts
from anomalyr1.drawn.defects import LOGICAL
from anomalyr1.drawn.words import UNFAMILIAR
from anomalyr1.nano import augmentation as strange
from anomalyr1.nano import exam, lessons, loop
from anomalyr1.nano import invented_names as invented
from anomalyr1.nano import model as nano_model
from anomalyr1.nano import square_lessons as crops
from anomalyr1.nano.card import card, raw_card
from anomalyr1.nano.helper_losses import (
    CODE_SCALE,
    Cells,
    Code,
    LetterHints,
    PlaceHints,
    SightHints,
    SummaryHints,
    Truth,
    cells,
)
from anomalyr1.nano.lessons import Teacher, grid_of
from anomalyr1.nano.make import FIGURES, STAGES, Recipe, examined, minutes
from anomalyr1.nano.model import Shape
from anomalyr1.nano.packing import (
    CELL,
    Inside,
    Packed,
    Pixels,
    Row,
    fine,
    hidden,
    logits,
    merged,
    pack,
    vision,
)
from anomalyr1.nano.pool import CATEGORIES, KINDS, Example, Pool, held_out
from anomalyr1.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TAP = 1
"""After this layer of the text model, image tokens should know their place."""
COMPARE = 2
"""In this layer, the first head of the inspected image's tokens should look about the same place of the
reference."""
CELL_TAP = 3
"""After this layer, image tokens should know the kind of defect they show and its box, with the reference if
there is one."""
QUOTE_TAP = 4
"""After this layer, the words of an option that reasoning quotes should know its letter."""
FINAL_FIRST = 100_000
"""The last examination is about other drawings than those on the way."""
OF_COLOURS = ("object details", "defect description")
"""Kinds of questions whose gold strange colours would make wrong."""
CODE_WEIGHT = 0.3
"""How much the code counts beside the helper losses while the tower learns."""
DEFECT_WEIGHT = 7.0
"""How much more a defective cell's code counts than a good one's."""


class Studio(nn.Module):
    """The model with its helper readers, which are trained along and thrown away."""

    def __init__(self, model: PreTrainedModel, shape: Shape) -> None:
        """Fresh helper readers, the same every time."""
        super().__init__()
        torch.manual_seed(1)
        self.model = model
        width = shape.text_width
        self.sight = SightHints(width, shape.sight_width, len(CATEGORIES), len(KINDS))
        self.place = PlaceHints(width, len(KINDS))
        self.letter = LetterHints(width)
        self.quote = LetterHints(width)
        self.summary = SummaryHints(width, len(KINDS))
        self.stamp = nn.Buffer(torch.zeros(1), persistent=False)


class Stages:
    """Batches and losses of all stages over one pool."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        """Load the untrained policy and what is drawn so far."""
        self.recipe, self.out = recipe, out
        self.model, self.processor = nano_model.load(out / "start")
        self.teacher = Teacher(self.processor)
        self.studio = Studio(self.model, recipe.shape)
        self.code = Code(recipe.shape.text_width)
        self.pool = Pool(out / "pool")
        self.local = Pool(
            out / "pool", without=("wrong count",)
        )  # the code tells nothing of counts, nor do squares
        self.grounds = strange.grounds(recipe.grounds, recipe.seed)
        self.words = sorted(
            {
                word
                for s in self.pool.samples(400)
                for word in s.knowledge.replace(".", " ").replace(",", " ").split()
            }
        )
        self._turn = 0

    def text(self, rng: Generator) -> dict[str, Tensor]:
        """Reading the code and answering, or letter drills."""
        return self.drill(rng) if rng.random() < self.recipe.drill_share else self.reading(rng)

    def reading(self, rng: Generator, boxes: bool = False) -> dict[str, Tensor]:
        """Reading the code and answering; with `boxes` on, about boxes always."""
        examples, rows, truths = self._lesson(self.local, rng, boxes=boxes, code=True)
        told = [
            _unheard(e.truth, rng) if row.unheard else e.truth for e, row in zip(examples, rows, strict=True)
        ]
        tokens, good = self.code.tokens(told, truths), self._code_of_good(told)
        if len(rows[0].grids_hw) == 2:
            other = [told[int(i)] for i in rng.permutation(len(told))]
            decoys = self.code.tokens(other, cells(other)) - self._code_of_good(other)
            decoys = decoys * torch.from_numpy(
                rng.random((len(told), 1, 1), dtype=np.float32) < self.recipe.decoy_share
            )
            tokens, good = tokens + decoys, good + decoys
        tokens, good = (
            one + self.recipe.code_noise * torch.from_numpy(rng.standard_normal(one.shape, dtype=np.float32))
            for one in (tokens, good)
        )
        shown = [
            [good[i], tokens[i]] if len(row.grids_hw) == 2 else [tokens[i]] for i, row in enumerate(rows)
        ]
        batch = self._pack(rows)
        return self._answering(batch, [one for images in shown for one in images], truths)

    def drill(self, rng: Generator) -> dict[str, Tensor]:
        """Finding the letter of an option, or what knowledge says of an invented object, from text alone."""
        if rng.random() < self.recipe.recital_share:
            return self.recital(rng)
        rows = []
        for sample in self.pool.some(rng, self.recipe.drills):
            asked = [q for q in sample.questions if q.options]
            question = lessons.shuffled(asked[int(rng.integers(len(asked)))], rng)
            rows.append(
                self.teacher.drill(
                    sample, lessons.made_up(rng, self.words) if rng.random() < 0.6 else question, rng
                )
            )
        batch = self._pack(rows)
        states, inside = hidden(self.model, batch, [])
        scored = logits(self.model, states, batch)
        counted = batch.weights > 0
        loss = functional.cross_entropy(scored[counted], batch.targets[counted])
        right = (scored[counted].argmax(-1) == batch.targets[counted]).float().mean()
        tags = self._tags(batch, inside)
        return {
            "total": loss + 0.3 * tags["option"] + 0.5 * tags["quote"],
            "drill": loss,
            "drill right": right,
            **tags,
        }

    def recital(self, rng: Generator) -> dict[str, Tensor]:
        """Copying name and purpose of an invented object from the knowledge, from text alone."""
        rows = []
        for sample in self.pool.some(rng, self.recipe.drills // 2):
            unheard = invented.renamed(sample, rng)
            asked = [
                lessons.shuffled(q, rng)
                for q in unheard.questions
                if q.kind in ("object classification", "object analysis")
            ]
            rows.append(self.teacher.recital(unheard, asked, rng))
        batch = self._pack(rows)
        each = functional.cross_entropy(
            logits(self.model, hidden(self.model, batch, [])[0], batch), batch.targets, reduction="none"
        )
        loss = (each * batch.weights).sum() / batch.weights.sum()
        letters = batch.weights == lessons.LETTER_WEIGHT
        return {"total": loss, "recital": loss, "recital letter": each[letters].mean()}

    def sight(self, rng: Generator) -> dict[str, Tensor]:
        """Writing the code from pixels, square by square."""
        self._look_for_more()
        shape = self.recipe.shape
        side = shape.window // CELL
        found = crops.crops(self.local, self.recipe.sight_cells // (2 * side**2), side, rng)
        moved = bool(rng.random() < self.recipe.strange_share)
        found = strange.squares(found, self.grounds, rng) if moved else found
        truths = cells([one.truth for one in found])
        tower = self.model.model.visual
        states = fine(tower, [one.image for one in found])
        seen = merged(tower, states)
        hints = self.studio.sight(seen, truths)
        patch = self.studio.sight.patches(states, truths)
        tone = self.studio.sight.tones(seen, [one.image for one in found])
        total = patch + hints["kind"] + hints["quarter"] + 0.5 * tone
        total = total + 0.5 * hints.get("reach", total * 0)
        if moved:  # words for colours and category would be wrong
            return {"total": total, "strange kind": hints["kind"], "strange patch": patch, "tone": tone}
        goal = self.code.tokens([one.truth for one in found], truths)
        weight = 1 + (DEFECT_WEIGHT - 1) * (truths.kind > 0)[..., None]
        code = (weight * (seen.float() - goal) ** 2).mean() / CODE_SCALE**2
        return {
            "total": total + CODE_WEIGHT * code + 0.2 * hints["category"],
            "code": code,
            "patch": patch,
            "tone": tone,
            **hints,
        }

    def both(self, rng: Generator) -> dict[str, Tensor]:
        """Answering about images, the whole model, or letter drills and squares, which would be forgotten otherwise."""
        what = rng.random()
        if what < self.recipe.late_drill_share:
            return self.drill(rng)
        if what < self.recipe.late_drill_share + self.recipe.late_sight_share:
            return _named("square", self.sight(rng))
        if what < self.recipe.late_drill_share + self.recipe.late_sight_share + self.recipe.late_code_share:
            return _named("code", self.reading(rng, boxes=True))
        self._look_for_more()
        examples, rows, truths = self._lesson(self.pool, rng, self.recipe.late_strange_share)
        shown = [
            image for example, row in zip(examples, rows, strict=True) for image in _images(example, row)
        ]
        with torch.set_grad_enabled(bool(rng.random() < self.recipe.tower_share)):
            seen = vision(self.model.model.visual, shown)
        return self._answering(self._pack(rows), list(seen), truths)

    def raw(self, rng: Generator) -> dict[str, Tensor]:
        """The text model, taught that reasoning need not agree with the answer; the tower stays as it is."""
        examples, rows, _ = self._lesson(self.pool, rng, unreliable=True)
        shown = [
            image for example, row in zip(examples, rows, strict=True) for image in _images(example, row)
        ]
        with torch.no_grad():
            seen = vision(self.model.model.visual, shown)
        batch = self._pack(rows)
        each = functional.cross_entropy(
            logits(self.model, hidden(self.model, batch, list(seen))[0], batch),
            batch.targets,
            reduction="none",
        )
        return {
            "total": each.mean()
        }  # every token counts the same: with weights, shares of wordings are not learned as they are

    def _answering(self, batch: Packed, shown: Sequence[Tensor], truths: Cells) -> dict[str, Tensor]:
        """Loss of the completions, with the text model's own hints."""
        states, inside = hidden(self.model, batch, shown)
        each = functional.cross_entropy(logits(self.model, states, batch), batch.targets, reduction="none")
        answering = (each * batch.weights).sum() / batch.weights.sum()
        early, late = (
            inside[tap].states[batch.last_image_at].view(len(batch.ids), -1, states.shape[-1])
            for tap in (TAP, CELL_TAP)
        )
        row, column = (at.view(len(batch.ids), -1)[:, -1] for at in batch.last_image_at)
        summary = self.studio.summary(inside[QUOTE_TAP].states[row, column + 1], truths)
        summary |= _looking(inside[QUOTE_TAP].looks, batch, truths) | _comparing(
            inside[COMPARE].looks, batch, truths
        )
        hints = self.studio.place(early, late, truths) | self._tags(batch, inside) | summary
        nothing = answering * 0
        total = answering + 0.5 * hints["place"] + 0.5 * hints.get("edges", nothing) + hints["cell kind"]
        total = (
            total
            + 0.3 * summary["sum kind"]
            + 0.3 * summary["sum place"]
            + 0.2 * summary.get("sum edges", nothing)
        )
        total = total + 0.3 * summary.get("look", nothing) + 0.1 * summary.get("compare", nothing)
        total = total + 0.1 * hints.get("option", nothing) + 0.3 * hints.get("quote", nothing)
        letters = batch.weights == lessons.LETTER_WEIGHT
        shares = {"letter": each[letters].mean()} if bool(letters.any()) else {}
        return {"total": total, "answer": each.mean(), **shares, **hints}

    def _lesson(
        self,
        pool: Pool,
        rng: Generator,
        strangely: float = 0.0,
        unreliable: bool = False,
        boxes: bool = False,
        code: bool = False,
    ) -> tuple[list[Example], list[Row], Cells]:
        """Equally sized examples, their rows of questions and their truths; all rows with a reference image, or none.

        A share `strangely` of lessons looks like no category; with `boxes` on, verdict and boxes alone are
        asked for. With `code` on the images are not looked at.
        """
        share = self.recipe.reference_share * (0.3 if boxes else 1)
        reference = bool(
            rng.random() < 2 * share / (1 + share)
        )  # a lesson with references holds half as many examples
        aligned = reference and bool(rng.random() < self.recipe.aligned_share)
        good = self.recipe.good_with_reference if reference else 0.5
        examples = pool.batch(rng, self.recipe.cells // (2 if reference else 1), reference, aligned, good)
        odd = bool(rng.random() < strangely)
        if not code:
            examples = self._staged(examples, reference, aligned, odd, rng)
        rows = [self._row(example, reference, rng, boxes, unreliable, odd) for example in examples]
        return examples, rows, cells([e.truth for e in examples])

    def _staged(
        self, examples: list[Example], reference: bool, aligned: bool, odd: bool, rng: Generator
    ) -> list[Example]:
        """The examples with decoys on image and reference, references photographed again, and strange looks, as far as asked for."""
        examples = examples if reference else [replace(e, reference=None) for e in examples]
        if aligned:
            examples = [
                replace(e, reference=None if e.reference is None else strange.retaken(e.reference, rng))
                for e in examples
            ]
        if reference:
            marks = self.pool.marks(rng, examples[0].frame.model_wh, len(examples))
            chosen = rng.random(len(examples)) < self.recipe.decoy_share
            examples = [
                strange.with_decoy(e, mark, rng) if yes else e
                for e, mark, yes in zip(examples, marks, chosen, strict=True)
            ]
        return [strange.example(e, self.grounds, rng) for e in examples] if odd else examples

    def _code_of_good(self, truths: Sequence[Truth]) -> Tensor:
        clean = [replace(t, kind=0, cover=0 * t.cover, boxes_xyxy=t.boxes_xyxy[:0], look="") for t in truths]
        return self.code.tokens(clean, cells(clean))

    def _row(
        self, example: Example, reference: bool, rng: Generator, plain: bool, unreliable: bool, odd: bool
    ) -> Row:
        logical = example.sample.defect in LOGICAL and not reference  # only knowledge tells then
        nameless = odd or example.sample.category == UNFAMILIAR
        share = self.recipe.nameless_knowledge_share if nameless else self.recipe.knowledge_share
        known = not plain and bool(rng.random() < (0.9 if logical else share))
        sample: Sample = exam.given(example, known, reference)
        if odd:
            fitting = tuple(question for question in sample.questions if question.kind not in OF_COLOURS)
            sample = sample.model_copy(update={"questions": fitting})
        unheard = known and bool(rng.random() < (1.0 if nameless else self.recipe.invented_share))
        sample = invented.renamed(sample, rng) if unheard else sample
        plain = plain or (
            nameless and not known
        )  # neither strange looks nor what is unfamiliar tell the object
        questions = (
            prompts.gold_inspection_questions(sample)
            if plain
            else lessons.choose(sample, self.recipe.questions, rng)
        )
        gold = [
            self.teacher.gold(sample, question, example.look, example.frame, rng, unreliable)
            for question in questions
        ]
        return replace(
            self.teacher.row(sample, questions, grid_of(example.frame.model_wh), gold), unheard=unheard
        )

    def _pack(self, rows: Sequence[Row]) -> Packed:
        return pack(rows, self.model.model, self.teacher.ids.image, self.teacher.ids.pad)

    def _tags(self, batch: Packed, inside: Sequence[Inside]) -> dict[str, Tensor]:
        """Losses on knowing the letters behind options, early, and behind quotes of them, later."""
        ids = batch.ids.numpy()
        options, quotes = (
            torch.from_numpy(f(ids)) for f in (self.teacher.option_numbers, self.teacher.quoted_numbers)
        )
        tags = {
            "option": (self.studio.letter, inside[TAP].states, options),
            "quote": (self.studio.quote, inside[QUOTE_TAP].states, quotes),
        }
        return {
            name: reader(states, numbers)
            for name, (reader, states, numbers) in tags.items()
            if bool((numbers >= 0).any())
        }

    def _look_for_more(self) -> None:
        self._turn += 1
        if self._turn % 50 == 0:
            self.pool.refresh()
            self.local.refresh()


def _looking(looks: Tensor, batch: Packed, truths: Cells) -> dict[str, Tensor]:
    """Loss on where the token that closes the image looks: its first head should find the defective cells."""
    rows, columns = (at.view(len(batch.ids), -1) for at in batch.last_image_at)
    bad = truths.whole_kind > 0
    if not bool(bad.any()):
        return {}
    share = looks[rows, 0, columns[:, -1:] + 1, columns].float()  # (B, n)
    found = (share * (truths.kind > 0)).sum(1)
    return {"look": -torch.log(found[bad] + 1e-4).mean()}


def _comparing(looks: Tensor, batch: Packed, truths: Cells) -> dict[str, Tensor]:
    """Loss on where the inspected image's tokens look, with one reference: at the same place of it or beside."""
    rows, columns = (at.view(len(batch.ids), -1) for at in batch.image_at)
    n = len(truths.place)
    if columns.shape[1] != 2 * n:
        return {}
    share = looks[rows[:, :1, None], 0, columns[:, n:, None], columns[:, None, :n]].float()  # (B, n, n)
    near = (truths.place[:, None] - truths.place).abs().amax(-1) <= 1
    return {"compare": -torch.log((share * near).sum(-1) + 1e-4).mean()}


def _named(kind: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses of another lesson, told apart in the log."""
    return {key if key == "total" else f"{kind} {key}": value for key, value in losses.items()}


def _unheard(truth: Truth, rng: Generator) -> Truth:
    """The same defect on an object whose code is none of the categories'."""
    return replace(
        truth, category=CATEGORIES.index(UNFAMILIAR) if rng.random() < 0.5 else int(rng.integers(100, 164))
    )


def _images(example: Example, row: Row) -> list[Pixels]:
    return (
        [example.image]
        if example.reference is None or len(row.grids_hw) == 1
        else [example.reference, example.image]
    )


def run_stage(name: str, out: Path, recipe: Recipe) -> None:
    """Train one stage; "both" starts from the other two and is examined on the way, "raw" starts from the finished policy."""
    stages = Stages(out, recipe)
    model = stages.model
    if name == "both":
        for part in ("text", "sight"):
            _take_over(stages.studio, out / f"{part}.weights.pt", part)
        counts = zip(("seen", "dev"), recipe.exam_images, strict=True)
        examples = {split: held_out(split, count, recipe.shape.max_pixels) for split, count in counts}
        end = loop.run(
            name, out, recipe.both, stages.studio, stages.both, lambda clock: _report(stages, clock, examples)
        )
        _report(stages, end, examples)
        return
    stages.studio.requires_grad_(False)
    if name == "raw":
        model.load_state_dict(nano_model.load(out / "nano")[0].state_dict())
        model.model.language_model.requires_grad_(True)
        end = loop.run(name, out, recipe.raw, stages.studio, stages.raw)
        _finish_raw(stages, end.seconds / 60)
        return
    part = model.model.language_model if name == "text" else model.model.visual
    studio = stages.studio
    readers = (
        (studio.place, studio.letter, studio.quote, studio.summary) if name == "text" else (studio.sight,)
    )
    for trained in (part, *readers):
        trained.requires_grad_(True)
    loop.run(name, out, getattr(recipe, name), stages.studio, getattr(stages, name))
    torch.save(stages.studio.state_dict(), out / f"{name}.weights.pt")


def _finish_raw(stages: Stages, minutes: float) -> None:
    """Examine nano-raw and write it with its card."""
    folder, recipe = stages.out / "nano-raw", stages.recipe
    nano_model.save(stages.model, stages.processor, folder)
    model, _ = nano_model.load(folder)
    examples = held_out("seen", recipe.raw_images, recipe.shape.max_pixels, FINAL_FIRST)
    ways = {"greedy": None, "sampled": recipe.seed}
    results = {
        name: exam.examine(model, stages.teacher, examples, extras=3, seed=seed)
        for name, seed in ways.items()
    }
    nano_model.save(model, stages.processor, folder, raw_card(results, minutes, recipe.machine))


def finish(
    out: Path, recipe: Recipe, destination: Path, notes: str = "", limits: str = ""
) -> dict[str, dict[str, Any]]:
    """Examine the finished policy at length, and write it with its card to `destination`; gives the figures.

    `notes` say how this run was made, `limits` what keeps it from its aims.
    """
    model, processor = nano_model.load(out / "nano")
    seen, dev = final_examples(recipe)
    results, controls = exam.at_length(model, Teacher(processor), seen, dev, recipe.final_extras)
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    parameters = sum(p.numel() for p in model.parameters())
    spent = ", ".join(f"{name} {minutes(out, name):.0f} minutes" for name in STAGES)
    facts = {
        "parameters": parameters / 1e6, "megabytes": 2 * parameters / 1e6, "images": f"{len(Pool(out / 'pool')):,}",
        "machine": recipe.machine, "command": "python -m anomalyr1.nano.make", "minutes": spent, "notes": notes, "limits": limits,
    }  # fmt: skip
    text = card(facts, results, controls, curve)
    nano_model.save(model, processor, destination, text)
    (out / "raw.pt").unlink(missing_ok=True)  # it went on from what was there before
    (out / FIGURES).write_text(json.dumps({**results, "controls": controls}, indent=1), encoding="utf-8")
    return results


def final_examples(recipe: Recipe) -> list[list[Example]]:
    """Drawings for the last examination, of seen categories and of development ones."""
    counts = zip(("seen", "dev"), recipe.final_images, strict=True)
    return [held_out(split, count, recipe.shape.max_pixels, FINAL_FIRST) for split, count in counts]


def _take_over(studio: Studio, path: Path, part: str) -> None:
    """Load what one of the first two stages trained."""
    state = torch.load(path, weights_only=True)
    text = ("model.model.language_model.", "model.lm_head.", "place.", "letter.", "quote.", "summary.")
    marks = ("model.model.visual.", "sight.") if part == "sight" else text
    studio.load_state_dict(
        {key: value for key, value in state.items() if key.startswith(marks)}, strict=False
    )


def _report(stages: Stages, clock: loop.Clock, examples: dict[str, list[Example]]) -> None:
    """Examine, note the curve, and save the policy as it is."""
    stages.studio.eval()
    with_reference = [example for example in examples["dev"] if example.reference is not None]
    asked = [
        *((split, some, "knowledge") for split, some in examples.items()),
        ("dev, with reference", with_reference, "reference"),
    ]
    for split, some, prompt in asked:
        figures = exam.examine(stages.model, stages.teacher, some, stages.recipe.exam_extras, prompt)
        examined(stages.out, clock, {"split": split, **figures})
    nano_model.save(stages.model, stages.processor, stages.out / "nano")
