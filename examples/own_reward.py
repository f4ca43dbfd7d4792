"""A reward of one's own in a recipe: completions are also paid for being short.

    python examples/own_reward.py           # under a minute on 2 cores; the folder runs/example-reward

A reward is a pure function of an answer and its question; None = it does not apply. On the command line the
same is

    anomalyr1 train nano-grpo rewards.examples/own_reward.py:brevity=0.2
"""

from __future__ import annotations

import os
from pathlib import Path

import anomalyr1
from anomalyr1 import rewards
from anomalyr1.training.recipes import load_recipe
from anomalyr1.types import Answer, Question

OUT = Path("runs/example-reward")
NAME = f"{os.path.relpath(__file__)}:brevity"
"""What a recipe calls the reward: its file, from the working folder, and the function."""
FREE_WORDS = 20


def brevity(answer: Answer, question: Question) -> float | None:
    """1 for a reasoning of at most 20 words, falling to 0 at twice as many; None for boxes, which need no
    words.
    """
    if not question.options:
        return None
    return min(1.0, max(0.0, 2 - len(answer.reasoning.split()) / FREE_WORDS))


def main(steps: int = 4, out: Path = OUT) -> Path:
    """Train nano by GRPO with this reward beside ROAM, and give the folder of the run."""
    short = rewards.load_reward(NAME)  # what a recipe does with the name
    print(
        "a short reasoning earns",
        short(anomalyr1.parse("<think>It is bent.</think><answer>A</answer>", ("Yes", "No")), YES_NO),
    )
    recipe = load_recipe(
        "nano-grpo",
        [
            f"rewards.{NAME}=0.2",
            'data=["drawn:connector?n=6&seed=0&references=0"]',
            "held_out=[]",
            "turned=false",
            f"grpo.max_steps={steps}",
            "grpo.per_device_train_batch_size=16",
            "grpo.save_strategy='no'",
            "grpo.report_to=none",
        ],
    )
    anomalyr1.train(recipe, out)
    return out


YES_NO = Question(id="q", kind="anomaly detection", text="Is it bent?", options=("Yes", "No"), answer="A")

if __name__ == "__main__":
    main()
