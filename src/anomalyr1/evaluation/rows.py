"""Samples and inspections -> one row a question: what is right, and what three readers take as the answer.

The readers: *strict* takes only what is written in the form that the prompt asked for; *lenient* what a
careful reader accepts; *official* is MMAD's own parser, misreadings included. A question that got no reply
(the image failed) is a row too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from anomalyr1 import answers, prompts
from anomalyr1.inspection import verdicts
from anomalyr1.types import InputError, Inspection, Kind, Question, Reply, Sample

Reading = Literal["strict", "lenient", "official"]
READINGS: tuple[Reading, ...] = get_args(Reading)


class AnsweredQuestion(NamedTuple):
    """One question with options about one sample, and how its reply is read."""

    sample_id: str
    question_id: str
    kind: Kind
    dataset: str
    class_name: str
    gold: str | None
    """The right letter; None = unknown."""
    strict: str | None
    lenient: str | None
    official: str | None
    """The letter that each reader takes; None = it reads none."""
    status: Literal["strict", "lenient", "unparseable", "no reply"]
    conclusion: str | None
    """The letter on which the reasoning ends; None = it names none."""
    anomalous: bool | None
    """Whether the image is anomalous; None = unknown."""
    logical: bool
    """Whether its anomaly is logical."""

    def right(self, reading: Reading) -> bool:
        """Whether a reader takes the gold letter."""
        return self.gold is not None and getattr(self, reading) == self.gold


def of_pairs(pairs: Sequence[tuple[Sample, Inspection]], style: str = "ours") -> list[AnsweredQuestion]:
    """A row for each question with options, in the order of the samples.

    `style` is the fingerprint's, by which "strict" is judged. Raises `InputError` for a reply to a question
    that the sample does not have.
    """
    untagged = _asks_for_no_tags(style)
    return [row for sample, inspection in pairs for row in _of_sample(sample, inspection, untagged)]


def _asks_for_no_tags(style: str) -> bool:
    """Whether the prompt of a fingerprint asks for the letter alone, without think and answer tags."""
    name = style.partition("@")[0]
    return name in prompts.STYLES and not prompts.STYLES[name].opening


def _of_sample(sample: Sample, inspection: Inspection, untagged: bool) -> Iterator[AnsweredQuestion]:
    replies = {reply.question_id: reply for reply in inspection.replies}
    asked_by_data = {question.id for question in sample.questions}
    for question_id in replies:
        if question_id not in asked_by_data and not _of_inspect(question_id):
            raise InputError(
                f"sample {sample.id!r} was asked {question_id!r}, which the data does not ask; "
                "load the data with the options it was asked with"
            )
    for question in sample.questions:
        if question.options:
            yield _row(sample, question, replies.get(question.id), untagged)


def _of_inspect(question_id: str) -> bool:
    """Whether `inspect` asks that question of every image."""
    return question_id.endswith(("#verdict", "#grounding"))


def _row(sample: Sample, question: Question, reply: Reply | None, untagged: bool) -> AnsweredQuestion:
    anomalous = sample.anomalous
    if anomalous is None and question.kind == "anomaly detection" and question.answer is not None:
        anomalous = question.answer == verdicts.defect_letter(question)
    row = AnsweredQuestion(
        sample_id=sample.id,
        question_id=question.id,
        kind=question.kind,
        dataset=sample.dataset,
        class_name=sample.class_name,
        gold=question.answer,
        strict=None,
        lenient=None,
        official=None,
        status="no reply",
        conclusion=None,
        anomalous=anomalous,
        logical=sample.logical,
    )
    if reply is None:
        return row
    answer = reply.answer
    strict = answer.status == "strict" or (untagged and _is_bare_answer(reply, question))
    return row._replace(
        strict=answer.choice if strict else None,
        lenient=answer.choice,
        official=answers.as_mmad(reply.completion, question.options),
        status="strict" if strict else answer.status,
        conclusion=answer.conclusion,
    )


def _is_bare_answer(reply: Reply, question: Question) -> bool:
    """Whether a completion without tags would be strict between them."""
    if reply.answer.status != "lenient" or reply.answer.counts != {"no_tags": 1}:
        return False
    tagged = f"<think></think><answer>{reply.completion}</answer>"
    return answers.parse(tagged, question.options).status == "strict"
