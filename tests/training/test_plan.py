"""The plan: tokens as the processor counts them, what does not fit and what would make it fit, memory by
part, every shipped recipe.
"""

from __future__ import annotations

import importlib.metadata

import pytest

from anomalyr1.data import sources
from anomalyr1.images.frames import fit
from anomalyr1.training import arguments, costs, dataset, model_size, plan, settings
from anomalyr1.training.model_size import KNOWN_CONFIGURATIONS
from anomalyr1.training.recipes import load_recipe, shipped
from anomalyr1.training.resolved import resolve
from anomalyr1.training.reward_functions import ROW
from anomalyr1.training.run import plan_run
from anomalyr1.types import InputError, SetupError
from support import tiny
from support import training_runs as runs

MACHINE = costs.Machine("CPU, a made-up one", 1e11, 10**12)
PUBLISHED_PARAMETERS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
}
"""As the pages of the known models state them."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return sources.load_sources(["drawn:dev?n=3&seed=0"], tmp_path_factory.mktemp("drawn"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def plan_for(recipe, training_set, machine=MACHINE):
    return plan.make_plan(resolve(recipe), training_set, machine)


def argued(recipe, out, rows=100, processes=1):
    """TRL's configuration of a run."""
    values = arguments.argument_values(recipe, settings.settings_of(recipe), rows, processes)
    return arguments.build_arguments(recipe.section, values, out)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_is_planned(name, samples):
    recipe = load_recipe(name)
    changed = recipe.model_copy(
        update={
            "data": ("drawn:dev?n=3&seed=0",),
            recipe.section: {**recipe.settings, "gradient_accumulation_steps": 1},
        }
    )
    made = plan_for(changed, runs.gathered(samples, changed))
    assert made.too_long == [] and made.steps > 0 and made.hours > 0
    assert made.bytes["peak"] > made.bytes["weights"] > 0
    assert (recipe.lora is None) == (made.trained == made.parameters)
    if recipe.model in KNOWN_CONFIGURATIONS:
        assert "that the package knows" in made.model
        assert made.parameters >= PUBLISHED_PARAMETERS[recipe.model]
        assert any("estimated" in warning for warning in made.warnings)
    assert arguments.steps_of(settings.settings_of(recipe), 5000, grpo=recipe.section == "grpo") > 0


@pytest.mark.parametrize("name", KNOWN_CONFIGURATIONS)
def test_the_known_models_have_their_published_size(name):
    recipe = runs.recipe(model=name)
    assert model_size.read_model_size(recipe).parameters == PUBLISHED_PARAMETERS[name]


def test_a_model_that_is_neither_here_nor_known():
    with pytest.raises(SetupError, match="are not on this machine"):
        model_size.read_model_size(runs.recipe(model="someone/some-model"))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_tokens_are_those_of_the_processor(family, samples):
    from anomalyr1.policy.load import load_policy

    recipe = runs.recipe(family=family)
    material = runs.gathered(samples, recipe)
    made = plan_for(recipe, material)
    policy = load_policy(recipe.model, max_pixels=recipe.max_pixels)
    rows = dataset.prompt_rows(material, policy.family, policy.max_pixels)
    policy.processor.image_processor.size = {
        "shortest_edge": policy.family.min_pixels,
        "longest_edge": policy.max_pixels,
    }
    by_id = {(one.task.sample.id, one.task.question.id): one for one in made.longest}
    for row in range(len(material.tasks)):
        task = material.tasks[row]
        planned = by_id.get((task.sample.id, task.question.id))
        if planned is None:
            continue
        text = policy.processor.apply_chat_template(
            rows[row]["prompt"], tokenize=False, add_generation_prompt=True
        )
        given = policy.processor(text=[text], images=rows[row]["images"], return_tensors="pt")
        assert given["input_ids"].shape[1] == planned.tokens
        assert int((given["input_ids"] == policy.model.config.image_token_id).sum()) == planned.images
        unresized = policy.processor.image_processor(
            images=rows[row]["images"], do_resize=False, return_tensors="pt"
        )
        assert (
            given["pixel_values"] == unresized["pixel_values"]
        ).all()  # what the model sees is what `fit` said
    assert len(made.longest) == 3 and rows[0][ROW] == 0


def test_what_does_not_fit_and_the_cap_that_makes_it_fit(samples, tmp_path):
    small = tiny.build(tmp_path / "small", max_positions=620)
    recipe = runs.recipe(model=str(small), max_pixels=100_352)
    material = runs.gathered(samples, recipe)
    made = plan_for(recipe, material)
    assert made.too_long and all("with max_pixels: " in line for line in made.too_long)
    with pytest.raises(InputError, match=rf"{len(made.too_long)} prompts are longer than the model can read"):
        made.require_fit()
    cap = min(int(line.rpartition("max_pixels: ")[2].split()[0]) for line in made.too_long)
    again = plan_for(recipe.model_copy(update={"max_pixels": cap}), material)
    assert again.too_long == []
    bigger = plan_for(recipe.model_copy(update={"max_pixels": cap + 28 * 28}), material)
    sizes = {picture.size_wh for picture in material.pictures.values()}
    same = all(
        fit(wh, model_size.FAMILIES["qwen2_5_vl"], cap)
        == fit(wh, model_size.FAMILIES["qwen2_5_vl"], cap + 28 * 28)
        for wh in sizes
    )
    assert bigger.too_long or same  # the largest cap that does
    tight = tiny.build(tmp_path / "tight", max_positions=64)
    none = plan_for(recipe.model_copy(update={"model": str(tight)}), material)
    assert all("no pixel cap makes it fit" in line for line in none.too_long)


def test_completions_of_sft_are_counted_and_read_before_the_first_step(samples):
    recipe = runs.recipe("sft")
    written = plan_for(recipe, runs.gathered(samples, recipe))
    assert written.too_long == []

    def with_own(text):
        questions = tuple(one.model_copy(update={"completion": text}) for one in samples[0].questions)
        return runs.gathered([samples[0].model_copy(update={"questions": questions}), *samples[1:]], recipe)

    material = with_own("seen " * 5000)
    long = plan_for(recipe, material)
    assert len(long.too_long) == sum(task.question.completion is not None for task in material.tasks) > 0
    assert long.hours > written.hours
    with pytest.raises(
        InputError, match=f"sample '{samples[0].id}', question .* completion writes a special token"
    ):
        plan_for(recipe, with_own("seen <|im_end|>"))


def test_warnings(samples):
    recipe = runs.recipe(
        dtype="bfloat16",
        settings={"per_device_train_batch_size": 6, "num_generations": 4, "gradient_accumulation_steps": 2},
    )
    made = plan_for(recipe, runs.gathered(samples, recipe), costs.Machine("CPU, small", 1e11, 10**6))
    text = "\n".join(made.lines())
    for part in (
        "groups of 4 do not fit a microbatch of 6",
        "the predicted peak is",
        "weights in bfloat16 without float32 masters",
    ):
        assert f"warning: {part}" in text
    assert "warning: no held_out data is named" in text
    asked = runs.recipe(held_out=("drawn:dev?n=4&seed=1",))
    assert "held_out" not in "\n".join(plan_for(asked, runs.gathered(samples, asked)).lines())


def test_the_plan_says_for_how_many_processes(samples, monkeypatch):
    recipe = runs.recipe(settings={"max_steps": -1})
    one = plan_for(recipe, runs.gathered(samples, recipe))
    monkeypatch.setenv("WORLD_SIZE", "2")
    two = plan_for(recipe, runs.gathered(samples, recipe))
    assert "in 1 process (accelerate" in one.lines()[0] and "in 2 processes (accelerate" in two.lines()[0]
    assert one.steps == pytest.approx(2 * two.steps, abs=3)


def test_memory_follows_what_is_trained():
    kinds = {
        "all": runs.recipe(),
        "lora": runs.recipe(lora={"r": 4, "target_modules": ["q_proj"]}),
        "frozen": runs.recipe(freeze="vision"),
        "reference": runs.recipe(settings={"beta": 0.04}),
        "checkpointing": runs.recipe(settings={"gradient_checkpointing": True}),
    }
    load = costs.StepLoad(2, 8, 2, 8, 300, 64, 32)
    found = {
        name: costs.memory(
            model_size.read_model_size(recipe), "float32", settings.settings_of(recipe), load, grpo=True
        )
        for name, recipe in kinds.items()
    }
    size = model_size.read_model_size(kinds["all"]).parameters * 4
    assert (
        found["all"]["weights"] == found["all"]["gradients"] == size and found["all"]["optimizer"] == 2 * size
    )
    assert found["lora"]["gradients"] < size / 50 and found["lora"]["reference policy"] == 0
    assert (
        found["frozen"]["gradients"] < size and found["frozen"]["activations"] < found["all"]["activations"]
    )
    assert found["reference"]["reference policy"] == size
    assert found["checkpointing"]["activations"] < found["all"]["activations"]


def test_memory_of_masters_and_of_vllm():
    load, shaped = costs.StepLoad(2, 8, 2, 8, 300, 64, 32), model_size.read_model_size(runs.recipe())

    def found(changes=None, **more):
        return costs.memory(
            shaped, "bfloat16", settings.settings_of(runs.recipe(settings=changes or {})), load, True, **more
        )

    alone, sharded = found(), found(shards=2, masters=True)
    assert alone["optimizer"] == 2 * 2 * shaped.parameters and alone["float32 masters"] == 0
    assert (
        sharded["optimizer"] == 2 * 4 * shaped.parameters / 2
        and sharded["float32 masters"] == 4 * shaped.parameters / 2
    )
    vllm = {"use_vllm": True, "vllm_gpu_memory_utilization": 0.25}
    here, there = (found({**vllm, "vllm_mode": mode}, gpu_bytes=8 * 10**9) for mode in ("colocate", "server"))
    assert here["vLLM"] == here["peak"] - there["peak"] == 2 * 10**9 and "vLLM" not in there


def test_planning_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    made = plan_run(runs.recipe(), said.append)
    assert (
        said[:-1] == made.lines()
        and "reward support.training_runs:reward is code: not run" in said[-1]
        and list(tmp_path.iterdir()) == []
    )


def test_steps_are_those_of_the_trainer(samples, tmp_path):
    from anomalyr1.policy.load import load_policy
    from anomalyr1.training.run_log import RunLog
    from anomalyr1.training.trainers import make_trainer

    for section, changes in (
        ("grpo", {"num_iterations": 2, "gradient_accumulation_steps": 3, "save_steps": 2}),
        ("sft", {"gradient_accumulation_steps": 2}),
    ):
        recipe = runs.recipe(section, settings={"max_steps": -1, "num_train_epochs": 3, **changes})
        resolved, material = resolve(recipe), runs.gathered(samples, recipe)
        trainer = make_trainer(
            resolved,
            material,
            arguments.argument_values(recipe, resolved.settings, material.rows(resolved.grpo), 1),
            load_policy(recipe.model, max_pixels=recipe.max_pixels),
            RunLog(tmp_path),
        )
        steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
        planned = plan_for(recipe, material).steps
        assert planned in steps


def test_hours_are_not_told_of_a_gpu_that_was_never_timed(samples):
    recipe = runs.recipe()
    planned = plan_for(recipe, runs.gathered(samples, recipe), costs.Machine("A GPU", None, 10**12))
    assert planned.hours is None and "time: not known on A GPU" in "\n".join(planned.lines())


def test_too_little_data_for_a_generation_batch(samples):
    recipe = runs.recipe(settings={"per_device_train_batch_size": 256})
    with pytest.raises(InputError, match="the data has 26 prompts, and a generation batch takes 64"):
        plan_for(recipe, runs.gathered(samples, recipe))


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("grpo", {"num_generation": 8}, "has no key 'num_generation'; did you mean 'num_generations'"),
        ("sft", {"packing": True}, "cannot set 'packing': it is about how TRL prepares texts"),
        ("sft", {"max_length": 10}, "cannot set 'max_length'"),
        ("grpo", {"output_dir": "x"}, "cannot set 'output_dir'"),
        (
            "grpo",
            {"eval_strategy": "steps"},
            "cannot set 'eval_strategy': .* held_out data, and say with eval_steps",
        ),
        (
            "grpo",
            {"generation_batch_size": 64},
            "cannot set 'generation_batch_size': .* say steps_per_generation",
        ),
        ("sft", {"save_only_model": True}, "cannot set 'save_only_model'"),
        ("sft", {"ignore_data_skip": True}, "cannot set 'ignore_data_skip'"),
        ("grpo", {"loss_type": "drgrpo"}, "loss_type is 'drgrpo', expected one of grpo, dr_grpo"),
        (
            "grpo",
            {"scale_rewards": "groups"},
            "scale_rewards is 'groups', expected one of group, batch, none",
        ),
        ("grpo", {"bf16": "no"}, "bf16 is 'no', expected true or false"),
        ("grpo", {"max_steps": 1e3}, "max_steps is 1000.0, expected a whole number"),
        ("grpo", {"num_generations": 0}, "num_generations is 0, expected more than 0"),
        ("grpo", {"logging_steps": 0}, "logging_steps is 0, expected more than 0"),
        ("grpo", {"max_completion_length": None}, "max_completion_length is null, expected a whole number"),
        ("sft", {"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0, expected more than 0"),
        ("grpo", {"learning_rate": -1}, "learning_rate is -1, expected 0 or more"),  # torch: once begun
        ("sft", {"weight_decay": float("nan")}, "weight_decay is nan, expected 0 or more"),
        ("sft", {"num_train_epochs": 0}, "num_train_epochs is 0, expected more than 0"),
        ("sft", {"dataloader_drop_last": True}, "cannot set 'dataloader_drop_last'"),
        ("sft", {"learning_rate": "1e-6x"}, "learning_rate is '1e-6x', expected a number"),
        ("grpo", {"num_generations": 6}, r"generation_batch_size \(8\) must be divisible by num_generations"),
        ("sft", {"optim": "adam"}, "section sft of the recipe: adam is not a valid"),
        ("grpo", {"logging_steps": 10, "save_steps": 5}, "make save_steps a multiple of logging_steps"),
        (
            "sft",
            {"logging_steps": 2, "save_strategy": "epoch"},
            "make save_steps a multiple of logging_steps",
        ),
        (
            "grpo",
            {"num_iterations": 4, "save_steps": 6, "gradient_accumulation_steps": 1},
            "save_steps is 6, .* every 4 steps, .* a multiple of 4",
        ),
        ("grpo", {"num_iterations": 4, "save_steps": 0.5}, "save_steps is 2, "),
        ("sft", {"label_smoothing_factor": 0.1}, "cannot set 'label_smoothing_factor'"),
        (
            "grpo",
            {"num_generations_eval": 4},
            "cannot set 'num_generations_eval': held-out data is asked once",
        ),
        ("grpo", {"use_transformers_continuous_batching": True}, "say use_vllm"),
        ("grpo", {"sync_ref_model": True, "beta": 0.0}, "sync_ref_model needs a reference model of its own"),
        ("grpo", {"vllm_importance_sampling_mode": "foo"}, "expected one of token_truncate"),
    ],
)
def test_settings_that_are_refused(section, changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        argued(runs.recipe(section, settings=changes), tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"save_strategy": "no"},
        {"save_strategy": "no", "logging_steps": 7},
        {"eval_strategy": "no", "save_only_model": False},
        {"num_iterations": 4, "save_steps": 8},
        {"sync_ref_model": True, "beta": 0.1},
        {"label_smoothing_factor": 0.0},
        {"logging_steps": 5, "save_steps": 10},
        {"save_strategy": "epoch"},
        {"scale_rewards": False},
        {"learning_rate": 1},
    ],
)
def test_settings_that_are_taken(changes, tmp_path):
    argued(runs.recipe(settings=changes), tmp_path)


def test_a_setting_whose_package_is_lacking(tmp_path, monkeypatch):
    """DeepSpeed is lacking here, or is made to lack: no traceback of importlib's."""
    real = importlib.metadata.version

    def version(name):
        if name == "deepspeed":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(SetupError, match=r"section sft .* needs a package .*deepspeed.*; install it"):
        argued(runs.recipe("sft", settings={"deepspeed": "zero.json"}), tmp_path)


def test_resampling_is_for_one_process(tmp_path):
    with pytest.raises(
        InputError, match="zero_variance: resample draws different groups again in each process"
    ):
        argued(runs.recipe(zero_variance="resample"), tmp_path, processes=2)


@pytest.mark.parametrize("lora", [{"r": 4}, {"r": 4, "target_modules": ["q_porj"]}])
def test_adapters_that_find_no_modules(lora):
    with pytest.raises(
        InputError, match=r"section lora of the recipe: .*; name the modules that get adapters"
    ):
        model_size.read_model_size(runs.recipe(lora=lora))


@pytest.mark.parametrize(
    ("changes", "cuda", "dtype"),
    [
        ({}, True, "float32"),  # all weights learn, and small updates would be lost
        ({"freeze": "vision"}, True, "float32"),
        ({"lora": {"r": 4}}, True, "bfloat16"),
        ({"lora": {"r": 4}}, False, "float32"),
        ({"dtype": "bfloat16"}, False, "bfloat16"),
    ],
)
def test_the_type_of_the_weights(monkeypatch, changes, cuda, dtype):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    assert settings.dtype_of(runs.recipe(**changes)) == dtype


def test_adapters_that_are_refused():
    with pytest.raises(InputError, match="section lora of the recipe has no key 'rank'"):
        settings.adapter_config(runs.recipe(lora={"rank": 4}))
    with pytest.raises(InputError, match=r"cannot set lora\.exclude_modules too"):
        settings.adapter_config(runs.recipe(lora={"exclude_modules": ["x"]}, freeze="vision"))
    for more, message in (
        ({"target_modules": ["q_proj", "lm_head"]}, r"lora\.target_modules cannot hold lm_head"),
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
            r"lora\.modules_to_save cannot hold lm_head",
        ),
        (
            {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
            r"lora\.init_lora_weights: pissa may change",
        ),
    ):
        with pytest.raises(InputError, match=message):
            settings.adapter_config(runs.recipe(lora={"r": 2, **more}))


def test_a_loss_that_is_no_number_is_logged_as_it_is(tmp_path):
    assert argued(runs.recipe(), tmp_path).logging_nan_inf_filter is False


def test_verdicts_that_the_category_alone_tells(samples):
    """Of gears 1 of 4 is defective, of screws 3 of 4: by the name alone 6 of 8 are right."""
    recipe = runs.recipe(held_out=("drawn:dev?n=4&seed=1",))

    def warned(*labels):
        made = [
            samples[0].model_copy(update={"id": f"{i}", "category": name, "anomalous": bad})
            for i, (name, bad) in enumerate(labels)
        ]
        return "\n".join(plan_for(recipe, runs.gathered(made, recipe)).warnings)

    gears, screws = [("gear", i == 0) for i in range(4)], [("screw", i > 0) for i in range(4)]
    text = warned(*gears, *screws)
    assert (
        "who knows the category is right about 6 of 8 samples without a look (3 good and 1 defective of "
        "'gear'" in text
    )
    assert "who always says the same is right about 3 of 4" in warned(*gears)
    assert "without a look" not in warned(
        *[(name, i % 2 == 0) for name in ("gear", "screw") for i in range(4)]
    )
    assert "without a look" not in warned(
        *gears, *[("gear", bad) for _, bad in screws]
    )  # 4 of 8, whatever their name


def test_prompts_that_fill_no_generation_batch_are_told(samples):
    recipe = runs.recipe(settings={"per_device_train_batch_size": 16, "num_generations": 4})
    made = plan_for(recipe, runs.gathered(samples, recipe))
    assert (made.prompts, made.left_over) == (26, 2)
    assert "left over in each epoch: 2 prompts" in "\n".join(made.lines())
    assert plan_for(runs.recipe("sft"), runs.gathered(samples, runs.recipe("sft"))).left_over == 0
