"""What is compared: the arms, how each is trained, and the two sizes of the experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field

from anomalyr1.rewards import ROAM, roam_row
from anomalyr1.training.recipes import Recipe, check_keys, load_recipe
from anomalyr1.types import Answer, Question, Record

Stage = Literal["sft", "grpo"]
PRIMARY = ("accuracy", "AUROC")
"""The figures that claims are about unless they say otherwise."""
SHOTS, MOST_SHOTS = 3, 5
STEPS_3B = 1350
"""Of every stage at 3B: what the paper's 10 epochs come to for GRPO on 38 classes, 4 GPUs and groups of 8."""
ANSWER = {"accuracy": 1.0}
PAPER = {**ANSWER, "roam": 1.0}
OURS = {**PAPER, "roam_boxes": 1.0, "localisation": 1.0}


class Arm(NamedTuple):
    """One way to train."""

    name: str
    title: str
    rewards: dict[str, float] | None
    """Of GRPO; None = SFT."""
    after_sft: bool = False
    """Whether it goes on from the same seed's SFT."""
    changes: tuple[str, ...] = ()
    """Overrides of the recipe for GRPO."""
    shots: int = SHOTS
    """Good and anomalous images of each class that it learns from."""


_BOXES = ("questions=all",)
SFT = Arm("sft", "few-shot SFT", None)
ARMS = (
    SFT,
    Arm("answer", "GRPO, answer", ANSWER),
    Arm("roam", "GRPO, answer + ROAM", PAPER),
    Arm("ours", "GRPO, answer + ROAM + localisation (ours)", OURS, changes=_BOXES),
    Arm("sft-sft", "SFT, then SFT again", None, after_sft=True),
    Arm("sft-answer", "SFT, then GRPO, answer", ANSWER, after_sft=True),
    Arm("sft-roam", "SFT, then GRPO, answer + ROAM", PAPER, after_sft=True),
    Arm("sft-ours", "SFT, then GRPO, answer + ROAM + localisation", OURS, after_sft=True, changes=_BOXES),
    Arm("silence", "control: answer + ROAM that only minds silence", {**ANSWER, "roam_unchecked": 1.0}),
    Arm("unlinked", "control: answer + ROAM of shuffled conclusions", {**ANSWER, "roam/unlinked": 1.0}),
    Arm("shuffled", "control: shuffled rewards", {"accuracy/shuffled": 1.0, "roam/shuffled": 1.0}),
)
"""What is run unless told otherwise."""
_HERE = __name__
ABLATIONS = (
    Arm("roam-1-shot", "answer + ROAM, 1 good and 1 anomalous image a class", PAPER, shots=1),
    Arm("roam-5-shot", "answer + ROAM, 5 good and 5 anomalous images a class", PAPER, shots=MOST_SHOTS),
    Arm("answer-1-shot", "answer, 1 good and 1 anomalous image a class", ANSWER, shots=1),
    Arm("answer-5-shot", "answer, 5 good and 5 anomalous images a class", ANSWER, shots=MOST_SHOTS),
    Arm(
        "roam-silence-free",
        "ROAM, silence costs nothing (0.8 is 1)",
        {**ANSWER, f"{_HERE}:silence_free": 1.0},
    ),
    Arm(
        "roam-wrong-nothing",
        "ROAM, a wrong answer earns nothing (0.1 and 0.05 are 0)",
        {**ANSWER, f"{_HERE}:wrong_nothing": 1.0},
    ),
    Arm("roam-mild", "ROAM, a contradiction costs half (0 is 0.5)", {**ANSWER, f"{_HERE}:mild": 1.0}),
    Arm("roam-released", "ROAM, letters read as the released code does", {**ANSWER, "roam_released": 1.0}),
    Arm("roam-group-4", "answer + ROAM, groups of 4", PAPER, changes=("grpo.num_generations=4",)),
    Arm("roam-group-16", "answer + ROAM, groups of 16", PAPER, changes=("grpo.num_generations=16",)),
    Arm("roam-kl-0", "answer + ROAM, no KL term", PAPER, changes=("grpo.beta=0",)),
    Arm("roam-kl-0.2", "answer + ROAM, KL weight 0.2", PAPER, changes=("grpo.beta=0.2",)),
    Arm(
        "roam-resample",
        "answer + ROAM, groups of one reward sampled again",
        PAPER,
        changes=("zero_variance=resample",),
    ),
)
"""What `--full` adds."""


class Claim(NamedTuple):
    """Something that the paper says or implies: one arm is better than another."""

    text: str
    better: str
    than: str
    """An arm, or "start"."""
    figures: tuple[str, ...] = PRIMARY
    """In which of them."""
    either_way: bool = False
    """Whether a loss confirms it, too."""


_CONSISTENT = ("agrees, sampled",)
CLAIMS = (
    Claim("GRPO with ROAM improves on its start", "roam", "start"),
    Claim("GRPO with the answer reward improves on its start", "answer", "start"),
    Claim("few-shot SFT improves on its start", "sft", "start"),
    Claim("ROAM beats the answer reward", "roam", "answer"),
    Claim("ROAM beats few-shot SFT", "roam", "sft"),
    Claim("after SFT, ROAM beats the answer reward", "sft-roam", "sft-answer"),
    Claim("after SFT, ROAM beats more SFT", "sft-roam", "sft-sft"),
    Claim("rewards for boxes add to ROAM", "ours", "roam", (*PRIMARY, "box mIoU")),
    Claim("what ROAM gains is more than a penalty for silence", "roam", "silence"),
    Claim("what ROAM gains needs the right conclusions", "roam", "unlinked"),
    Claim("shuffled rewards change something (they should not)", "shuffled", "start", either_way=True),
    Claim(
        "ROAM's reasoning agrees with its right answers more often than its start's",
        "roam",
        "start",
        _CONSISTENT,
    ),
    Claim(
        "ROAM's reasoning agrees with its right answers more often than the answer reward's",
        "roam",
        "answer",
        _CONSISTENT,
    ),
    Claim(
        "the answer reward alone lets reasoning agree with right answers less often than its start's",
        "start",
        "answer",
        _CONSISTENT,
    ),
    Claim(
        "the answer reward alone leaves reasoning silent more often than ROAM",
        "answer",
        "roam",
        ("silent, sampled",),
    ),
    *(
        Claim(f"{arm.title}: better than ROAM as it is", arm.name, "roam", (*PRIMARY, *_CONSISTENT))
        for arm in ABLATIONS
    ),
)


class Scale(Record):
    """The size of the experiment: which models, data and recipe."""

    base: str
    """The shipped recipe that the arms of GRPO change."""
    starts: dict[str, str]
    """Name -> model."""
    data: str
    """The spec whose few-shot splits (`data.fewshot`) are learned from and asked about."""
    tests: dict[str, str] = Field(default_factory=dict)
    """Name -> spec of what else every arm is asked about."""
    changes: tuple[str, ...] = ()
    """Overrides of the recipe."""
    sft: dict[str, Any]
    """The section for SFT."""


SHORT = (
    "held_out=[]",
    "turned=false",
    "grpo.learning_rate=5e-5",
    "grpo.per_device_train_batch_size=32",
    "grpo.report_to=none",
    "grpo.save_strategy='no'",
)
"""What makes a run of `nano-grpo` short and leaves the asking to others."""
SCALES = {
    "nano": Scale(
        base="nano-grpo",
        starts={"nano-raw": "nano-raw"},
        data="drawn:dev?n=180&seed=11&references=0",
        tests={
            "final classes": "drawn:final?n=96&seed=13&references=0",
            "seen before": "drawn:seen?n=48&seed=14&references=0",
        },
        changes=(*SHORT, "grpo.max_steps=45"),
        sft={
            "per_device_train_batch_size": 3,
            "max_steps": 45,
            "learning_rate": 3e-5,
            "lr_scheduler_type": "constant_with_warmup",
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": "none",
            "save_strategy": "no",
        },
    ),
    "3b": Scale(
        base="paper-3b",
        starts={"qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct"},
        data="",
        changes=(f"grpo.max_steps={STEPS_3B}",),
        sft={
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_steps": STEPS_3B,
            "learning_rate": 1e-5,
            "bf16": True,
            "gradient_checkpointing": True,
        },
    ),
}


def recipe_of(scale: Scale, arm: Arm, stage: Stage, model: str, data: str, seed: int) -> Recipe:
    """What one stage of an arm runs."""
    changes = [*scale.changes, *(arm.changes if stage == "grpo" else ())]
    recipe = load_recipe(scale.base, changes)
    fields: dict[str, Any] = {
        "description": f"{arm.title}, seed {seed}",
        "model": model,
        "data": (data,),
        "seed": seed,
    }
    if stage == "sft":
        fields |= {"grpo": None, "rewards": {}, "sft": scale.sft}
    else:
        fields |= {"rewards": arm.rewards or {}}
    return Recipe.model_validate(recipe.model_dump() | fields)


def choose_arms(names: Sequence[str], full: bool) -> tuple[Arm, ...]:
    """The arms of these names, all when there are none; those that go on from SFT bring it along. Raises
    `InputError` for others.
    """
    arms_by_name = {arm.name: arm for arm in (*ARMS, *ABLATIONS)}
    check_keys(names, arms_by_name, "the experiment")
    arms = [arms_by_name[name] for name in dict.fromkeys(names)] or [*ARMS, *(ABLATIONS if full else ())]
    return tuple(arms if SFT in arms or not any(arm.after_sft for arm in arms) else [SFT, *arms])


def silence_free(answer: Answer, question: Question) -> float | None:
    """ROAM in which silence before a right answer costs nothing. None as for `roam`."""
    return _changed(answer, question, {(True, None): 1.0})


def wrong_nothing(answer: Answer, question: Question) -> float | None:
    """ROAM in which a wrong answer earns nothing, whatever is said. None as for `roam`."""
    return _changed(answer, question, {(False, None): 0.0, (False, True): 0.0})


def mild(answer: Answer, question: Question) -> float | None:
    """ROAM in which a right answer after another conclusion earns half. None as for `roam`."""
    return _changed(answer, question, {(True, False): 0.5})


def _changed(
    answer: Answer, question: Question, values: dict[tuple[bool, bool | None], float]
) -> float | None:
    table = ROAM | {key: ROAM[key]._replace(value=value) for key, value in values.items()}
    row = roam_row(answer, question, table) if question.options else None
    return None if row is None else row.value
