"""What a batch of each of nano's stages is, and what its losses are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional

from anomalyr1.drawn.words import UNFAMILIAR
from anomalyr1.nano import helper_losses, image_lessons, packing
from anomalyr1.nano.augmentation import draw_textures, move_squares
from anomalyr1.nano.helper_losses import CellTargets, ImageTruth, cell_targets
from anomalyr1.nano.image_lessons import ImageLesson, LessonKind
from anomalyr1.nano.invented_names import rename_object
from anomalyr1.nano.lessons import LETTER_WEIGHT, RowWriter, make_up_question, shuffle_options
from anomalyr1.nano.model import NanoShape, load_model
from anomalyr1.nano.packing import LayerOutput, PackedBatch, pack
from anomalyr1.nano.pool import CATEGORIES, KINDS, Pool
from anomalyr1.nano.recipe import NanoRecipe
from anomalyr1.nano.square_lessons import cut_squares

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TAP = 1
"""After this layer of the text model, image tokens should know their place."""
COMPARE = 2
"""In this layer, the lowest head of the inspected image's tokens should look about the same place of the
reference."""
CELL_TAP = 3
"""After this layer, image tokens should know the kind of defect they show and its box, with the reference if
there is one."""
QUOTE_TAP = 4
"""After this layer, the words of an option that reasoning quotes should know its letter."""
HELPER_WEIGHTS = {
    "place": 0.5, "edges": 0.5, "cell kind": 1.0, "sum kind": 0.3, "sum place": 0.3, "sum edges": 0.2,
    "look": 0.3, "compare": 0.1, "option": 0.1, "quote": 0.3,
}  # fmt: skip
"""How much each helper loss counts beside that of the completions."""
CODE_WEIGHT = 0.3
"""How much the code counts beside the helper losses while the tower learns."""
DEFECT_WEIGHT = 7.0
"""How much more a defective cell's code counts than a good one's."""


class ModelWithReaders(nn.Module):
    """The model with the readers of its helper losses, which are trained along and thrown away."""

    def __init__(self, model: PreTrainedModel, shape: NanoShape) -> None:
        """The readers begin the same every time."""
        super().__init__()
        torch.manual_seed(1)
        self.model = model
        width = shape.text_width
        self.sight = helper_losses.SightLosses(width, shape.sight_width, len(CATEGORIES), len(KINDS))
        self.place = helper_losses.PlaceLosses(width, len(KINDS))
        self.letter = helper_losses.LetterLoss(width)
        self.quote = helper_losses.LetterLoss(width)
        self.summary = helper_losses.SummaryLosses(width, len(KINDS))


class StageLosses:
    """Batches of all stages over one pool: each method draws one and gives its losses by name.

    The one called "total" is minimised.
    """

    def __init__(self, out: Path, recipe: NanoRecipe) -> None:
        """Load the untrained policy and what is drawn so far."""
        self.recipe = recipe
        self.model, self.processor = load_model(out / "start")
        self.writer = RowWriter(self.processor)
        self.module = ModelWithReaders(self.model, recipe.shape)
        self.code = helper_losses.SightCode(recipe.shape.text_width)
        self.pool = Pool(out / "pool")
        # neither the code nor squares tell counts
        self.countless_pool = Pool(out / "pool", without=("wrong count",))
        self.textures = draw_textures(recipe.grounds, recipe.seed)
        self.lessons = image_lessons.LessonMaker(recipe, self.writer, self.textures)
        texts = (s.knowledge.replace(".", " ").replace(",", " ") for s in self.pool.samples(400))
        self.words = sorted({word for text in texts for word in text.split()})
        self._image_lessons = 0

    def text(self, rng: Generator) -> dict[str, Tensor]:
        """Reading the code and answering, or letter drills."""
        drill = rng.random() < self.recipe.drill_share
        return self.drill(rng) if drill else self._reading(image_lessons.READING, rng)

    def sight(self, rng: Generator) -> dict[str, Tensor]:
        """Writing the code from pixels, square by square."""
        self._refresh_pools()
        side = self.recipe.shape.window // packing.CELL
        count = self.recipe.sight_cells // (2 * side**2)
        squares = cut_squares(self.countless_pool, count, side, rng)
        strange = bool(rng.random() < self.recipe.strange_share)
        if strange:
            squares = move_squares(squares, self.textures, rng)
        truths = [square.truth for square in squares]
        images = [square.image for square in squares]
        targets = cell_targets(truths)
        # 1. What the readers find in patches and image tokens.
        states = packing.patch_states(self.model.model.visual, images)
        tokens = packing.merge_patches(self.model.model.visual, states)
        hints = self.module.sight(tokens, targets)
        patch = self.module.sight.patches(states, targets)
        tone = self.module.sight.tones(tokens, images)
        total = patch + hints["kind"] + hints["quarter"] + 0.5 * tone
        total = total + 0.5 * hints.get("reach", total * 0)
        if strange:  # words for colours and category would be wrong
            return {"total": total, "strange kind": hints["kind"], "strange patch": patch, "tone": tone}
        # 2. How far the image tokens are from the code.
        goal = self.code.tokens(truths, targets)
        weight = 1 + (DEFECT_WEIGHT - 1) * (targets.kind > 0)[..., None]
        code = (weight * (tokens.float() - goal) ** 2).mean() / helper_losses.CODE_SCALE**2
        total = total + CODE_WEIGHT * code + 0.2 * hints["category"]
        return {"total": total, "code": code, "patch": patch, "tone": tone, **hints}

    def both(self, rng: Generator) -> dict[str, Tensor]:
        """The whole model answers about images; or what would be forgotten otherwise: drills and squares."""
        recipe, place = self.recipe, rng.random()
        if place < recipe.late_drill_share:
            return self.drill(rng)
        if place < recipe.late_drill_share + recipe.late_sight_share:
            return _prefixed("square", self.sight(rng))
        if place < recipe.late_drill_share + recipe.late_sight_share + recipe.late_code_share:
            return _prefixed("code", self._reading(image_lessons.READING_BOXES, rng))
        self._refresh_pools()
        lesson = self.lessons.make(image_lessons.LOOKING, self.pool, rng)
        with torch.set_grad_enabled(bool(rng.random() < recipe.tower_share)):
            tokens = packing.encode_images(self.model.model.visual, lesson.images)
        return self._answering(pack(lesson.rows, self.model), list(tokens), cell_targets(lesson.truths))

    def raw(self, rng: Generator) -> dict[str, Tensor]:
        """The text model, taught that reasoning need not agree with the answer; the tower stays as it is.

        Every token counts the same: with weights, shares of wordings are not learned as they are.
        """
        lesson = self.lessons.make(image_lessons.DOUBTING, self.pool, rng)
        with torch.no_grad():
            tokens = packing.encode_images(self.model.model.visual, lesson.images)
        _, losses, _ = self._read(pack(lesson.rows, self.model), list(tokens))
        return {"total": losses.mean()}

    def drill(self, rng: Generator) -> dict[str, Tensor]:
        """Finding the letter of an option, or reciting knowledge of an invented object, from text alone."""
        if rng.random() < self.recipe.recital_share:
            return self._recital(rng)
        rows = []
        for sample in self.pool.random_samples(rng, self.recipe.drills):
            questions = [question for question in sample.questions if question.options]
            question = shuffle_options(questions[int(rng.integers(len(questions)))], rng)
            if rng.random() < 0.6:
                question = make_up_question(rng, self.words)
            rows.append(self.writer.drill(sample, question, rng))
        batch = pack(rows, self.model)
        states, layers = packing.hidden_states(self.model, batch, [])
        counted = batch.weights > 0
        logits, targets = packing.learned_logits(self.model, states, batch)[counted], batch.targets[counted]
        loss = functional.cross_entropy(logits, targets)
        right = (logits.argmax(-1) == targets).float().mean()
        hints = self._letter_losses(batch, layers)
        total = loss + 0.3 * hints["option"] + 0.5 * hints["quote"]
        return {"total": total, "drill": loss, "drill right": right, **hints}

    def _recital(self, rng: Generator) -> dict[str, Tensor]:
        """Copying name and purpose of an invented object from the knowledge, from text alone."""
        rows = []
        for sample in self.pool.random_samples(rng, self.recipe.drills // 2):
            invented = rename_object(sample, rng)
            named = [q for q in invented.questions if q.kind in ("object classification", "object analysis")]
            questions = [shuffle_options(question, rng) for question in named]
            rows.append(self.writer.recital(invented, questions, rng))
        batch = pack(rows, self.model)
        _, losses, _ = self._read(batch, [])
        loss = (losses * batch.weights).sum() / batch.weights.sum()
        letters = batch.weights == LETTER_WEIGHT
        return {"total": loss, "recital": loss, "recital letter": losses[letters].mean()}

    def _reading(self, kind: LessonKind, rng: Generator) -> dict[str, Tensor]:
        """Reading the code and answering."""
        lesson = self.lessons.make(kind, self.countless_pool, rng)
        targets = cell_targets(lesson.truths)
        tokens = self._code_of_images(lesson, targets, rng)
        return self._answering(pack(lesson.rows, self.model), tokens, targets)

    def _code_of_images(self, lesson: ImageLesson, targets: CellTargets, rng: Generator) -> list[Tensor]:
        """The code of a lesson's images in reading order, with noise, and with decoys beside a reference."""
        truths = [
            _with_new_category(truth, rng) if row.invented else truth
            for truth, row in zip(lesson.truths, lesson.rows, strict=True)
        ]
        inspected, reference = self.code.tokens(truths, targets), self._code_of_good(truths)
        if lesson.has_references:
            shuffled = [truths[int(i)] for i in rng.permutation(len(truths))]
            decoys = self.code.tokens(shuffled, cell_targets(shuffled)) - self._code_of_good(shuffled)
            bears_decoy = rng.random((len(truths), 1, 1), dtype=np.float32) < self.recipe.decoy_share
            decoys = decoys * torch.from_numpy(bears_decoy)
            inspected, reference = inspected + decoys, reference + decoys
        noises = [rng.standard_normal(inspected.shape, dtype=np.float32) for _ in range(2)]
        inspected = inspected + self.recipe.code_noise * torch.from_numpy(noises[0])
        reference = reference + self.recipe.code_noise * torch.from_numpy(noises[1])
        if not lesson.has_references:
            return list(inspected)
        return [code for pair in zip(reference, inspected, strict=True) for code in pair]

    def _code_of_good(self, truths: Sequence[ImageTruth]) -> Tensor:
        good = [truth.without_defect() for truth in truths]
        return self.code.tokens(good, cell_targets(good))

    def _read(self, batch: PackedBatch, tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[LayerOutput]]:
        """(B, S, D) hidden states, (K,) losses of the learned tokens, and the outputs of the layers."""
        states, layers = packing.hidden_states(self.model, batch, tokens)
        logits = packing.learned_logits(self.model, states, batch)
        return states, functional.cross_entropy(logits, batch.targets, reduction="none"), layers

    def _answering(
        self, batch: PackedBatch, tokens: Sequence[Tensor], targets: CellTargets
    ) -> dict[str, Tensor]:
        """Loss of the completions, with the helper losses of the text model."""
        states, losses, layers = self._read(batch, tokens)
        answering = (losses * batch.weights).sum() / batch.weights.sum()
        # 1. What the readers find in the token that closes the image, and where the heads look.
        rows, columns = (at.view(len(batch.ids), -1)[:, -1] for at in batch.last_image_at)
        summary = self.module.summary(layers[QUOTE_TAP].states[rows, columns + 1], targets)
        summary |= helper_losses.looking_loss(layers[QUOTE_TAP].attention, batch, targets)
        summary |= helper_losses.comparing_loss(layers[COMPARE].attention, batch, targets)
        # 2. What they find in the image's tokens, and in those of options.
        early, late = (
            layers[tap].states[batch.last_image_at].view(len(batch.ids), -1, states.shape[-1])
            for tap in (TAP, CELL_TAP)
        )
        hints = self.module.place(early, late, targets) | self._letter_losses(batch, layers) | summary
        total = answering
        for name, weight in HELPER_WEIGHTS.items():
            if name in hints:
                total = total + weight * hints[name]
        letters = batch.weights == LETTER_WEIGHT
        shares = {"letter": losses[letters].mean()} if bool(letters.any()) else {}
        return {"total": total, "answer": losses.mean(), **shares, **hints}

    def _letter_losses(self, batch: PackedBatch, layers: Sequence[LayerOutput]) -> dict[str, Tensor]:
        """Losses on knowing the letters behind options, early, and behind quotes of them, later."""
        ids = batch.ids.numpy()
        losses = {}
        for name, reader, tap, find in (
            ("option", self.module.letter, TAP, self.writer.option_numbers),
            ("quote", self.module.quote, QUOTE_TAP, self.writer.quoted_numbers),
        ):
            numbers = torch.from_numpy(find(ids))
            if bool((numbers >= 0).any()):
                losses[name] = reader(layers[tap].states, numbers)
        return losses

    def _refresh_pools(self) -> None:
        """Take up what was drawn since, now and then."""
        self._image_lessons += 1
        if self._image_lessons % 50 == 0:
            self.pool.refresh()
            self.countless_pool.refresh()


def _prefixed(prefix: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses of another stage's lesson under names of their own, for the log."""
    return {name if name == "total" else f"{prefix} {name}": loss for name, loss in losses.items()}


def _with_new_category(truth: ImageTruth, rng: Generator) -> ImageTruth:
    """The same defect on an object whose code is none of the categories'."""
    category = CATEGORIES.index(UNFAMILIAR) if rng.random() < 0.5 else int(rng.integers(100, 164))
    return replace(truth, category=category)
