"""What a recipe file may not decide alone, and what its user can let it do."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import nullcontext

import pytest

from anomalyr1.training import reach
from anomalyr1.training.recipes import load_recipe, read_recipe
from anomalyr1.types import InputError
from support import training_runs as runs

TEXT = "data: [drawn]\nrewards: {roam: 1}\ngrpo: {beta: 0.1%s}\n"
LOCAL = set(
    """
    activation_checkpointing_kwargs cache_implementation chat_template_kwargs
    dataloader_multiprocessing_context
    dataloader_prefetch_factor ddp_backend debug eval_strategy fsdp generation_kwargs
    gradient_checkpointing_kwargs importance_sampling_level include_for_metrics include_num_input_tokens_seen
    label_names length_column_name liger_kernel_config log_level log_level_replica logging_strategy loss_type
    lr_scheduler_kwargs lr_scheduler_type metric_for_best_model model_init_kwargs multi_objective_aggregation
    optim optim_args optim_target_modules output_dir pad_to_multiple_of parallelism_config project
    resume_from_checkpoint reward_weights run_name save_strategy scale_rewards torch_compile_mode
    train_sampling_strategy transformers_continuous_batching_config vllm_importance_sampling_mode
    vllm_model_impl vllm_structured_outputs_regex
    """.split()  # noqa: SIM905  # a list of 46 lines otherwise
)
"""Keys of TRL's that hold words or mappings, by which nothing leaves the run's folder, or which `settings`
refuses anyway."""
LOCAL_OF_PEFT = set(
    """
    task_type peft_type peft_version revision target_modules exclude_modules bias modules_to_save
    init_lora_weights layers_to_transform layers_pattern rank_pattern alpha_pattern trainable_token_indices
    loftq_config eva_config corda_config lora_ga_config velora_config alora_invocation_tokens
    monteclora_config layer_replication runtime_config target_parameters use_bdlora arrow_config kasa_config
    """.split()  # noqa: SIM905
)


def written(folder, text):
    path = folder / "foreign.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_every_key_with_words_was_looked_at():
    """A new version of TRL, transformers or peft may bring keys: each is either refused or known."""
    from peft import LoraConfig
    from transformers import TrainingArguments
    from trl import GRPOConfig

    plain = (
        "<class 'bool'>",
        "<class 'int'>",
        "<class 'float'>",
        "bool | None",
        "int | None",
        "float | None",
    )
    for classes, known in (((GRPOConfig, TrainingArguments), LOCAL), ((LoraConfig,), LOCAL_OF_PEFT)):
        fields = {field.name: str(field.type) for kind in classes for field in dataclasses.fields(kind)}
        wordy = {name for name, kind in fields.items() if kind not in (*plain, "bool", "int", "float")}
        reaching = {name for name in wordy if reach.reach_of(name, "x")}
        assert wordy - reaching <= known
        assert {"report_to", "hub_token", "deepspeed"} <= reaching or classes == (LoraConfig,)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("push_to_hub: true", "reaches a network"),
        ("hub_model_id: evil/x", "reaches a network"),
        ("vllm_server_base_url: 'http://169.254.169.254/'", "reaches a network"),
        ("vllm_mode: server", "reaches a network"),
        ("report_to: wandb", "reaches a network"),
        ("report_to: [tensorboard, wandb]", "reaches a network"),
        ("deepspeed: /any/where.json", "names files elsewhere"),
        ("torch_compile_backend: x", "runs code"),
    ],
)
def test_what_a_file_may_not_decide_alone(tmp_path, setting, reason):
    path = written(tmp_path, TEXT % f", {setting}")
    key, _, value = setting.partition(": ")
    with pytest.raises(InputError, match=f"grpo.{key} {reason}"):
        load_recipe(path, allow_code=True)
    with pytest.raises(InputError, match=f"grpo.{key} {reason}"):
        load_recipe(path, ["grpo.beta=1"])
    assert load_recipe(path, [f"train.{key}={value}"]).settings[key]  # control: whoever types it may
    assert read_recipe(tmp_path / "foreign.yaml").settings[key]  # control: a record is only read


def test_half_a_value_is_not_said(tmp_path):
    path = written(tmp_path, TEXT % ", deepspeed: {a: 1}")
    with pytest.raises(InputError, match=r"grpo\.deepspeed names files elsewhere"):
        load_recipe(path, ["grpo.deepspeed.b=2"])
    assert load_recipe(path, ["grpo.deepspeed={b: 2}"]).settings["deepspeed"] == {"b": 2}


@pytest.mark.parametrize("setting", ["push_to_hub: false", "report_to: none", "report_to: [tensorboard]"])
def test_what_changes_nothing_may_stand(tmp_path, setting):
    assert load_recipe(written(tmp_path, TEXT % f", {setting}")).settings["beta"] == 0.1


def test_peft_imports_no_module_of_a_file(tmp_path):
    path = written(tmp_path, TEXT % "" + "lora: {megatron_config: {a: 1}, megatron_core: evil}\n")
    with pytest.raises(InputError, match=r"lora\.megatron_config runs code"):
        load_recipe(path)


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A recipe whose reward is code beside it, which leaves a trace where it runs."""
    from anomalyr1.training.recipes import dump_recipe

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evilmod.py").write_text(
        "from pathlib import Path\nPath('trace').touch()\ndef reward(answer, question): return 0.5\n"
    )
    rewards = {"evilmod:reward": 1.0, "evilmod.py:reward": 1.0}
    (tmp_path / "evil.yaml").write_text(dump_recipe(runs.recipe(rewards=rewards)))
    yield tmp_path
    sys.modules.pop("evilmod", None)
    sys.modules.pop(str(tmp_path / "evilmod.py"), None)


def test_a_recipe_runs_code_only_when_told(foreign, call):
    trace = foreign / "trace"
    code, out, err = call("train", "evil.yaml", "--plan")
    assert (code, err) == (0, "") and "reward evilmod:reward is code: not run by the plan" in out
    assert "the run will be refused: " in out and "--allow-code" in out  # a plan of what will not run says so
    code, out, _ = call("train", "evil.yaml", "--plan", "--allow-code")
    assert code == 0 and "will be refused" not in out and not trace.exists()
    for name, message in (("gone.py:reward", "no file 'gone.py'"), ("evilmod.py:rewrad", "mean 'reward'")):
        code, _, err = call("train", "evil.yaml", "--plan", f"rewards.{name}=1")
        assert code == 1 and message in err and not trace.exists()
    code, _, err = call("train", "evil.yaml")
    assert code == 1 and "the reward 'evilmod:reward' is code" in err and "--allow-code" in err
    code, _, err = call("train", "evil.yaml", "--plan", "rewards.other:x=1")
    assert code == 0 and not trace.exists()
    code, _, err = call("train", "evil.yaml", "--allow-code", "grpo.max_steps=0")  # control: told, it runs
    assert code == 1 and "max_steps" in err and trace.exists()
    trace.unlink()
    for name in ("evilmod", str(foreign / "evilmod.py")):
        sys.modules.pop(name)
    code, _, err = call("train", "evil.yaml", "rewards={evilmod.py:reward: 1}", "grpo.max_steps=0")
    assert code == 1 and "max_steps" in err and trace.exists()


def test_a_reward_in_a_file(tmp_path, monkeypatch):
    """Found from the working folder, run once, whatever else is called so; its errors name it."""
    from anomalyr1.rewards import load_reward

    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/mine.py").write_text(
        "calls = []\ndef short(a, q): calls.append(1); return 1.0\nlong = short\n"
    )
    short, long = load_reward("lab/mine.py:short"), load_reward("lab/mine.py:long/shuffled")
    assert short is long and short(None, None) == 1.0
    (tmp_path / "broken.py").write_text("def f(:\n")
    for name, message in (
        ("broken.py:f", "cannot import 'broken.py'"),
        ("mine.py:short", "no file 'mine.py' .* FOLDER/mine.py for a file beside a recipe in FOLDER"),
        ("lab/mine.py:shrt", "did you mean 'short'"),
        ("broken:f", "a file is named with its ending: broken.py:f"),
    ):
        sys.path_importer_cache.clear()
        with pytest.raises(InputError, match=message):
            load_reward(name)
    sys.modules.pop(str(tmp_path / "lab/mine.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def pay(answer, question): ...", None),
        ("if True:\n    pay = max", None),  # bound by a name, an import, or who knows what
        ("from math import sqrt as pay", None),
        ("from math import *", None),
        ("def play(answer, question): ...", "did you mean 'play'"),
        ("pay = (", "cannot read"),
        ("pay = " + "(" * 9000, "cannot read"),
        ("x\0", "cannot read"),
    ],
)
def test_a_reward_is_looked_at_without_being_run(tmp_path, monkeypatch, text, message):
    from anomalyr1.rewards import look_at_code

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(f"raise SystemExit\n{text}\n")
    for name in ("mine.py:pay", "mine.py:pay/shuffled"):
        with nullcontext() if message is None else pytest.raises(InputError, match=message):
            look_at_code(name)
