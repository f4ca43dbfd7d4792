"""Recipes: what is shipped loads, unknown keys are refused by name, overrides change single values."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalyr1 import files
from anomalyr1.training import recipes
from anomalyr1.training.arguments import argument_values, build_arguments
from anomalyr1.training.recipes import (
    Recipe,
    check_settings,
    differences,
    dump_recipe,
    load_recipe,
    read_recipe,
    shipped,
)
from anomalyr1.training.settings import settings_of
from anomalyr1.types import InputError

MINIMAL = "data: [drawn]\nrewards: {roam: 1}\ngrpo: {beta: 0.1}\n"
NAMES = [
    "grpo-vllm",
    "nano-grpo",
    "nano-sft",
    "paper-3b",
    "qwen2.5-vl-3b-lora-24gb",
    "qwen2.5-vl-7b-zero3",
    "qwen3-vl-4b",
]


def arguments(recipe, out, rows):
    values = argument_values(recipe, settings_of(recipe), rows, 1)
    return build_arguments(recipe.section, values, out)


def test_what_is_shipped():
    assert shipped() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_trl_takes_a_shipped_recipe(name, tmp_path):
    import dataclasses

    from trl import GRPOConfig, SFTConfig

    from anomalyr1.drawn.dataset import parse_spec
    from anomalyr1.rewards import load_reward

    recipe = load_recipe(name)
    for spec in (*recipe.data, *recipe.held_out):
        if spec.startswith("drawn"):
            parse_spec(spec)
    kind = SFTConfig if recipe.section == "sft" else GRPOConfig
    check_settings(recipe, [field.name for field in dataclasses.fields(kind)])
    assert isinstance(arguments(recipe, tmp_path, 5000), kind)
    assert recipe.description
    for reward in recipe.rewards:
        load_reward(reward)
    if recipe.section == "grpo":  # whole groups in a microbatch
        assert recipe.settings["per_device_train_batch_size"] % recipe.settings["num_generations"] == 0


def test_the_papers_values():
    recipe = load_recipe("paper-3b")
    assert (recipe.seed, recipe.rewards) == (42, {"accuracy": 1.0, "roam_released": 1.0})
    pinned = {
        "num_generations": 8,
        "beta": 0.04,
        "epsilon": 0.2,
        "learning_rate": 5e-7,
        "max_completion_length": 256,
        "temperature": 1.0,
    }
    assert recipe.settings.items() >= pinned.items()
    assert isinstance(recipe.settings["learning_rate"], float)


def test_the_papers_loss_is_the_released_one(tmp_path):
    """TRL's defaults have moved since; what the released trainer did not have is off."""
    made = arguments(load_recipe("paper-3b"), tmp_path, 5000)
    expected = {
        "use_bias_correction_kl": False,
        "loss_type": "grpo",
        "scale_rewards": "group",
        "importance_sampling_level": "token",
        "mask_truncated_completions": False,
        "multi_objective_aggregation": "sum_then_normalize",
        "num_iterations": 1,
        "epsilon": 0.2,
        "epsilon_high": None,
        "delta": None,
        "top_entropy_quantile": 1.0,
        "entropy_coef": 0.0,
        "off_policy_mask_threshold": None,
        "sync_ref_model": False,
        "repetition_penalty": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "min_p": None,
        "steps_per_generation": 2,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "warmup_steps": 0,
        "lr_scheduler_type": "linear",
    }
    assert {name: getattr(made, name) for name in expected} == expected


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_overrides(tmp_path):
    path = written(tmp_path, MINIMAL)
    changed = load_recipe(
        path,
        [
            "train.learning_rate=1e-6",
            "grpo.beta=0",
            "lora.r=8",
            "model=a/b",
            "rewards.format=0.5",
            "data=[x, y]",
        ],
    )
    assert changed.settings == {"beta": 0, "learning_rate": 1e-6}
    assert (changed.lora, changed.model, changed.data) == ({"r": 8}, "a/b", ("x", "y"))
    assert differences(load_recipe(path), changed)[:3] == [
        "data: ('drawn',) -> ('x', 'y')",
        "grpo.beta: 0.1 -> 0",
        "grpo.learning_rate: None -> 1e-06",
    ]
    assert differences(changed, changed) == []


def test_words_and_dotted_paths_in_overrides(tmp_path):
    path = written(tmp_path, MINIMAL)
    words = load_recipe(
        path, ["grpo.save_strategy=no", "grpo.bf16=false", "grpo.report_to=off", "rewards.a.b:c=0.5"]
    )
    assert words.settings == {"beta": 0.1, "save_strategy": "no", "bf16": False, "report_to": "off"}
    assert words.rewards == {"roam": 1.0, "a.b:c": 0.5}
    assert read_recipe(Path(written(tmp_path, dump_recipe(words)))) == words


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (MINIMAL + "modle: nano\n", [], "has no key 'modle'; did you mean 'model'"),
        (MINIMAL + "model: nano\nmodel: b\n", [], "the key 'model' stands twice"),
        (MINIMAL + "sft: {}\n", [], "one of the sections sft and grpo"),
        ("data: [drawn]\n", [], "one of the sections sft and grpo"),
        ("data: [drawn]\ngrpo: {}\n", [], "needs rewards"),
        ("sft: {}\n", [], "needs data"),
        ("- a\n", [], "a recipe is a mapping"),
        ("a: [\n", [], "not valid YAML (line 2, column 1: expected the node content"),
        (MINIMAL + "\tmodel: nano\n", [], "line 4, column 1: found character"),
        ("data: [drawn]\nsft: {}\nrewards: {roam: 1}\n", [], "leave them out beside sft"),
        ("data: [drawn]\nsft: {}\nzero_variance: skip\n", [], "leave them out beside sft"),
        (MINIMAL, ["grpo.beta"], "cannot read the override 'grpo.beta'"),
        (MINIMAL, ["gpro.beta=1"], "has no key 'gpro'; did you mean 'grpo'"),
        (MINIMAL, ["model.size=1", "model=b"], None),
        (MINIMAL, ["data.size=1"], "'data' is ['drawn'], which has no keys of its own"),
        (MINIMAL + "seed: -1\n", [], "seed: Input should be greater"),
        (MINIMAL + "dtype: int8\n", [], "dtype: Input should be"),
        (MINIMAL, ["rewards.roam=.nan"], "rewards.roam: "),
        (MINIMAL, ["rewards.roam=1e39"], "a weight of rewards is greater than 1e+09"),
        (MINIMAL, ["learning_rate=1e-5"], "did you mean 'train.learning_rate'?"),
        (MINIMAL, ["turned=yes"], "turned: Input should be a valid boolean"),
    ],
)
def test_what_is_refused(tmp_path, text, overrides, message):
    path = written(tmp_path, text)
    if message is None:  # a key that was not there begins as a mapping, and may be replaced
        assert load_recipe(path, overrides).model == "b"
        return
    with pytest.raises(InputError) as refused:
        load_recipe(path, overrides)
    assert message in str(refused.value)


@pytest.mark.parametrize("steps", [0, -3])
def test_steps_are_counted_or_left_to_epochs(steps):
    with pytest.raises(InputError, match=f"max_steps is {steps}, expected more than 0, or -1"):
        settings_of(Recipe(data=("drawn",), sft={"max_steps": steps}))
    assert settings_of(Recipe(data=("drawn",), sft={"max_steps": -1}))["max_steps"] == -1


def test_one_spec_is_a_list_of_one(tmp_path):
    recipe = load_recipe(written(tmp_path, MINIMAL), ["data=split:a.json", "held_out=split:a.json"])
    assert recipe.data == recipe.held_out == ("split:a.json",)


def test_no_such_recipe():
    with pytest.raises(InputError, match="did you mean 'nano-grpo'"):
        load_recipe("nano-gpro")


def test_settings_that_are_not_trls():
    recipe = Recipe(data=("drawn",), rewards={"roam": 1}, grpo={"num_generation": 8})
    with pytest.raises(
        InputError,
        match="section grpo of the recipe has no key 'num_generation'; did you mean 'num_generations'",
    ):
        check_settings(recipe, ["num_generations", "beta"])
    taken = Recipe(data=("drawn",), sft={"output_dir": "x"})
    with pytest.raises(InputError, match="cannot set 'output_dir'"):
        check_settings(taken, ["output_dir"])


def test_rewards_that_recipes_of_0_10_name_by_their_modules():
    from anomalyr1.rewards import REWARDS, load_reward

    ours = [f"anomalyr1.rewards:{function.__name__}" for function in REWARDS.values()]
    arms = [f"anomalyr1.reproduction.arms:{name}" for name in ("silence_free", "wrong_nothing", "mild")]
    assert all(callable(load_reward(name)) for name in (*ours, *arms))


def test_a_recipe_is_read_to_a_limit(tmp_path, monkeypatch):
    """YAML takes 7 s of a processor for 20 MB of blanks."""
    path = tmp_path / "recipe.yaml"
    path.write_text(" " * (files.YAML_LIMIT + 1))
    for reader in (lambda: load_recipe(str(path)), lambda: read_recipe(path)):
        with pytest.raises(InputError, match="longer than"):
            reader()
    path.write_text(MINIMAL + "#" * files.YAML_LIMIT)
    monkeypatch.setattr(recipes, "YAML_LIMIT", files.LIMIT)  # the control
    assert read_recipe(path).data == ("drawn",)
