"""Lessons about images: which examples, how they look, what is asked about them, which answers are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from numpy.random import Generator

from anomalyr1.drawn.defects import LOGICAL
from anomalyr1.drawn.words import UNFAMILIAR
from anomalyr1.nano.augmentation import add_decoy, photograph_again, restyle
from anomalyr1.nano.helper_losses import ImageTruth
from anomalyr1.nano.invented_names import rename_object
from anomalyr1.nano.lessons import RowWriter, choose_questions, token_grid
from anomalyr1.nano.packing import Pixels, PrefixRow
from anomalyr1.nano.pool import ImageExample, Pool
from anomalyr1.nano.recipe import NanoRecipe
from anomalyr1.prompts import gold_inspection_questions
from anomalyr1.training import completions

OF_COLOURS = ("object details", "defect description")
"""Kinds of questions whose gold strange colours would make wrong."""
LOGICAL_KNOWLEDGE_SHARE = 0.9
"""Share of the logical defects without a reference that have knowledge: nothing else tells them."""


@dataclass(frozen=True)
class LessonKind:
    """What the lessons about images of one kind have in common; those that exist are the constants below."""

    from_code: bool = False
    """Whether the text model reads the code of the images, which are not looked at."""
    boxes_only: bool = False
    """Whether nothing but the verdict and the boxes is asked for."""
    strange: bool = False
    """Whether a share of the lessons looks like no category."""
    unreliable: bool = False
    """Whether reasoning may contradict the answer, or say nothing of it."""


READING = LessonKind(from_code=True)
"""The text stage: reading the code and answering."""
READING_BOXES = LessonKind(from_code=True, boxes_only=True)
"""In the last stage: boxes on the code, where they are exact."""
LOOKING = LessonKind(strange=True)
"""The last stage: answering about images."""
DOUBTING = LessonKind(unreliable=True)
"""The stage of nano-raw: answering about images, with unreliable reasoning."""


@dataclass(frozen=True)
class ImageLesson:
    """Equally sized examples, and what is learned about them."""

    examples: list[ImageExample]
    rows: list[PrefixRow]
    """The questions about each example; all have a reference image, or none has."""

    @property
    def has_references(self) -> bool:
        """Whether each row has a reference image."""
        return len(self.rows[0].grids_hw) == 2

    @property
    def images(self) -> list[Pixels]:
        """The images of the rows in reading order."""
        return [image for e in self.examples for image in e.images_in_prompt(self.has_references)]

    @property
    def truths(self) -> list[ImageTruth]:
        """What the examples show."""
        return [example.truth for example in self.examples]


class LessonMaker:
    """Makes lessons from a pool, with the shares of a recipe."""

    def __init__(self, recipe: NanoRecipe, writer: RowWriter, textures: Sequence[Pixels]) -> None:
        """Keep them; `textures` are what strange looks come from."""
        self.recipe, self.writer, self.textures = recipe, writer, textures

    def make(self, kind: LessonKind, pool: Pool, rng: Generator) -> ImageLesson:
        """A lesson of a kind."""
        recipe = self.recipe
        # 1. A lesson with references holds half as many examples, so twice as many lessons have them.
        share = recipe.reference_share * (0.3 if kind.boxes_only else 1)
        reference = bool(rng.random() < 2 * share / (1 + share))
        aligned = reference and bool(rng.random() < recipe.aligned_share)
        # 2. The examples, and how they look.
        good = recipe.good_with_reference if reference else 0.5
        examples = pool.batch(rng, recipe.cells // (2 if reference else 1), reference, aligned, good)
        strange = bool(rng.random() < (recipe.late_strange_share if kind.strange else 0.0))
        if not kind.from_code:
            examples = self._change_looks(examples, pool, reference, aligned, rng)
            if strange:
                examples = [restyle(example, self.textures, rng) for example in examples]
        # 3. The questions.
        rows = [self._write_row(example, kind, reference, strange, rng) for example in examples]
        return ImageLesson(examples, rows)

    def _change_looks(
        self, examples: list[ImageExample], pool: Pool, reference: bool, aligned: bool, rng: Generator
    ) -> list[ImageExample]:
        """The examples with `aligned` references photographed again, and decoys on image and reference.

        Without `reference`, they have none.
        """
        if not reference:
            return [replace(example, reference=None) for example in examples]
        if aligned:
            examples = [
                replace(e, reference=None if e.reference is None else photograph_again(e.reference, rng))
                for e in examples
            ]
        residuals = pool.residuals(rng, examples[0].frame.model_wh, len(examples))
        bears_decoy = rng.random(len(examples)) < self.recipe.decoy_share
        return [
            add_decoy(example, residual, rng) if decoy else example
            for example, residual, decoy in zip(examples, residuals, bears_decoy, strict=True)
        ]

    def _write_row(
        self, example: ImageExample, kind: LessonKind, reference: bool, strange: bool, rng: Generator
    ) -> PrefixRow:
        """The row of questions about an example with their gold."""
        # 1. Neither strange looks nor what is unfamiliar tell the object: only its knowledge does.
        nameless = strange or example.sample.category == UNFAMILIAR
        share = self._knowledge_share(example, reference, nameless)
        knowledge = not kind.boxes_only and bool(rng.random() < share)
        sample = example.sample_in_prompt(knowledge, reference)
        if strange:
            fitting = tuple(q for q in sample.questions if q.kind not in OF_COLOURS)
            sample = sample.model_copy(update={"questions": fitting})
        invented = knowledge and bool(rng.random() < (1.0 if nameless else self.recipe.invented_share))
        if invented:
            sample = rename_object(sample, rng)
        # 2. The questions about the object need its name.
        questions = list(gold_inspection_questions(sample))
        if not kind.boxes_only and (knowledge or not nameless):
            questions = choose_questions(sample, self.recipe.questions, rng)
        # 3. The completions.
        gold = [
            completions.gold(sample, question, example.look, example.frame, rng, kind.unreliable)
            for question in questions
        ]
        row = self.writer.row(sample, questions, token_grid(example.frame.model_wh), gold)
        return replace(row, invented=invented)

    def _knowledge_share(self, example: ImageExample, reference: bool, nameless: bool) -> float:
        if example.sample.defect in LOGICAL and not reference:
            return LOGICAL_KNOWLEDGE_SHARE
        return self.recipe.nameless_knowledge_share if nameless else self.recipe.knowledge_share
