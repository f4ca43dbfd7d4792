"""From a sample with known truth to rows of tokens: the library's own prompt, gold reasoning and answer, and how much each token counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomalyr1 import answers, boxes, prompts
from anomalyr1.nano import invented_names as invented
from anomalyr1.nano.packing import CELL, Branch, Row
from anomalyr1.prompts import gold_inspection_questions
from anomalyr1.training import completions
from anomalyr1.types import LETTERS, Box, Question, Sample

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from anomalyr1.nano.pool import Pool

LETTER_WEIGHT = 3.0
EVIDENCE_WEIGHT = 4.0
DIGIT_WEIGHT = 10.0
"""How much letters that name an option, the words of the evidence, and digits of boxes count: few tokens
decide whether a text is right."""


@dataclass(frozen=True)
class Ids:
    """Token numbers that training needs to know."""

    image: int
    pad: int
    end: int
    vision_start: int
    vision_end: int
    letters: frozenset[int]
    """Option letters, with and without a space before them."""
    after_letter: frozenset[int]
    """What stands behind a letter that names an option."""
    digits: frozenset[int]
    line: int
    """The line break."""
    stop: int
    """The full stop."""


class Teacher:
    """Writes samples and questions as rows of tokens."""

    def __init__(self, processor: ProcessorMixin) -> None:
        """Keep the processor's tokenizer and chat template."""
        self.processor = processor
        self.tokenizer = processor.tokenizer
        number = self.tokenizer.convert_tokens_to_ids
        letters = [self.encode(f"{space}{letter}") for letter in LETTERS[:8] for space in ("", " ")]
        self.ids = Ids(
            image=number("<|image_pad|>"), pad=number("<|endoftext|>"), end=number("<|im_end|>"),
            vision_start=number("<|vision_start|>"), vision_end=number("<|vision_end|>"),
            letters=frozenset(ids[0] for ids in letters if len(ids) == 1),
            after_letter=frozenset((self.encode(".")[0], number("</answer>"))),
            line=self.encode("\n")[0], stop=self.encode(".")[0],
            digits=frozenset(self.encode(digit)[0] for digit in "0123456789"),
        )  # fmt: skip
        self.option_of = {self.encode(letter)[0]: i for i, letter in enumerate(LETTERS[:8])}
        self.told_option = {self.encode(f" {letter}")[0]: i for i, letter in enumerate(LETTERS[:8])}
        self._memory: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as it stands."""
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def row(
        self,
        sample: Sample,
        questions: Sequence[Question],
        grid_hw: tuple[int, int],
        gold: Sequence[str] | None,
    ) -> Row:
        """One prefix (all images on the same grid) with a branch a question; `gold` completions in the same order, None = to be written."""
        texts = [self._chat(sample, question) for question in questions]
        head, mark, _ = texts[0].rpartition("<|vision_end|>")
        tails = [text.rpartition("<|vision_end|>")[2] for text in texts]
        run = [self.ids.image] * (grid_hw[0] * grid_hw[1])
        prefix: list[int] = []
        for token in self._remember(head) + self._remember(mark):
            prefix += run if token == self.ids.image else [token]
        branches = [self._branch(tail, None if gold is None else gold[i]) for i, tail in enumerate(tails)]
        return Row(prefix, (grid_hw,) * (len(sample.references) + 1), branches)

    def drill(self, sample: Sample, question: Question, rng: Generator) -> Row:
        """A short row without image and instructions, a branch for every option: what leads to it, and only its first letter counts."""
        text = self._chat(sample, question)
        prompt = self.encode(f"<|im_start|>user{text.rpartition('<|vision_end|>')[2]}")
        branches = []
        seen = f"{completions.evidence(sample, '', None, rng)} " if rng.random() < 0.4 else ""
        for option, letter in zip(question.options, question.letters, strict=True):
            follows = completions.FOLLOWS[int(rng.integers(len(completions.FOLLOWS)))].format(
                completions.quoted(option), letter
            )
            said = self.encode(f"<think>{seen}{follows}")
            first = next(i for i, weight in enumerate(self.weights(said)) if weight == LETTER_WEIGHT)
            branches.append(Branch(prompt[-1:], said[: first + 1], [0.0] * first + [1.0]))
        return Row(prompt[:-1], (), branches)

    def recital(self, sample: Sample, questions: Sequence[Question], rng: Generator) -> Row:
        """A row without image, about what knowledge alone tells; what only the image would tell does not count."""
        head, _, _ = self._chat(sample, questions[0]).rpartition("<|vision_start|>")
        branches = []
        for question in questions:
            tail = self._chat(sample, question).rpartition("<|vision_end|>")[2]
            text = completions.reasoning(sample, question, "", None, rng)
            said = [*self.encode(answers.write(text, question.answer or "")), self.ids.end]
            stops = [i for i, token in enumerate(said) if token == self.ids.stop][:2]
            seen = range(stops[0] + 1, stops[1]) if len(stops) == 2 else range(0)
            weights = [0.0 if i in seen else weight for i, weight in enumerate(self.weights(said))]
            branches.append(Branch(self.encode(tail), said, weights))
        return Row(self.encode(head), (), branches)

    gold = staticmethod(completions.gold)

    def weights(self, completion: Sequence[int]) -> list[float]:
        """The loss weight of each token: by what it decides. Evidence is the second sentence."""
        following = [*completion[1:], -1]
        stops = [i for i, token in enumerate(completion) if token == self.ids.stop][:2]
        evidence = range(stops[0] + 1, stops[1]) if len(stops) == 2 else range(0)
        return [
            LETTER_WEIGHT if token in self.ids.letters and after in self.ids.after_letter
            else DIGIT_WEIGHT if token in self.ids.digits
            else EVIDENCE_WEIGHT if i in evidence else 1.0
            for i, (token, after) in enumerate(zip(completion, following, strict=True))
        ]  # fmt: skip

    def option_numbers(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B, S) for (B, S) token ids: which option a token of a prompt's options belongs to, 0 = A, and -1 elsewhere."""
        numbers = np.full(ids.shape, -1, dtype=np.int64)
        for row, marks in zip(ids, numbers, strict=True):
            now = -1
            for i in range(1, len(row) - 1):
                if row[i - 1] == self.ids.line or row[i] in (self.ids.end, self.ids.line):
                    now = (
                        self.option_of.get(int(row[i]), -1)
                        if row[i - 1] == self.ids.line and row[i + 1] == self.ids.stop
                        else -1
                    )
                marks[i] = now
        return numbers

    def quoted_numbers(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B, S) for (B, S) token ids: which option the tokens quote that reasoning ends on, 0 = A, and -1 elsewhere."""
        numbers = np.full(ids.shape, -1, dtype=np.int64)
        told, mark = self.encode(", so the answer is"), self.encode("This means:")[-1]
        n = len(told)
        for row, marks in zip(ids, numbers, strict=True):
            for i in np.nonzero(row[: len(row) - n] == told[0])[0]:
                if row[i : i + n].tolist() != told or int(row[i + n]) not in self.told_option:
                    continue
                start = int(i) - 1
                while start > 0 and row[start] != mark:
                    start -= 1
                marks[start + 1 : i] = self.told_option[int(row[i + n])]
        return numbers

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _branch(self, tail: str, gold: str | None) -> Branch:
        prompt = self._remember(tail)
        if gold is None:
            return Branch(prompt, [])
        completion = [*self.encode(gold), self.ids.end]
        return Branch(prompt, completion, self.weights(completion))

    def _chat(self, sample: Sample, question: Question) -> str:
        prompt = prompts.build(sample, question)
        text: str = self.processor.apply_chat_template(
            prompt.messages, tokenize=False, add_generation_prompt=True
        )
        return text

    def _remember(self, text: str) -> list[int]:
        """`encode`, remembered: prefixes and questions come again and again."""
        if text not in self._memory:
            if len(self._memory) > 20_000:
                self._memory.clear()
            self._memory[text] = self.encode(text)
        return self._memory[text]


def made_up(rng: Generator, words: Sequence[str]) -> Question:
    """A question about nothing whose options are random words, so that finding a letter does not hang on known texts."""
    count = int(rng.integers(2, 5))
    options: list[str] = []
    while len(options) < count:
        option = " ".join(words[int(i)] for i in rng.integers(len(words), size=int(rng.integers(1, 3))))
        options += (
            [f"{option}{'.' if rng.random() < 0.5 else ''}"]
            if option not in [o.rstrip(".") for o in options]
            else []
        )
    return Question(
        id="drill",
        kind="object details",
        text="Which of these fits?",
        options=tuple(options),
        answer=LETTERS[0],
    )


def grid_of(size_wh: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of image tokens for an image of the model's frame."""
    return size_wh[1] // CELL, size_wh[0] // CELL


def choose(sample: Sample, count: int, rng: Generator) -> list[Question]:
    """`count` questions for a row: the two of `inspect` more often than any other."""
    verdict, grounding = gold_inspection_questions(sample)
    pool = [verdict, grounding, *(q for q in sample.questions if q.answer is not None or q.boxes is not None)]
    chances = np.array([1.6, 2.2, *([3.2 / max(1, len(pool) - 2)] * (len(pool) - 2))])
    picked = rng.choice(len(pool), size=min(count, len(pool)), replace=False, p=chances / chances.sum())
    return [pool[int(i)] if i < 2 else shuffled(pool[int(i)], rng) for i in picked]


def shuffled(question: Question, rng: Generator) -> Question:
    """The same question with its options in another order."""
    if question.answer is None:
        return question
    gold = question.options[LETTERS.index(question.answer)]
    options = [question.options[int(i)] for i in rng.permutation(len(question.options))]
    return question.model_copy(update={"options": tuple(options), "answer": LETTERS[options.index(gold)]})


def corpus(pool: Pool, seed: int) -> Iterator[str]:
    """Prompts and completions as a tokenizer should know them; the instructions count once."""
    rng = np.random.default_rng([seed, 5])
    yield from 3 * [f"a {' '.join(invented.WORDS.split())}"]
    for i, sample in enumerate(pool.samples(3000)):
        for question in (*gold_inspection_questions(sample), *sample.questions):
            if i == 0:
                yield str(prompts.build(sample, question).messages[0]["content"])
            options = (
                f"{letter}. {option}"
                for letter, option in zip(question.letters, question.options, strict=True)
            )
            yield "\n".join((f"Knowledge: {sample.knowledge}", question.text, *options))
            place = boxes.place(sample.boxes[0], (224, 224)) if sample.boxes else None
            yield completions.reasoning(
                sample, question, sample.boxes[0].label if sample.boxes else "", place, rng
            )
            found = [Box(x1=1, y1=2, x2=30, y2=40, label=sample.defect or "")]
            yield answers.write("", found if question.answer is None else question.answer)
