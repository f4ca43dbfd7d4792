"""Small runs of `anomalyr1 train`: a tiny model, a few drawn parts."""

from __future__ import annotations

import json

from anomalyr1.rewards import load_reward
from anomalyr1.training.dataset import gather
from anomalyr1.training.recipes import Recipe
from anomalyr1.training.resolved import Resolved, prompt_style
from support import tiny

DATA = "drawn:dev?n=3&seed=0"
TIMES = ("step_time", "epoch_time")


def reward(answer, question):
    """Depends on every character, so that groups of a model that writes noise differ."""
    return sum(map(ord, answer.raw)) % 8 / 8


def recipe(section="grpo", family="qwen2_5_vl", **changes):
    settings = {
        "max_steps": 4,
        "learning_rate": 1e-3,
        "save_steps": 1,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
    }
    own = {
        "grpo": {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 8},
        "sft": {"per_device_train_batch_size": 2},
    }
    base = {
        "model": str(tiny.folder_of(family)),
        "max_pixels": 12_544 if family == "qwen2_5_vl" else 262_144,
        "prompt": "mmad",
        "data": (DATA,),
        section: {**settings, **own[section], **changes.pop("settings", {})},
    }
    if section == "grpo":
        base["rewards"] = {"support.training_runs:reward": 1.0}
    return Recipe(**{**base, **changes})


def gathered(samples, recipe, rewards=None):
    """What a recipe learns from `samples`, by its own or other rewards; no model is looked at."""
    if rewards is None:
        rewards = {name: load_reward(name) for name in recipe.rewards}
    return gather(samples, Resolved(recipe, {}, rewards, prompt_style(recipe), None))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_time(values):
    return {name: value for name, value in values.items() if "time" not in name and "per_second" not in name}


def told(run):
    """What two runs of the same recipe log and end with, to the bit."""
    return [without_time(one) for one in lines(run / "metrics.jsonl")], (
        run / "final" / "model.safetensors"
    ).read_bytes()


def written(run):
    """The same with all groups of GRPO."""
    return *told(run), [
        {name: value for name, value in one.items() if name != "image"} for one in lines(run / "groups.jsonl")
    ]
