"""Rewards as TRL calls them: one reading for all, None kept, NaN and infinity refused by name."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from anomalyr1.rewards import REWARDS, load_reward
from anomalyr1.training import reward_functions
from anomalyr1.training.reward_functions import CompletionReader, TrainingQuestion
from anomalyr1.types import Box, InputError, Question

ASKED = (
    TrainingQuestion(
        "s1",
        Question(id="q", kind="defect classification", text="?", options=("Crack", "Dent"), answer="B"),
        None,
    ),
    TrainingQuestion(
        "s2", Question(id="g", kind="grounding", text="?", boxes=(Box(x1=0, y1=0, x2=9, y2=9),)), None
    ),
)
RIGHT = "<think>It is a dent, so the answer is B.</think><answer>B</answer>"


def chat(text):
    return [{"role": "assistant", "content": text}]


def test_rewards_under_their_names(monkeypatch):
    read: list[str] = []
    monkeypatch.setattr(
        reward_functions,
        "parse",
        lambda text, *rest, _parse=reward_functions.parse: read.append(text) or _parse(text, *rest),
    )
    made = reward_functions.reward_functions(
        {name: REWARDS[name] for name in ("roam", "accuracy", "format")}, CompletionReader(ASKED)
    )
    batch = {
        "completions": [chat(RIGHT), chat("nothing"), chat(RIGHT)],
        "row": [0, 0, 1],
        "prompts": [],
        "trainer_state": None,
    }
    found = {one.__name__: one(**batch) for one in made}
    assert found == {"roam": [1.0, 0.0, None], "accuracy": [1.0, 0.0, None], "format": [1.0, 0.0, 0.0]}
    assert len(read) == 3  # once for all rewards
    assert made[0](completions=[RIGHT], row=[0]) == [1.0]
    assert made[0](completions=[RIGHT], row=[1]) == [None]  # the same text, another question


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, -2e9])
def test_a_reward_that_is_no_number(value):
    (made,) = reward_functions.reward_functions(
        {"odd": lambda answer, question: value}, CompletionReader(ASKED)
    )
    with pytest.raises(InputError, match=r"reward 'odd' of sample 's2' is"):
        made(completions=[RIGHT], row=[1])


def test_controls():
    """Dealt within a question, by the step; what a question's completions earn together stays."""
    asked = (ASKED[0], ASKED[0])
    texts = [
        RIGHT,
        "<think>A dent, so the answer is A.</think><answer>B</answer>",
        "<think>It is so.</think><answer>A</answer>",
    ] * 4
    rows = [0] * 6 + [1] * 6
    made = {
        one.__name__: one
        for one in reward_functions.reward_functions(
            {
                "roam": REWARDS["roam"],
                "roam/shuffled": load_reward("roam/shuffled"),
                "roam/unlinked": load_reward("roam/unlinked"),
            },
            CompletionReader(asked),
        )
    }
    states = [SimpleNamespace(global_step=step) for step in range(20)]
    plain = made["roam"](completions=texts, row=rows)
    assert sorted(plain) == sorted([1.0, 0.0, 0.05] * 4)
    shuffled = [made["roam/shuffled"](completions=texts, row=rows, trainer_state=state) for state in states]
    assert all(
        sorted(one[:6]) == sorted(plain[:6]) and sorted(one[6:]) == sorted(plain[6:]) for one in shuffled
    )
    assert len({tuple(one) for one in shuffled}) > 10
    assert shuffled[3] == made["roam/shuffled"](completions=texts, row=rows, trainer_state=states[3])
    unlinked = [made["roam/unlinked"](completions=texts, row=rows, trainer_state=state) for state in states]
    assert {one[0] for one in unlinked} == {1.0, 0.8, 0.0}  # right, beside any conclusion
    assert {one[2] for one in unlinked} == {0.05, 0.1, 0.0}  # wrong: silent, the same letter, another


def test_roam_that_only_minds_silence():
    (reward,) = reward_functions.reward_functions(
        {"roam_unchecked": REWARDS["roam_unchecked"]}, CompletionReader(ASKED)
    )
    against = "<think>A crack, so the answer is A.</think><answer>B</answer>"
    silent, wrong = (
        "<think>Hm.</think><answer>B</answer>",
        "<think>So the answer is B.</think><answer>A</answer>",
    )
    assert reward(completions=[RIGHT, against, silent, wrong, "nothing"], row=[0] * 5) == [
        1.0,
        1.0,
        0.8,
        0.1,
        0.0,
    ]
    assert reward(completions=[RIGHT], row=[1]) == [None]
