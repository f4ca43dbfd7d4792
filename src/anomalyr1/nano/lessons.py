"""From a sample with known truth to rows of tokens: the package's own prompt, gold reasoning and answer.

Each token of a completion has a weight, by what it decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator

from anomalyr1 import answers, boxes, prompts
from anomalyr1.nano.helper_losses import LETTERS_READ
from anomalyr1.nano.invented_names import WORDS
from anomalyr1.nano.packing import CELL, Ints, PrefixRow, QuestionBranch
from anomalyr1.prompts import gold_inspection_questions
from anomalyr1.training import completions
from anomalyr1.types import LETTERS, Box, Question, Sample

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from anomalyr1.nano.pool import Pool

LETTER_WEIGHT = 3.0
"""How much letters that name an option count: few tokens decide whether a text is right."""
EVIDENCE_WEIGHT = 4.0
"""How much the words of the evidence count."""
DIGIT_WEIGHT = 10.0
"""How much digits of boxes count."""


class RowWriter:
    """Writes samples and questions as rows of tokens."""

    def __init__(self, processor: ProcessorMixin) -> None:
        """Keep the processor's tokenizer and chat template."""
        self.processor = processor
        self.tokenizer = processor.tokenizer
        names = ["<|image_pad|>", "<|im_end|>", "</answer>"]
        self.image_id, self.end_id, closing_id = self.tokenizer.convert_tokens_to_ids(names)
        self.line_id, self.stop_id = self.encode("\n")[0], self.encode(".")[0]
        # option letters where a line of the prompt begins, and within a text
        letters = LETTERS[:LETTERS_READ]
        self.option_of = {self.encode(letter)[0]: i for i, letter in enumerate(letters)}
        self.concluded_option = {self.encode(f" {letter}")[0]: i for i, letter in enumerate(letters)}
        spellings = [self.encode(f"{space}{letter}") for letter in letters for space in ("", " ")]
        self.letter_ids = {ids[0] for ids in spellings if len(ids) == 1}
        self.ids_after_letter = {self.stop_id, closing_id}
        self.digit_ids = {self.encode(digit)[0] for digit in "0123456789"}
        # prefixes and questions come again and again
        self._encode_cached = lru_cache(20_000)(self.encode)

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
    ) -> PrefixRow:
        """One prefix, all images on the same grid, with a branch a question.

        `gold` are the completions in the questions' order; None = they are to be written.
        """
        texts = [self._chat(sample, question) for question in questions]
        head, mark, _ = texts[0].rpartition("<|vision_end|>")
        tails = [text.rpartition("<|vision_end|>")[2] for text in texts]
        image_tokens = [self.image_id] * (grid_hw[0] * grid_hw[1])
        prefix: list[int] = []
        for token in self._encode_cached(head) + self._encode_cached(mark):
            prefix += image_tokens if token == self.image_id else [token]
        branches = [self._branch(tail, None if gold is None else gold[i]) for i, tail in enumerate(tails)]
        return PrefixRow(prefix, (grid_hw,) * (len(sample.references) + 1), branches)

    def drill(self, sample: Sample, question: Question, rng: Generator) -> PrefixRow:
        """A short row without image and instructions, with a branch for every option.

        A branch is what leads to the option; only the letter at its end counts.
        """
        text = self._chat(sample, question)
        prompt = self.encode(f"<|im_start|>user{text.rpartition('<|vision_end|>')[2]}")
        evidence = f"{completions.evidence(sample, '', None, rng)} " if rng.random() < 0.4 else ""
        branches = []
        for option, letter in zip(question.options, question.letters, strict=True):
            wording = completions.FOLLOWS[int(rng.integers(len(completions.FOLLOWS)))]
            conclusion = wording.format(completions.quoted(option), letter)
            completion = self.encode(f"<think>{evidence}{conclusion}")
            end = self.weights(completion).index(LETTER_WEIGHT)
            branches.append(QuestionBranch(prompt[-1:], completion[: end + 1], [0.0] * end + [1.0]))
        return PrefixRow(prompt[:-1], (), branches)

    def recital(self, sample: Sample, questions: Sequence[Question], rng: Generator) -> PrefixRow:
        """A row without image about what knowledge alone says; what only images would say does not count."""
        head, _, _ = self._chat(sample, questions[0]).rpartition("<|vision_start|>")
        branches = []
        for question in questions:
            tail = self._chat(sample, question).rpartition("<|vision_end|>")[2]
            text = completions.reasoning(sample, question, "", None, rng)
            completion = [*self.encode(answers.write(text, question.answer or "")), self.end_id]
            weights = self.weights(completion)
            for i in self._evidence(completion):
                weights[i] = 0.0
            branches.append(QuestionBranch(self.encode(tail), completion, weights))
        return PrefixRow(self.encode(head), (), branches)

    def weights(self, completion: Sequence[int]) -> list[float]:
        """The loss weight of each token of a completion, by what it decides."""
        weights = [1.0] * len(completion)
        for i in self._evidence(completion):
            weights[i] = EVIDENCE_WEIGHT
        for i, (token, following) in enumerate(zip(completion, [*completion[1:], -1], strict=True)):
            if token in self.letter_ids and following in self.ids_after_letter:
                weights[i] = LETTER_WEIGHT
            elif token in self.digit_ids:
                weights[i] = DIGIT_WEIGHT
        return weights

    def _evidence(self, completion: Sequence[int]) -> range:
        """Where the evidence stands in a completion: it is the sentence after the one about the object."""
        stops = [i for i, token in enumerate(completion) if token == self.stop_id][:2]
        return range(stops[0] + 1, stops[1]) if len(stops) == 2 else range(0)

    def option_numbers(self, ids: Ints) -> Ints:
        """(B, S) for (B, S) token ids: which option of the prompt a token is part of, 0 = A, -1 elsewhere."""
        line, stop, end = self.line_id, self.stop_id, self.end_id
        numbers = np.full(ids.shape, -1, dtype=np.int64)
        for row, marks in zip(ids, numbers, strict=True):
            option = -1
            for i in range(1, len(row) - 1):
                begins_line = row[i - 1] == line
                if begins_line and row[i + 1] == stop:
                    option = self.option_of.get(int(row[i]), -1)
                elif begins_line or row[i] in (end, line):
                    option = -1
                marks[i] = option
        return numbers

    def quoted_numbers(self, ids: Ints) -> Ints:
        """(B, S) for (B, S) token ids: the option that concluding tokens quote, 0 = A, -1 elsewhere."""
        numbers = np.full(ids.shape, -1, dtype=np.int64)
        phrase, mark = self.encode(", so the answer is"), self.encode("This means:")[-1]
        n = len(phrase)
        for row, marks in zip(ids, numbers, strict=True):
            for i in np.nonzero(row[: len(row) - n] == phrase[0])[0]:
                option = self.concluded_option.get(int(row[i + n]))
                if row[i : i + n].tolist() != phrase or option is None:
                    continue
                start = int(i) - 1
                while start > 0 and row[start] != mark:
                    start -= 1
                marks[start + 1 : i] = option
        return numbers

    def _branch(self, tail: str, gold: str | None) -> QuestionBranch:
        prompt = self._encode_cached(tail)
        if gold is None:
            return QuestionBranch(prompt, [])
        completion = [*self.encode(gold), self.end_id]
        return QuestionBranch(prompt, completion, self.weights(completion))

    def _chat(self, sample: Sample, question: Question) -> str:
        prompt = prompts.build(sample, question)
        text: str = self.processor.apply_chat_template(
            prompt.messages, tokenize=False, add_generation_prompt=True
        )
        return text


def make_up_question(rng: Generator, words: Sequence[str]) -> Question:
    """A question about nothing whose options are random words.

    With such questions, finding a letter does not hang on familiar texts.
    """
    count = int(rng.integers(2, 5))
    options: list[str] = []
    while len(options) < count:
        option = " ".join(words[int(i)] for i in rng.integers(len(words), size=int(rng.integers(1, 3))))
        if option not in [text.rstrip(".") for text in options]:
            options.append(f"{option}." if rng.random() < 0.5 else option)
    return Question(
        id="drill",
        kind="object details",
        text="Which of these fits?",
        options=tuple(options),
        answer=LETTERS[0],
    )


def token_grid(size_wh: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of image tokens for an image of the model's frame."""
    return size_wh[1] // CELL, size_wh[0] // CELL


def choose_questions(sample: Sample, count: int, rng: Generator) -> list[Question]:
    """At most `count` questions for a row: the two of `inspect` more often than those of the sample."""
    answerable = [q for q in sample.questions if q.answer is not None or q.boxes is not None]
    questions = [*gold_inspection_questions(sample), *answerable]
    chances = np.array([1.6, 2.2, *([3.2 / max(1, len(answerable))] * len(answerable))])
    count = min(count, len(questions))
    numbers = rng.choice(len(questions), size=count, replace=False, p=chances / chances.sum())
    return [questions[int(i)] if i < 2 else shuffle_options(questions[int(i)], rng) for i in numbers]


def shuffle_options(question: Question, rng: Generator) -> Question:
    """The same question with its options in another order."""
    if question.answer is None:
        return question
    gold = question.options[LETTERS.index(question.answer)]
    options = [question.options[int(i)] for i in rng.permutation(len(question.options))]
    return question.model_copy(update={"options": tuple(options), "answer": LETTERS[options.index(gold)]})


def tokenizer_corpus(pool: Pool, seed: int) -> Iterator[str]:
    """Prompts and completions as a tokenizer should know them; the instructions count once."""
    rng = np.random.default_rng([seed, 5])
    yield from 3 * [f"a {' '.join(WORDS)}"]
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
            look = sample.boxes[0].label if sample.boxes else ""
            yield completions.reasoning(sample, question, look, place, rng)
            box = Box(x1=1, y1=2, x2=30, y2=40, label=sample.defect or "")
            yield answers.write("", [box] if question.answer is None else question.answer)
