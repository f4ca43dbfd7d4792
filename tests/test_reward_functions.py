"""Rewards as TRL calls them: one reading for all, None kept, NaN and infinity refused by name."""

from __future__ import annotations

import math

import pytest

from anomalyr1.rewards import REWARDS
from anomalyr1.training import reward_functions
from anomalyr1.training.reward_functions import Asked
from anomalyr1.types import Box, InputError, Question

ASKED = (
    Asked("s1", Question(id="q", kind="defect classification", text="?", options=("Crack", "Dent"), answer="B"), None),
    Asked("s2", Question(id="g", kind="grounding", text="?", boxes=(Box(x1=0, y1=0, x2=9, y2=9),)), None),
)
RIGHT = "<think>It is a dent, so the answer is B.</think><answer>B</answer>"


def chat(text):
    return [{"role": "assistant", "content": text}]


def test_rewards_under_their_names(monkeypatch):
    read: list[str] = []
    monkeypatch.setattr(
        reward_functions, "parse", lambda text, *rest, _parse=reward_functions.parse: read.append(text) or _parse(text, *rest)
    )
    made = reward_functions.reward_functions({name: REWARDS[name] for name in ("roam", "accuracy", "format")}, ASKED)
    batch = {"completions": [chat(RIGHT), chat("nothing"), chat(RIGHT)], "row": [0, 0, 1], "prompts": [], "trainer_state": None}
    found = {one.__name__: one(**batch) for one in made}
    assert found == {"roam": [1.0, 0.0, None], "accuracy": [1.0, 0.0, None], "format": [1.0, 0.0, 0.0]}
    assert len(read) == 3  # once for all rewards
    assert made[0](completions=[RIGHT], row=[0]) == [1.0]
    assert made[0](completions=[RIGHT], row=[1]) == [None]  # the same text, another question


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number(value):
    (made,) = reward_functions.reward_functions({"odd": lambda answer, question: value}, ASKED)
    with pytest.raises(InputError, match=r"reward 'odd' of sample 's2' is"):
        made(completions=[RIGHT], row=[1])
