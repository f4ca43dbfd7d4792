"""What the policy in training can do on samples it never learns from: asked greedily, now and then, by the engine that inspects.

The engine runs the trainer's own model: there is no second copy of the weights, no random number is drawn,
and training goes on as if nothing had happened. In a run of several processes each asks the same, so that
sharded weights can be gathered, and the main one writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback

from anomalyr1 import prompts
from anomalyr1.engines.engine import Sampling
from anomalyr1.images import open_image
from anomalyr1.inspection.verdicts import DEFECT
from anomalyr1.prompts import gold_inspection_questions
from anomalyr1.shared_prefix.rollouts import whole_weights
from anomalyr1.training import scoring
from anomalyr1.training.run_log import RunLog
from anomalyr1.types import Answer, InputError, Question, Sample

if TYPE_CHECKING:
    from anomalyr1.policy.load import Policy

BATCH = 8
"""Samples whose images are open at a time."""
DRAWS, LEVEL = 1000, 0.95
"""Of the bootstrap."""
BOUNDED = ("balanced accuracy", "AUROC", "other options", "box mIoU", "strict", "reasoning agrees")
"""Figures that get an interval."""
EVALUATIONS = 10
"""So many in a run whose recipe does not say `eval_steps`."""


@dataclass(frozen=True)
class Told:
    """One answer about a held-out sample."""

    sample: Sample
    question: Question
    answer: Answer
    score: float | None
    """Probability of a defect; None = the verdict named no option, or another question was asked."""


def known(samples: Sequence[Sample]) -> list[Sample]:
    """The samples of known truth. Raises `InputError` where good or defective ones are absent."""
    found = [sample for sample in samples if sample.anomalous is not None]
    if len({sample.anomalous for sample in found}) < 2:
        raise InputError(
            f"held_out has {len(found)} samples of known truth, {sum(bool(one.anomalous) for one in found)} of them defective; "
            "balanced accuracy needs good and defective ones"
        )
    return found


class HeldOut:
    """Held-out samples, each asked for its verdict, its boxes where they are known, and one other question where it has one."""

    def __init__(
        self,
        samples: Sequence[Sample],
        policy: Policy,
        style: str = prompts.DEFAULT_STYLE,
        text: str | None = None,
        every: bool = False,
    ) -> None:
        """Samples of unknown truth are left out; with `every` on all other questions are asked.

        Raises `InputError` where good or defective ones are absent.
        """
        asked = known(samples)
        self.left_out = len(samples) - len(asked)
        self._policy, self._style, self._text = policy, style, text
        self._asked = [
            (sample, questions_about(sample, number, every)) for number, sample in enumerate(asked)
        ]

    def ask(self, model: Any, max_new_tokens: int = 256, temperature: float = 0.0) -> list[Told]:
        """What `model` answers, in the order of the samples; it is the policy's own or that of a trainer, without wrappers.

        At temperature 0 greedily, else drawn; the same every time.
        """
        from anomalyr1.engines.local import LocalEngine

        engine, told = LocalEngine(replace(self._policy, model=model)), []
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
        for start in range(0, len(self._asked), BATCH):
            some = [
                (sample, question)
                for sample, questions in self._asked[start : start + BATCH]
                for question in questions
            ]
            images = {
                path: open_image(path) for sample, _ in some for path in (sample.image, *sample.references)
            }
            built = [prompts.build(sample, question, self._style, self._text) for sample, question in some]
            for (sample, question), one in zip(some, engine.complete(built, images, sampling), strict=True):
                verdict = question.kind == "anomaly detection" and one.option_scores
                score = one.option_scores[DEFECT] if verdict and one.option_scores else None
                told.append(Told(sample, question, one.answer, score))
        return told


def measure(told: Sequence[Told]) -> dict[str, float]:
    """The figures of `scoring.figures`, and the AUROC of the anomaly score; a verdict without one counts as 0.5 and is counted.

    The AUROC is absent where all samples are good, or all defective.
    """
    found: dict[str, float] = scoring.figures(
        [(one.sample, one.question) for one in told], [one.answer for one in told]
    )
    truths, scores = _verdicts(told)
    area = _auroc(truths, scores)
    return {
        **found,
        **({} if area is None else {"AUROC": area}),
        "without score": float(np.mean(np.isnan(scores))),
    }


def intervals(told: Sequence[Told], seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the main figures, by a bootstrap over samples (Efron and Tibshirani, 1993, chapter 13)."""
    blocks: dict[str, list[Told]] = {}
    for one in told:
        blocks.setdefault(one.sample.id, []).append(one)
    counted = [
        scoring.hits([(one.sample, one.question) for one in block], [one.answer for one in block])
        for block in blocks.values()
    ]
    drawn = np.random.default_rng(seed).integers(len(blocks), size=(DRAWS, len(blocks)))
    means = {}
    for name in sorted({name for one in counted for name in one}):
        sums, counts = (np.array([f(one.get(name, ())) for one in counted]) for f in (sum, len))
        with np.errstate(invalid="ignore"):  # nothing of this kind was drawn
            means[name] = sums[drawn].sum(1) / counts[drawn].sum(1)
    found = scoring.summary(means)
    truths, scores = _verdicts(told)
    areas = [_auroc(truths[row], scores[row]) for row in drawn]
    found["AUROC"] = np.array([np.nan if area is None else area for area in areas])
    tails = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    bounded = {
        name: np.nanpercentile(found[name], tails)
        for name in BOUNDED
        if name in found and not np.isnan(found[name]).all()
    }
    return {name: (float(low), float(high)) for name, (low, high) in bounded.items()}


def _verdicts(told: Sequence[Told]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Of each sample whether it is defective, and its score; NaN where it has none."""
    asked = [one for one in told if one.question.kind == "anomaly detection"]
    scores = [np.nan if one.score is None else one.score for one in asked]
    return np.array([bool(one.sample.anomalous) for one in asked]), np.array(scores, dtype=np.float64)


def _auroc(truths: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    """None where there is only one kind; a missing score says nothing either way."""
    from sklearn.metrics import roc_auc_score

    return (
        float(roc_auc_score(truths, np.nan_to_num(scores, nan=0.5)))
        if truths.any() and not truths.all()
        else None
    )


class Examiner(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Asks before the first step, every `eval_steps` steps and at the end, which gets intervals; add it with `attach`."""

    def __init__(self, held_out: HeldOut, trainer: Any, log: RunLog, limit: int) -> None:
        self._held_out, self._trainer, self._log, self._limit = held_out, trainer, log, limit
        self._last: tuple[int, list[Told]] = (-1, [])

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """Where it starts from; a resumed run has that already."""
        if state.global_step == 0:
            self._evaluate(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """At every `eval_steps`-th step."""
        if (
            state.global_step % _every(args.eval_steps, state.max_steps) == 0
            or state.global_step == state.max_steps
        ):
            self._evaluate(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """Once more, with intervals; a run resumed behind its last step has the line without them already."""
        told = self._last[1] if self._last[0] == state.global_step else self._ask()
        self._log.evaluation(
            state.global_step,
            {**measure(told), "intervals": intervals(told, self._log.recipe.seed)},
            final=True,
        )

    def _evaluate(self, step: int) -> None:
        self._last = (step, self._ask())
        self._log.evaluation(step, measure(self._last[1]))

    def _ask(self) -> list[Told]:
        with lent(self._trainer) as model:
            return self._held_out.ask(model, self._limit)


def _every(eval_steps: float | None, max_steps: int) -> int:
    """Steps between two evaluations; below 1 `eval_steps` is a share of the run, as transformers takes it."""
    if not eval_steps:
        return max(1, max_steps // EVALUATIONS)
    return math.ceil(max_steps * eval_steps) if eval_steps < 1 else int(eval_steps)


def attach(trainer: Any, held_out: HeldOut, log: RunLog, limit: int) -> None:
    """Let `held_out` be asked while `trainer` trains, at most `limit` tokens long; figures go to `log`, and to TRL's trackers."""
    trainer.add_callback(Examiner(held_out, trainer, log, limit))


@contextmanager
def lent(trainer: Any) -> Iterator[Any]:
    """The trainer's model without wrappers, whole, and in evaluation mode; each module is put back into the mode it was in."""
    from accelerate.utils import is_peft_model
    from trl.models import unwrap_model_for_generation

    args = trainer.args
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=getattr(args, "ds3_gather_for_generation", True),
            gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
        ) as model,
        whole_weights(trainer.model_wrapped),
    ):
        inner = model.get_base_model() if is_peft_model(model) else model
        in_training = [module for module in inner.modules() if module.training]
        inner.eval()
        try:
            yield inner
        finally:
            for module in in_training:
                module.training = True


def questions_about(sample: Sample, number: int, every: bool) -> list[Question]:
    """What is asked about the sample in place `number`; the other questions take turns, so that all kinds are heard, unless `every` is."""
    verdict, grounding = gold_inspection_questions(sample)
    others = [one for one in sample.questions if one.answer is not None and one.kind != "anomaly detection"]
    some = others if every or not others else others[number % len(others) :][:1]
    return [verdict, *([grounding] if sample.boxes is not None else []), *some]
