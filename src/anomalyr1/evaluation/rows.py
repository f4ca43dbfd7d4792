"""Samples and inspections -> one row a question: what was asked, what is right, and what each of three readers takes as the answer.

The readers: *strict* takes only what is written in the form that the prompt asked for; *lenient* what a
careful reader accepts; *official* is MMAD's own parser, misreadings included. A question that got no reply
(the image failed) is a row too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from anomalyr1 import answers
from anomalyr1.inspection import verdicts
from anomalyr1.types import InputError, Inspection, Kind, Question, Reply, Sample

Reading = Literal["strict", "lenient", "official"]
READINGS: tuple[Reading, ...] = get_args(Reading)

BARE_STYLE = "mmad"
"""The prompt style that asks for the letter alone, without tags."""


class Row(NamedTuple):
    """One question with options about one sample, and how its reply is read."""

    sample_id: str
    question_id: str
    kind: Kind
    dataset: str
    category: str
    gold: str | None
    """None = unknown."""
    strict: str | None
    lenient: str | None
    official: str | None
    """The letter that each reader takes; None = it reads none."""
    status: Literal["strict", "lenient", "unparseable", "no reply"]
    conclusion: str | None
    """The letter on which the reasoning ends; None = it names none."""
    anomalous: bool | None
    logical: bool

    def right(self, reading: Reading) -> bool:
        """Whether a reader takes the gold letter."""
        return self.gold is not None and getattr(self, reading) == self.gold


def rows(pairs: Sequence[tuple[Sample, Inspection]], style: str = "ours") -> list[Row]:
    """A row for each question with options, in the order of the samples; `style` is the fingerprint's, by which "strict" is judged.

    Raises `InputError` for a reply to a question that the sample does not have.
    """
    bare = style.partition("@")[0] == BARE_STYLE
    return [row for sample, inspection in pairs for row in _of_sample(sample, inspection, bare)]


def _of_sample(sample: Sample, inspection: Inspection, bare: bool) -> Iterator[Row]:
    replies = {reply.question_id: reply for reply in inspection.replies}
    known = {question.id for question in sample.questions}
    strange = [name for name in replies if name not in known and not _of_inspect(name)]
    if strange:
        raise InputError(
            f"sample {sample.id!r} was asked {strange[0]!r}, which the data does not ask; load the data with the options it was asked with"
        )
    for question in sample.questions:
        if question.options:
            yield _row(sample, question, replies.get(question.id), bare)


def _of_inspect(question_id: str) -> bool:
    """Whether `inspect` asks that question of every image."""
    return question_id.endswith(("#verdict", "#grounding"))


def _row(sample: Sample, question: Question, reply: Reply | None, bare: bool) -> Row:
    anomalous = sample.anomalous
    if anomalous is None and question.kind == "anomaly detection" and question.answer is not None:
        anomalous = question.answer == verdicts.defect_letter(question)
    about = (sample.id, question.id, question.kind, sample.dataset, sample.category, question.answer)
    if reply is None:
        return Row(*about, None, None, None, "no reply", None, anomalous, sample.logical)
    answer, completion = reply.answer, reply.completion
    status = answer.status
    if bare and status == "lenient" and answer.counts == {"no_tags": 1}:
        # The prompt asked for the letter alone: what would be strict between the tags is strict without them.
        status = answers.parse(f"<think></think><answer>{completion}</answer>", question.options).status
    return Row(
        *about,
        answer.choice if status == "strict" else None,
        answer.choice,
        answers.as_mmad(completion, question.options),
        status,
        answer.conclusion,
        anomalous,
        sample.logical,
    )
