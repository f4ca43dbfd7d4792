"""`anomalyr1 train`: a recipe in, a run folder out, that resumes to the bit after any kill."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from anomalyr1.data import sources
from anomalyr1.evaluation import provenance
from anomalyr1.inspection.picture_guard import TaughtLook
from anomalyr1.policy.load import load_policy
from anomalyr1.policy.taught import read_taught
from anomalyr1.training import checkpoints, reward_functions, run, run_folder
from anomalyr1.training.recipes import read_recipe
from anomalyr1.training.resolved import Resolved, prompt_style
from anomalyr1.training.run import train
from anomalyr1.training.run_folder import read_groups
from anomalyr1.training.trainers import NEVER
from anomalyr1.types import InputError, SetupError
from support import training_runs as runs

KILLS = int(os.environ.get("ANOMALYR1_KILLS", "2"))
"""How often the run of `test_killed_anywhere` is killed; every second time inside a save."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    said = []
    train(runs.recipe(), out, say=said.append, command="anomalyr1 train mine.yaml")
    return out, said


def test_the_run_folder(whole):
    out, said = whole
    assert {one.name for one in out.iterdir()} >= {
        "recipe.yaml",
        "run.json",
        "metrics.jsonl",
        "groups.jsonl",
        "samples",
        "final",
        "data",
    }
    assert read_recipe(out / "recipe.yaml") == runs.recipe()
    loaded = sources.load_source(runs.DATA, {}, out / "data" / "drawn")
    provenance_of_run = provenance.examine(str(out / "final"), loaded)
    assert provenance_of_run.trained_on == (runs.DATA,)
    assert provenance_of_run.overlaps["exact"] == len(runs.lines(out / "learned.jsonl")) > 0
    record = json.loads((out / "run.json").read_text())
    assert record["command"] == "anomalyr1 train mine.yaml" and record["data fingerprint"].startswith(
        "sha256:"
    )
    assert record["data"] == [{"spec": runs.DATA, "licence": sources.LICENCES["drawn"]}]
    assert record["versions"]["trl"].startswith("1.16") and record["steps"] == 4
    assert [one["step"] for one in runs.lines(out / "metrics.jsonl")] == [1, 2, 3, 4]
    taught = read_taught(out / "final")
    assert (taught.style, taught.text, taught.max_pixels) == ("mmad", None, 12_544)
    assert taught.base == runs.recipe().model and record["taught"] == taught.model_dump()
    assert "AutoProcessor" in (out / "final" / "README.md").read_text()
    assert said[0].startswith("plan: 4 steps") and said[-1] == f"trained policy: {out / 'final'}"


def test_groups_are_what_the_rewards_saw(whole):
    out, _ = whole
    groups = read_groups(out)
    assert len(groups) == 4 * 2
    for group in groups:
        assert len(group.completions) == 4 and set(group.rewards) == {"support.training_runs:reward"}
        expected = [runs.reward(answer, group.question) for answer in group.answers()]
        assert list(group.rewards["support.training_runs:reward"]) == pytest.approx(expected)
        assert abs(sum(group.advantages)) < 1e-4
    logged = [one["reward"] for one in runs.lines(out / "metrics.jsonl")]
    means = [
        sum(sum(group.rewards["support.training_runs:reward"]) for group in groups if group.step == step) / 8
        for step in (1, 2, 3, 4)
    ]
    assert logged == pytest.approx(means)


def test_a_completion_is_parsed_once(tmp_path, monkeypatch):
    """For all rewards, the figures, `groups.jsonl` and the page."""
    texts = []

    def counting(text, *rest, _parse=reward_functions.parse):
        texts.append(text)
        return _parse(text, *rest)

    monkeypatch.setattr(reward_functions, "parse", counting)
    monkeypatch.setattr(run_folder, "parse", None)
    recipe = runs.recipe(
        rewards={"support.training_runs:reward": 1.0, "roam": 1.0}, settings={"max_steps": 1}
    ).model_copy(update={"data": ("drawn:dev?n=8&seed=0",)})
    train(recipe, tmp_path / "run", say=lambda line: None)
    monkeypatch.undo()
    written = [text for group in read_groups(tmp_path / "run") for text in group.completions]
    assert sorted(texts) == sorted(written) and (tmp_path / "run" / "samples").is_dir()
    # Eight pictures are enough to know strange ones by (`picture_guard`).
    assert TaughtLook.read(tmp_path / "run" / "final").images == 8
    assert TaughtLook.read(tmp_path / "run") is None


def test_the_final_policy_loads_here_and_in_plain_transformers(whole):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    final = whole[0] / "final"
    policy = load_policy(str(final))
    plain, processor = (
        AutoModelForImageTextToText.from_pretrained(final),
        AutoProcessor.from_pretrained(final),
    )
    assert policy.max_pixels == runs.recipe().max_pixels and processor.chat_template
    ids = torch.arange(5, 25)[None]
    assert torch.equal(policy.model(input_ids=ids).logits, plain(input_ids=ids).logits)
    start = load_policy(runs.recipe().model)
    assert not torch.equal(policy.model.lm_head.weight, start.model.lm_head.weight)


def test_adapters_and_frozen_vision(tmp_path):
    recipe = runs.recipe(
        "sft",
        lora={"r": 4, "target_modules": ["q_proj", "down_proj"]},
        freeze="vision",
        settings={"max_steps": 2},
    )
    train(recipe, tmp_path / "run", say=lambda line: None)
    from safetensors.torch import load_file

    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert adapter and not any("visual" in name for name in adapter)
    start, end = load_policy(recipe.model).model, load_policy(str(tmp_path / "run" / "final")).model
    changed = {
        name
        for (name, a), b in zip(start.named_parameters(), end.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert changed and all(
        name.endswith(("q_proj.weight", "down_proj.weight")) and "visual" not in name for name in changed
    )


def test_frozen_vision_without_adapters(tmp_path):
    recipe = runs.recipe(freeze="vision", settings={"max_steps": 1})
    train(recipe, tmp_path / "run", say=lambda line: None)
    start, end = load_policy(recipe.model).model, load_policy(str(tmp_path / "run" / "final")).model
    same = {
        name: torch.equal(a, b)
        for (name, a), b in zip(start.named_parameters(), end.parameters(), strict=True)
    }
    assert all(value for name, value in same.items() if "visual" in name)
    assert not any(value for name, value in same.items() if name.endswith("q_proj.weight"))


@pytest.mark.parametrize("lora", [False, True])
def test_the_policy_of_a_run_under_zero_3(tmp_path, lora):
    """DeepSpeed itself is not here: accelerate's own gathering meets a stand-in for its engine, the only
    thing that it can ask.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedType
    from peft import LoraConfig, get_peft_model
    from transformers.integrations import deepspeed

    from anomalyr1.training.run import _write_policy

    class Engine:
        def __init__(self, state):
            self._zero3_consolidated_16bit_state_dict, self.zero_gather_16bit_weights_on_model_save = (
                (lambda: state),
                (lambda: True),
            )

        def is_zero3(self):  # what transformers asks of its configuration
            return True

    recipe = runs.recipe()
    policy = load_policy(recipe.model)
    model, start = policy.model, policy.model.lm_head.weight.clone()
    if lora:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    changed = next(
        key for key in state if key.endswith("q_proj.lora_B.default.weight" if lora else "q_proj.weight")
    )
    state[changed] += 1
    engine = Engine(state)
    accelerator = SimpleNamespace(
        distributed_type=DistributedType.DEEPSPEED, deepspeed_config={"zero_optimization": {"stage": 3}}
    )
    accelerator.get_state_dict = lambda given: Accelerator.get_state_dict(accelerator, given)
    accelerator.unwrap_model = lambda given: given
    deepspeed.set_hf_deepspeed_config(engine)
    try:
        _write_policy(
            SimpleNamespace(model=model, model_wrapped=engine, accelerator=accelerator),
            policy,
            Resolved(recipe, {}, {}, prompt_style(recipe), None),
            tmp_path,
            samples=(),
        )
    finally:
        deepspeed.unset_hf_deepspeed_config()
    found = load_policy(str(tmp_path / "final")).model
    base = load_policy(recipe.model).model
    moved = [
        name
        for (name, a), b in zip(found.named_parameters(), base.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert (
        moved
        and all(name.endswith("q_proj.weight") for name in moved)
        and torch.equal(found.lm_head.weight, start)
    )
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file() == lora


@pytest.mark.parametrize("section", ["sft", "grpo"])
def test_one_process_for_several_gpus_is_refused(tmp_path, section, monkeypatch):
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(
        SetupError,
        match=r"one process sees 2 GPUs; start one a GPU with accelerate launch .* CUDA_VISIBLE_DEVICES=0",
    ):
        train(runs.recipe(section), tmp_path / "run", say=lambda line: None)


def test_what_vllm_must_not_write_is_added_to_the_recipes_own_biases(tmp_path, monkeypatch):
    seen = {}

    class StandIn:
        def __init__(self, generation_kwargs, **_):
            seen.update(generation_kwargs)
            raise InterruptedError

    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", StandIn)
    own = {"logit_bias": {"5": -1.0}, "seed": 3}
    with pytest.raises(InterruptedError):
        train(
            runs.recipe(settings={"use_vllm": True, "vllm_mode": "colocate", "generation_kwargs": own}),
            tmp_path / "run",
        )
    suppressed = load_policy(runs.recipe().model).suppressed_ids
    assert seen == {"seed": 3, "logit_bias": {5: -1.0, **dict.fromkeys(suppressed, NEVER)}}


# Resume.


def test_what_cannot_be_begun_or_resumed(whole, tmp_path):
    out, _ = whole
    with pytest.raises(InputError, match="holds a run already; go on with it with --resume"):
        train(runs.recipe(), out)
    with pytest.raises(
        InputError,
        match=(
            r"begun with another recipe, so it cannot be resumed: grpo.learning_rate: 0.001 -> 0.002; "
            r"seed: 42 -> 1"
        ),
    ):
        train(runs.recipe(seed=1, settings={"learning_rate": 2e-3}), out, resume=True)
    with pytest.raises(InputError, match="there is no run in"):
        train(runs.recipe(), tmp_path / "none", resume=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="holds something that is no run"):
        train(runs.recipe(), tmp_path)


def test_resume_refuses_other_data(whole, tmp_path):
    out = copied(whole[0], tmp_path)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "data fingerprint": "sha256:other"}))
    with pytest.raises(
        InputError,
        match="begun on other ground, so it cannot be resumed: data fingerprint was 'sha256:other'",
    ):
        train(runs.recipe(), out, resume=True, say=lambda line: None)


def test_resume_refuses_other_held_out_data(tmp_path):
    asked = runs.recipe(held_out=("drawn:dev?n=4&seed=9",), settings={"max_steps": 1})
    train(asked, tmp_path / "run", say=lambda line: None)
    shutil.rmtree(tmp_path / "run" / "final")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["held-out fingerprint"] != record["data fingerprint"]
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "held-out fingerprint": "sha256:other"}))
    with pytest.raises(InputError, match="cannot be resumed: held-out fingerprint was 'sha256:other'"):
        train(asked, tmp_path / "run", resume=True, say=lambda line: None)


def test_the_licence_of_a_split_is_that_of_its_data(tmp_path):
    from anomalyr1.data import splits as fewshot
    from anomalyr1.data.protocols import SplitPlan
    from anomalyr1.training.run_record import _licence

    assert _licence("drawn:dev?n=3&seed=0").startswith("drawn by this package")
    no_leaks = fewshot.FoundLeaks(allowed=False, counts={}, found=())
    specs = {"spec": "drawn:dev?n=9&seed=0", "test_spec": "mvtec:/data/mvtec"}
    split = fewshot.Manifest(
        **specs, plan=SplitPlan(protocol="given"), train=(), test=(), counts={}, leaks=no_leaks
    )
    fewshot.write(tmp_path / "parts.json", split)
    assert _licence(f"split:{tmp_path / 'parts.json'}").startswith("drawn by this package")
    assert _licence(f"split:{tmp_path / 'parts.json'}", "test").startswith("CC BY-NC-SA 4.0")


def test_resume_refuses_another_number_of_processes(whole, tmp_path):
    out = copied(whole[0], tmp_path)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "processes": 4}))
    with pytest.raises(InputError, match="cannot be resumed: processes was 4 and is now 1"):
        train(runs.recipe(), out, resume=True, say=lambda line: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"num_generations": 6}}, "must be divisible by num_generations"),
        (
            {"settings": {"router_aux_loss_coef": 0.1}},
            "not a Mixture-of-Experts model",
        ),  # only the trainer knows
        ({"held_out": ("drawn:dev?n=1&seed=9",)}, "balanced accuracy needs good and defective ones"),
    ],
)
def test_what_is_refused_leaves_no_run_behind(tmp_path, changes, message):
    out = tmp_path / "run"
    with pytest.raises(InputError, match=message):
        train(runs.recipe(**changes), out, say=lambda line: None)
    assert not (out / "recipe.yaml").exists() and not (out / "run.json").exists()
    assert (
        run._resume_point(runs.recipe(), out, resume=False).checkpoint is None
    )  # the corrected run may begin there


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"report_to": ["wandb"]}, "wandb"),
        ({"optim": "adamw_8bit"}, "bitsandbytes"),
        ({"optim": "adafactor"}, None),
    ],
)
def test_what_is_not_installed_is_told_before_the_run_begins(tmp_path, changes, message):
    if message and importlib.util.find_spec(message):
        pytest.skip(f"{message} is installed")

    def begin():
        return train(
            runs.recipe("sft", settings={**changes, "max_steps": 1}), tmp_path / "run", say=lambda line: None
        )

    if message is None:
        assert (begin() / "config.json").is_file()
        return
    with pytest.raises(
        SetupError, match=f"section sft of the recipe needs what is not installed: .*{message}"
    ):
        begin()
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_kill_while_the_record_is_written_leaves_a_folder_that_may_be_begun(tmp_path):
    for name in ("run.json", ".recipe.yaml.17.part"):
        (tmp_path / name).write_text("{}")
    assert run._resume_point(runs.recipe(), tmp_path, resume=False).checkpoint is None


def test_no_memory_on_the_cpu(tmp_path, monkeypatch):
    def no_memory(*_, **__):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "
            "tried"
        )

    monkeypatch.setattr("anomalyr1.training.trainers.make_trainer", no_memory)
    with pytest.raises(
        SetupError, match=r"not enough memory .*; make per_device_train_batch_size or max_pixels smaller"
    ):
        train(runs.recipe(), tmp_path / "run", say=lambda line: None)


def copied(run, folder):
    """The run as it was before it wrote its policy."""
    shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("final"))
    return folder / "run"


def test_a_flipped_byte_in_the_newest_checkpoint(whole, tmp_path):
    out = copied(whole[0], tmp_path)
    damaged = out / "checkpoint-4" / "optimizer.pt"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    said: list[str] = []
    train(runs.recipe(), out, resume=True, say=said.append)
    assert (
        "checkpoint-4 is passed over: optimizer.pt has changed" in said
        and "going on from checkpoint-3" in said
    )
    assert runs.written(out) == runs.written(whole[0])
    assert json.loads((out / "run.json").read_text())["resumed"][0]["from"] == "checkpoint-3"


def test_a_run_killed_between_its_last_checkpoint_and_its_policy(whole, tmp_path):
    out = copied(whole[0], tmp_path)
    train(runs.recipe(), out, resume=True, say=lambda line: None)
    assert runs.written(out) == runs.written(whole[0])
    assert not (out / "checkpoint-5").exists()
    assert json.loads((out / "run.json").read_text())["resumed"][0]["from"] == "checkpoint-4"


@pytest.mark.parametrize(
    "lora", [None, {"r": 4, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.2}]
)
def test_sft_goes_on_to_the_same_bits(tmp_path, lora):
    """Packed questions, shuffled data, dropout: all that a resumed run must draw alike."""
    recipe = runs.recipe("sft", lora=lora)
    train(recipe, tmp_path / "whole", say=lambda line: None)
    out = copied(tmp_path / "whole", tmp_path)
    for step in (3, 4):
        shutil.rmtree(out / f"checkpoint-{step}")
    said: list[str] = []
    train(recipe, out, resume=True, say=said.append)
    assert "going on from checkpoint-2" in said
    (metrics, weights), (again, resumed) = (runs.told(folder) for folder in (tmp_path / "whole", out))
    assert [one["step"] for one in metrics] == [1, 2, 3, 4] and len({one["loss"] for one in metrics}) == 4
    assert again == metrics and resumed == weights


def test_a_finished_run_is_not_run_again(whole):
    said: list[str] = []
    assert train(runs.recipe(), whole[0], resume=True, say=said.append) == whole[0] / "final"
    assert len(said) == 1 and "is finished" in said[0]


def _run(recipe, out, resume):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    train(recipe, out, resume=resume, say=lambda line: None)


def _inode(path):
    try:
        return path.stat().st_ino
    except FileNotFoundError:  # it was trimmed just now
        return None


def killed(context, out, chance, in_save):
    """Start or resume the run and kill it: inside one of its next saves, or at a random moment, mostly after
    it has made a step.

    Gives whether the kill left an unfinished checkpoint; None = the run ended before.
    """
    process = context.Process(target=_run, args=(runs.recipe(), out, (out / "recipe.yaml").exists()))
    process.start()
    before = {path.name: _inode(path) for path in out.glob("checkpoint-*")}
    spare, early, begin, ready = chance.randrange(3), chance.random() < 0.3, time.monotonic(), None

    def fresh(complete):
        found = [one for one in out.glob("checkpoint-*") if _inode(one) not in (None, before.get(one.name))]
        return sum((one / checkpoints.MARKER).exists() == complete for one in found)

    while process.is_alive():
        now = time.monotonic()
        if ready is None and (fresh(True) or fresh(False) or (early and now > begin + 1)):
            ready = now + chance.uniform(0, 3)
        if (fresh(False) and fresh(True) >= spare) if in_save else (ready is not None and now > ready):
            time.sleep(chance.uniform(0, 0.02) if in_save else 0)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            return fresh(False) > 0
        time.sleep(0.001)
    process.join()
    assert process.exitcode == 0
    return None


@pytest.mark.timeout(3600)
def test_killed_anywhere_it_ends_with_the_same_bits(whole, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["trl", "anomalyr1.training.grpo", "anomalyr1.training.run", "support.training_runs"]
    )
    chance, kills, rounds = random.Random(0), [], 0

    def wanted():
        return len(kills) < KILLS or sum(kills) < KILLS // 2

    while wanted() and len(kills) < 4 * KILLS:
        rounds += 1
        out = tmp_path / f"run{rounds}"
        while (
            wanted()
            and (found := killed(context, out, chance, len(kills) % 2 == 0 or len(kills) >= KILLS))
            is not None
        ):
            kills.append(found)
        if not (out / "final").exists():
            _run(runs.recipe(), out, (out / "recipe.yaml").exists())
        assert runs.written(out) == runs.written(whole[0])
        assert [one["step"] for one in runs.lines(out / "metrics.jsonl")] == [1, 2, 3, 4]
    print(f"{len(kills)} kills, {sum(kills)} of them inside a save; {rounds} runs")
    assert sum(kills) >= KILLS // 2


def test_the_verb(tmp_path, call, monkeypatch):
    from anomalyr1.training.recipes import dump_recipe

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(dump_recipe(runs.recipe("sft")))
    code, out, _ = call("train", "mine.yaml", "train.max_steps=1", "--plan")
    assert (
        code == 0
        and out.startswith("plan: 1 steps over 26 prompts of 3 samples")
        and not (tmp_path / "runs").exists()
    )
    code, out, _ = call("train", "mine.yaml", "train.max_steps=1")
    assert code == 0 and (tmp_path / "runs" / "mine" / "final" / "config.json").is_file()
    code, _, err = call("train", "mine.yaml")
    assert code == 1 and "holds a run already" in err
    code, _, err = call("train", "nano-gpro")
    assert code == 1 and "did you mean 'nano-grpo'" in err
    code, _, err = call("train", "mine.yaml", "lora.rank=3", "--out", "other")
    assert (
        code == 1
        and "section lora of the recipe has no key 'rank'" in err
        and not (tmp_path / "other" / "recipe.yaml").exists()
    )
