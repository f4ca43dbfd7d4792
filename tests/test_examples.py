"""The programs of examples/: each runs on nano, and does what it says."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from support.places import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def load(monkeypatch):
    """An example as a module, found by its name as when it is run."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 150


def test_a_folder_is_inspected(load, tmp_path):
    verdicts = load("inspect_folder").main(out=tmp_path)
    assert verdicts.total() == 8
    assert (tmp_path / "index.html").is_file()


def test_two_policies_are_evaluated_and_compared(load, tmp_path):
    comparison = load("evaluate_and_compare").main("drawn:seen?n=6&seed=5&references=0", tmp_path)
    assert comparison.groups
    assert (tmp_path / "page" / "index.html").is_file()


def test_the_loop_of_grpo_learns_and_its_policy_is_loaded_again(load, tmp_path):
    from anomalyr1.policy.load import load_policy

    rewards = load("roam_grpo").main(steps=2, out=tmp_path)
    assert len(rewards) == 2 and all(0 <= value <= 2 for value in rewards)
    before, after = load_policy("nano").model, load_policy(str(tmp_path / "final")).model
    moved = [bool((a != b).any()) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert any(moved)


def test_log_probabilities_of_the_loop_are_those_of_the_shared_prefix(load, tmp_path):
    """The loop repeats the prompt; the package reads it once. Both give the same numbers."""
    import torch

    import anomalyr1
    from anomalyr1 import prompts
    from anomalyr1.policy.load import load_policy
    from anomalyr1.shared_prefix import prompts_as_groups
    from anomalyr1.shared_prefix.groups import Groups
    from anomalyr1.shared_prefix.score import score_completions

    example, policy = load("roam_grpo"), load_policy("nano")
    sample = anomalyr1.load("drawn:connector?n=1&seed=0&references=0", folder=tmp_path)[0]
    inputs, _ = example.encode(policy, sample, prompts.gold_inspection_questions(sample)[0])
    completions = torch.randint(100, 900, (4, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        repeated = example.log_probabilities(policy.model, inputs, completions)
        merge = policy.processor.image_processor.merge_size**2
        image_id = policy.model.config.image_token_id
        waiting = prompts_as_groups([inputs["input_ids"][0].tolist()], inputs, [0] * 4, image_id, merge)
        groups = Groups(
            waiting.prompts, waiting.grids, waiting.pixels, waiting.group_of, completions, completions >= 0
        )
        shared, _ = score_completions(policy.model, groups, form="branched", entropy=False)
    assert torch.allclose(repeated, shared, atol=1e-5)


def test_a_reward_of_ones_own_is_paid(load, tmp_path):
    load("own_reward").main(steps=1, out=tmp_path / "run")
    assert "own_reward.py:brevity" in (tmp_path / "run" / "groups.jsonl").read_text(encoding="utf-8")
