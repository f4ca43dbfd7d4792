"""What the policy in training can do on samples it never learns from: asked greedily, now and then.

The engine that inspects runs the trainer's own model: there is no second copy of the weights, no random
number is drawn, and training goes on as if nothing had happened. In a run of several processes each asks the
same, so that sharded weights can be gathered, and the main one writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback

from anomalyr1 import prompts
from anomalyr1.engines.engine import Sampling
from anomalyr1.evaluation.statistics import interval
from anomalyr1.evidence import words
from anomalyr1.images.door import LoadedImage, open_image
from anomalyr1.images.frames import Frame
from anomalyr1.prompts import DEFECT_LETTER, gold_inspection_questions
from anomalyr1.shared_prefix.rollouts import whole_weights
from anomalyr1.training import scoring
from anomalyr1.training.run_log import RunLog
from anomalyr1.types import Answer, InputError, Question, Sample

if TYPE_CHECKING:
    from anomalyr1.policy.load import Policy

BATCH = 8
"""Samples whose images are open at a time."""
DRAWS, LEVEL = 1000, 0.95
"""How often the bootstrap draws the samples anew, and the level of its intervals."""
BOUNDED = ("balanced accuracy", "AUROC", "other options", "box mIoU", "strict", "reasoning agrees")
"""Figures that get an interval."""
EVALUATIONS = 10
"""Evaluations of a run whose recipe does not say `eval_steps`."""


@dataclass(frozen=True)
class HeldOutAnswer:
    """One answer about a held-out sample."""

    sample: Sample
    """The sample that was asked about."""
    question: Question
    """The question with its gold answer."""
    answer: Answer
    """The answer that the policy gave."""
    score: float | None
    """Probability of a defect; None = the verdict named no option, or another question was asked."""


def require_both_kinds(samples: Sequence[Sample]) -> list[Sample]:
    """The samples of known truth. Raises `InputError` where good or defective ones are absent."""
    labelled = [sample for sample in samples if sample.anomalous is not None]
    defective = sum(bool(sample.anomalous) for sample in labelled)
    if not 0 < defective < len(labelled):
        raise InputError(
            f"held_out has {len(labelled)} samples of known truth, {defective} of them defective; balanced "
            "accuracy needs good and defective ones"
        )
    return labelled


def questions_about(sample: Sample, number: int, all_questions: bool) -> list[Question]:
    """What is asked about the sample in place `number`: verdict, boxes where they are known, and others.

    Of the others one, in turn, so that all kinds are heard; with `all_questions` on all.
    """
    verdict, grounding = gold_inspection_questions(sample)
    extras = [
        question
        for question in sample.questions
        if question.answer is not None and question.kind != "anomaly detection"
    ]
    if extras and not all_questions:
        extras = [extras[number % len(extras)]]
    return [verdict, *([grounding] if sample.boxes is not None else []), *extras]


class HeldOut:
    """Held-out samples, each asked for its verdict, its boxes where known, and one other question."""

    def __init__(
        self,
        samples: Sequence[Sample],
        policy: Policy,
        style: str = prompts.DEFAULT_STYLE,
        text: str | None = None,
        all_questions: bool = False,
    ) -> None:
        """Samples of unknown truth are left out; with `all_questions` on all other questions are asked.

        Raises `InputError` where good or defective ones are absent.
        """
        labelled = require_both_kinds(samples)
        self._policy, self._style, self._text = policy, style, text
        self._samples = [
            (sample, questions_about(sample, number, all_questions)) for number, sample in enumerate(labelled)
        ]

    def ask(self, model: Any, max_new_tokens: int = 256, temperature: float = 0.0) -> list[HeldOutAnswer]:
        """What `model` answers, in the order of the samples.

        It is the policy's own or that of a trainer, without wrappers. At temperature 0 greedily, else drawn;
        the same every time.
        """
        from anomalyr1.engines.local import LocalEngine

        engine = LocalEngine(replace(self._policy, model=model))
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
        answers = []
        for start in range(0, len(self._samples), BATCH):
            pairs = [
                (sample, question)
                for sample, questions in self._samples[start : start + BATCH]
                for question in questions
            ]
            paths = [path for sample, _ in pairs for path in (sample.image, *sample.references)]
            images = {path: open_image(path) for path in dict.fromkeys(paths)}
            batch = [
                prompts.build(sample, question, self._style, self._text, self._write(sample, images))
                for sample, question in pairs
            ]
            completions = engine.complete(batch, images, sampling)
            for (sample, question), completion in zip(pairs, completions, strict=True):
                scores = completion.option_scores if question.kind == "anomaly detection" else None
                score = scores[DEFECT_LETTER] if scores else None
                answers.append(HeldOutAnswer(sample, question, completion.answer, score))
        return answers

    def _write(self, sample: Sample, images: Mapping[Path, LoadedImage]) -> str:
        """What the prompt says of the sample's evidence; empty without any."""
        if sample.evidence is None:
            return ""
        size_wh = images[sample.image].size_wh
        return words.write(sample.evidence, Frame.of(size_wh, self._policy.family, self._policy.max_pixels))


def measure(answers: Sequence[HeldOutAnswer]) -> dict[str, float]:
    """The figures of `scoring.figures`, and the AUROC of the anomaly score.

    A verdict without a score counts as 0.5, and how many there are is a figure, too. The AUROC is absent
    where all samples are good, or all defective.
    """
    questions = [(answer.sample, answer.question) for answer in answers]
    figures: dict[str, float] = scoring.figures(questions, [answer.answer for answer in answers])
    truths, scores = _verdicts(answers)
    area = _auroc(truths, scores)
    if area is not None:
        figures["AUROC"] = area
    return figures | {"without score": float(np.mean(np.isnan(scores)))}


def intervals(answers: Sequence[HeldOutAnswer], seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the main figures, by a bootstrap over samples.

    Where one has no width (all right, all wrong) the bound of `evaluation.statistics.interval` for so many
    samples of the rarer kind takes its place. Source: Efron and Tibshirani, 1993, chapter 13.
    """
    # 1. What the answers about each sample count as.
    by_sample: dict[str, list[HeldOutAnswer]] = {}
    for answer in answers:
        by_sample.setdefault(answer.sample.id, []).append(answer)
    hits = [
        scoring.hits(
            [(answer.sample, answer.question) for answer in block], [answer.answer for answer in block]
        )
        for block in by_sample.values()
    ]
    # 2. Samples drawn with replacement, the same for every figure.  (DRAWS, samples)
    draws = np.random.default_rng(seed).integers(len(hits), size=(DRAWS, len(hits)))
    # 3. Each figure of each draw.  (DRAWS,)
    means = {}
    for name in sorted(set().union(*hits)):
        sums = np.array([sum(block.get(name, ())) for block in hits])  # (samples,)
        counts = np.array([len(block.get(name, ())) for block in hits])
        with np.errstate(invalid="ignore"):  # a draw may hold nothing of this kind
            means[name] = sums[draws].sum(1) / counts[draws].sum(1)
    figures = scoring.summary(means)
    truths, scores = _verdicts(answers)
    areas = [_auroc(truths[draw], scores[draw]) for draw in draws]
    figures["AUROC"] = np.array([np.nan if area is None else area for area in areas])
    # 4. Percentiles over the draws in which the figure has a value.
    fewest = int(min(truths.sum(), (~truths).sum()))
    tails = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    bounds = {}
    for name in BOUNDED:
        if name in figures and not np.isnan(figures[name]).all():
            low, high = np.nanpercentile(figures[name], tails)
            if high - low < 1e-9 and len(draws) > 1:
                exact = interval(float(low), figures[name], max(1, fewest))
                low, high = exact.low, exact.high
            bounds[name] = (float(low), float(high))
    return bounds


def _verdicts(answers: Sequence[HeldOutAnswer]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Of each sample whether it is defective (samples,), and its score (samples,), NaN where it has none."""
    verdicts = [answer for answer in answers if answer.question.kind == "anomaly detection"]
    scores = [np.nan if verdict.score is None else verdict.score for verdict in verdicts]
    truths = [bool(verdict.sample.anomalous) for verdict in verdicts]
    return np.array(truths), np.array(scores, dtype=np.float64)


def _auroc(truths: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    """The area under the ROC curve, both arguments (samples,); None where there is only one kind.

    A missing score says nothing either way. By scikit-learn, with which runs of 0.10 agree to the bit:
    `evaluation.curves.auroc` adds the same terms in another order.
    """
    from sklearn.metrics import roc_auc_score

    if truths.all() or not truths.any():
        return None
    return float(roc_auc_score(truths, np.nan_to_num(scores, nan=0.5)))


class Examiner(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Asks before training, every `eval_steps` steps and at the end, which gets intervals; see `attach`."""

    def __init__(self, held_out: HeldOut, trainer: Any, log: RunLog, limit: int, seed: int) -> None:
        self._held_out, self._trainer, self._log = held_out, trainer, log
        self._limit, self._seed = limit, seed
        self._newest: tuple[int, list[HeldOutAnswer]] = (-1, [])
        """The step of the newest evaluation, and its answers."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """Where it starts from; a resumed run has that already."""
        if state.global_step == 0:
            self._evaluate(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """At every `eval_steps`-th step."""
        step, steps = state.global_step, state.max_steps
        if step % _interval(args.eval_steps, steps) == 0 or step == steps:
            self._evaluate(step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """Once more, with intervals; a run resumed behind its last step has the line without them already."""
        step, answers = self._newest
        if step != state.global_step:
            answers = self._ask()
        figures = {**measure(answers), "intervals": intervals(answers, self._seed)}
        self._log.evaluation(state.global_step, figures, final=True)

    def _evaluate(self, step: int) -> None:
        answers = self._ask()
        self._newest = step, answers
        self._log.evaluation(step, measure(answers))

    def _ask(self) -> list[HeldOutAnswer]:
        with lent(self._trainer) as model:
            return self._held_out.ask(model, self._limit)


def _interval(eval_steps: float | None, max_steps: int) -> int:
    """Steps between two evaluations; below 1 `eval_steps` is a share of the run, as transformers takes it."""
    if not eval_steps:
        return max(1, max_steps // EVALUATIONS)
    return math.ceil(max_steps * eval_steps) if eval_steps < 1 else int(eval_steps)


def attach(trainer: Any, held_out: HeldOut, log: RunLog, limit: int, seed: int = 0) -> None:
    """Let `held_out` be asked while `trainer` trains, at most `limit` tokens long.

    Figures go to `log`, and to TRL's trackers. `seed` is that of the bootstrap.
    """
    trainer.add_callback(Examiner(held_out, trainer, log, limit, seed))


@contextmanager
def lent(trainer: Any) -> Iterator[Any]:
    """The trainer's model without wrappers, whole, and in evaluation mode, which each module leaves again."""
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
