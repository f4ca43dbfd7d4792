"""Run folders as `RunLog` writes them, without a trainer behind."""

from __future__ import annotations

import json
from types import SimpleNamespace

from anomalyr1.training.recipes import Recipe
from anomalyr1.training.run_folder import Group
from anomalyr1.training.run_log import RunLog
from anomalyr1.types import Question, Sample

RECIPE = Recipe(
    data=("drawn",), held_out=("drawn",), rewards={"roam": 1.0, "accuracy": 1.0}, grpo={"num_generations": 4}
)
OPTIONS = ("Crack", "Dent", "Stain")
SAMPLE = Sample(id="s1", image="absent.png", anomalous=True)
QUESTION = Question(id="s1#q", kind="defect classification", text="What is it?", options=OPTIONS, answer="B")
RIGHT = "<think>It is a dent, so the answer is B.</think><answer>B</answer>"
SILENT = "<think>Let me look.</think><answer>B</answer>"
CONTRADICTED = "<think>It is a crack, so the answer is A.</think><answer>B</answer>"
WRONG = "<think>It is a crack, so the answer is A.</think><answer>A</answer>"
UNREADABLE = "well"
COMPLETIONS = (RIGHT, CONTRADICTED, WRONG, UNREADABLE)


def advantages(totals):
    mean = sum(totals) / len(totals)
    spread = (sum((one - mean) ** 2 for one in totals) / max(len(totals) - 1, 1)) ** 0.5
    return [(one - mean) / (spread + 1e-4) for one in totals]


def rewards_of(completions, question=QUESTION):
    """What the recipe's rewards give, as TRL would hand them on."""
    from anomalyr1.answers.completion import parse
    from anomalyr1.rewards import REWARDS

    return {
        name: [REWARDS[name](parse(text, question.options), question) for text in completions]
        for name in RECIPE.rewards
    }


def group(step=1, completions=COMPLETIONS, rewards=None, sample=SAMPLE, question=QUESTION, **changes):
    """A group of the recipe's rewards; advantages are those of their sums."""
    rewards = rewards_of(completions, question) if rewards is None else rewards
    totals = [sum(values[i] or 0.0 for values in rewards.values()) for i in range(len(completions))]
    fields = {
        "step": step,
        "sample_id": sample.id,
        "question": question,
        "image": str(sample.image),
        "prompt_tokens": 290,
        "completions": completions,
        "rewards": rewards,
        "weights": RECIPE.rewards,
    }
    return Group(**{**fields, "advantages": advantages(totals), **changes})


def add_group(log, step, completions=COMPLETIONS, rewards=None, **changes):
    """Write a group to a log, with its answers."""
    made = group(step, completions, rewards, **changes)
    log.group(made, made.answers())


def made(folder, steps=20, metrics=None, evaluations=(), group=add_group, recipe=RECIPE):
    """A run of `steps` steps: `group(log, step)` and `metrics(step)` say what happened, `evaluations` are
    (step, figures).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(
        json.dumps(recipe.model_dump(mode="json")), encoding="utf-8"
    )  # JSON is YAML
    log = RunLog(folder)
    held_out = dict(evaluations)
    for step in range(1, steps + 1):
        group(log, step)
        if step in held_out:
            log.evaluation(step, held_out[step])
        log.metrics(step, {**(metrics(step) if metrics else {}), **log.take_figures()})
    return folder


def state(step, steps):
    return SimpleNamespace(global_step=step, max_steps=steps)
