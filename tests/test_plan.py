"""The plan: tokens as the processor counts them, what does not fit and what would make it fit, memory by part, every shipped recipe."""

from __future__ import annotations

import pytest

import tiny
import training_runs as runs
from anomalyr1.images import fit
from anomalyr1.training import costs, dataset, plan, settings, shape
from anomalyr1.training.known_models import KNOWN, PUBLISHED_PARAMETERS
from anomalyr1.training.recipes import load_recipe, shipped
from anomalyr1.training.reward_functions import ROW
from anomalyr1.training.run import plan as plan_of
from anomalyr1.types import InputError

MACHINE = costs.Machine("CPU, a made-up one", 1e11, 1e10, 10**12)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return dataset.load_samples(["drawn:dev?n=3&seed=0"], tmp_path_factory.mktemp("drawn"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def gathered(samples, recipe):
    from anomalyr1.rewards import load_reward

    rewards = {name: load_reward(name) for name in recipe.rewards} if recipe.section == "grpo" else None
    return dataset.gather(samples, recipe, rewards)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_is_planned(name, samples):
    recipe = load_recipe(name)
    changed = recipe.model_copy(
        update={"data": ("drawn:dev?n=3&seed=0",), recipe.section: {**recipe.settings, "gradient_accumulation_steps": 1}}
    )
    made = plan.make_plan(changed, gathered(samples, changed), MACHINE)
    assert made.too_long == [] and made.steps > 0 and made.hours > 0
    assert made.bytes["peak"] > made.bytes["weights"] > 0
    assert (recipe.lora is None) == (made.trained == made.parameters)
    if recipe.model in KNOWN:
        assert "that the package knows" in made.model
        assert made.parameters >= PUBLISHED_PARAMETERS[recipe.model]
        assert any("estimated" in warning for warning in made.warnings)
    assert settings.steps_of(settings.settings_of(recipe), 5000, grpo=recipe.section == "grpo") > 0


@pytest.mark.parametrize("name", KNOWN)
def test_the_known_models_have_their_published_size(name):
    recipe = runs.recipe(model=name)
    assert shape.read_shape(recipe).parameters == PUBLISHED_PARAMETERS[name]


def test_a_model_that_is_neither_here_nor_known():
    from anomalyr1.types import SetupError

    with pytest.raises(SetupError, match="are not on this machine"):
        shape.read_shape(runs.recipe(model="someone/some-model"))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_tokens_are_those_of_the_processor(family, samples):
    from anomalyr1.policy.load import load_policy

    recipe = runs.recipe(family=family)
    material = gathered(samples, recipe)
    made = plan.make_plan(recipe, material, MACHINE)
    policy = load_policy(recipe.model, max_pixels=recipe.max_pixels)
    rows = dataset.prompt_rows(material, policy.family, policy.max_pixels)
    policy.processor.image_processor.size = {"shortest_edge": policy.family.min_pixels, "longest_edge": policy.max_pixels}
    by_id = {(one.task.sample.id, one.task.question.id): one for one in made.longest}
    for row in range(len(material.tasks)):
        task = material.tasks[row]
        planned = by_id.get((task.sample.id, task.question.id))
        if planned is None:
            continue
        text = policy.processor.apply_chat_template(rows[row]["prompt"], tokenize=False, add_generation_prompt=True)
        given = policy.processor(text=[text], images=rows[row]["images"], return_tensors="pt")
        assert given["input_ids"].shape[1] == planned.tokens
        assert int((given["input_ids"] == policy.model.config.image_token_id).sum()) == planned.images
        unresized = policy.processor.image_processor(images=rows[row]["images"], do_resize=False, return_tensors="pt")
        assert (given["pixel_values"] == unresized["pixel_values"]).all()  # what the model sees is what `fit` said
    assert len(made.longest) == 3 and rows[0][ROW] == 0


def test_what_does_not_fit_and_the_cap_that_makes_it_fit(samples, tmp_path):
    small = tiny.build(tmp_path / "small", max_positions=620)
    recipe = runs.recipe(model=str(small), max_pixels=100_352)
    material = gathered(samples, recipe)
    made = plan.make_plan(recipe, material, MACHINE)
    assert made.too_long and all("with max_pixels: " in line for line in made.too_long)
    with pytest.raises(InputError, match=rf"{len(made.too_long)} prompts are longer than the model can read"):
        made.require_fit()
    cap = min(int(line.rpartition("max_pixels: ")[2].split()[0]) for line in made.too_long)
    again = plan.make_plan(recipe.model_copy(update={"max_pixels": cap}), material, MACHINE)
    assert again.too_long == []
    bigger = plan.make_plan(recipe.model_copy(update={"max_pixels": cap + 28 * 28}), material, MACHINE)
    sizes = {picture.size_wh for picture in material.pictures.values()}
    same = all(fit(wh, shape.FAMILIES["qwen2_5_vl"], cap) == fit(wh, shape.FAMILIES["qwen2_5_vl"], cap + 28 * 28) for wh in sizes)
    assert bigger.too_long or same  # the largest cap that does
    tight = tiny.build(tmp_path / "tight", max_positions=64)
    none = plan.make_plan(recipe.model_copy(update={"model": str(tight)}), material, MACHINE)
    assert all("no pixel cap makes it fit" in line for line in none.too_long)


def test_warnings(samples):
    recipe = runs.recipe(
        dtype="bfloat16", settings={"per_device_train_batch_size": 6, "num_generations": 4, "gradient_accumulation_steps": 2}
    )
    made = plan.make_plan(recipe, gathered(samples, recipe), costs.Machine("CPU, small", 1e11, 1e10, 10**6))
    text = "\n".join(made.lines())
    for part in ("groups of 4 do not fit a microbatch of 6", "the predicted peak is", "weights in bfloat16 without float32 masters"):
        assert f"warning: {part}" in text


def test_memory_follows_what_is_trained():
    kinds = {
        "all": runs.recipe(),
        "lora": runs.recipe(lora={"r": 4, "target_modules": ["q_proj"]}),
        "frozen": runs.recipe(freeze="vision"),
        "reference": runs.recipe(settings={"beta": 0.04}),
        "checkpointing": runs.recipe(settings={"gradient_checkpointing": True}),
    }
    load = costs.Load(2, 8, 2, 8, 300, 64, 32)
    found = {
        name: costs.memory(shape.read_shape(recipe), "float32", settings.settings_of(recipe), load, grpo=True)
        for name, recipe in kinds.items()
    }
    size = shape.read_shape(kinds["all"]).parameters * 4
    assert found["all"]["weights"] == found["all"]["gradients"] == size and found["all"]["optimizer"] == 2 * size
    assert found["lora"]["gradients"] < size / 50 and found["lora"]["reference policy"] == 0
    assert found["frozen"]["gradients"] < size and found["frozen"]["activations"] < found["all"]["activations"]
    assert found["reference"]["reference policy"] == size
    assert found["checkpointing"]["activations"] < found["all"]["activations"]


def test_planning_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    made = plan_of(runs.recipe(), said.append)
    assert said == made.lines() and list(tmp_path.iterdir()) == []


def test_steps_are_those_of_the_trainer(samples, tmp_path):
    from anomalyr1.policy.load import load_policy
    from anomalyr1.training.run_log import RunLog
    from anomalyr1.training.trainers import make_trainer

    for section, changes in (
        ("grpo", {"num_iterations": 2, "gradient_accumulation_steps": 3}),
        ("sft", {"gradient_accumulation_steps": 2}),
    ):
        recipe = runs.recipe(section, settings={"max_steps": -1, "num_train_epochs": 3, **changes})
        material = gathered(samples, recipe)
        trainer = make_trainer(
            recipe, tmp_path, load_policy(recipe.model, max_pixels=recipe.max_pixels), material, RunLog(tmp_path, recipe)
        )
        steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
        planned = plan.make_plan(recipe, material, MACHINE).steps
        assert planned in steps


def test_too_little_data_for_a_generation_batch(samples):
    recipe = runs.recipe(settings={"per_device_train_batch_size": 256})
    with pytest.raises(InputError, match="the data has 26 prompts, and a generation batch takes 64"):
        plan.make_plan(recipe, gathered(samples, recipe), MACHINE)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("grpo", {"num_generation": 8}, "has no key 'num_generation'; did you mean 'num_generations'"),
        ("sft", {"packing": True}, "cannot set 'packing': it is about how TRL prepares texts"),
        ("sft", {"max_length": 10}, "cannot set 'max_length'"),
        ("grpo", {"output_dir": "x"}, "cannot set 'output_dir'"),
    ],
)
def test_settings_that_are_refused(section, changes, message):
    with pytest.raises(InputError, match=message):
        settings.settings_of(runs.recipe(section, settings=changes))


def test_adapters_that_are_refused():
    with pytest.raises(InputError, match="section lora of the recipe has no key 'rank'"):
        settings.adapters(runs.recipe(lora={"rank": 4}))
    with pytest.raises(InputError, match=r"cannot set lora\.exclude_modules too"):
        settings.adapters(runs.recipe(lora={"exclude_modules": ["x"]}, freeze="vision"))
