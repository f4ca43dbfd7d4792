"""Two processes on the CPU end where one does, and the shipped configurations are what accelerate reads in
them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from anomalyr1 import data
from anomalyr1.training.recipes import shipped
from anomalyr1.training.run_folder import EVALUATIONS, GROUPS, METRICS, read_lines
from support.places import ROOT

CONFIGS = Path(str(files("anomalyr1.recipes"))) / "accelerate"
HERE = ROOT / "tests"


def launcher(name):
    """accelerate's own reading of a shipped configuration: arguments, and the environment that it gives to
    processes.
    """
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    parsed = launch_command_parser().parse_args(["--config_file", str(CONFIGS / f"{name}.yaml"), "x.py"])
    arguments = _validate_launch_command(parsed)[0]
    before = dict(os.environ)
    try:
        made = prepare_multi_gpu_env(arguments)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return arguments, {key: value for key, value in made.items() if before.get(key) != value}


def test_shipped_configurations_are_no_recipes():
    assert sorted(path.stem for path in CONFIGS.iterdir()) == ["ddp", "fsdp2", "zero3"]
    assert not {"ddp", "fsdp2", "zero3"} & set(shipped())


def test_accelerate_reads_them():
    ddp, _ = launcher("ddp")
    assert (ddp.multi_gpu, ddp.use_fsdp, ddp.use_deepspeed, ddp.num_processes) == (True, False, False, 2)
    fsdp, environment = launcher("fsdp2")
    assert (
        fsdp.use_fsdp
        and environment["FSDP_VERSION"] == "2"
        and environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    )
    zero, _ = launcher("zero3")
    assert zero.use_deepspeed and zero.zero_stage == 3 and zero.zero3_save_16bit_model is True


def started(folder, samples, settings, rank=0, size=1, environment=None, port=0):
    folder.mkdir(exist_ok=True)
    own = {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
    }
    if size > 1:
        own |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    command = [
        sys.executable,
        str(HERE / "support/processes.py"),
        str(folder),
        str(samples),
        json.dumps(settings),
    ]
    with (folder / f"log{rank}.txt").open("w") as log:
        return subprocess.Popen(
            command, env=os.environ | own | (environment or {}), stdout=log, stderr=subprocess.STDOUT
        )


def run(folder, samples, settings, size=1, environment=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [started(folder, samples, settings, rank, size, environment, port) for rank in range(size)]
    try:
        codes = [one.wait(timeout=400) for one in processes]
    finally:
        for one in processes:
            one.kill()
    said = "".join((folder / f"log{rank}.txt").read_text()[-3000:] for rank in range(size))
    assert codes == [0] * size, said
    return torch.load(folder / "found.pt", weights_only=True) if "recipe" not in settings else None


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    drawn = data.load("drawn:dev?n=6&seed=1", folder=folder)
    (folder / "samples.jsonl").write_text("".join(one.to_json() + "\n" for one in drawn))
    return folder / "samples.jsonl"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, samples):
    folder = tmp_path_factory.mktemp("alone")
    return folder, run(folder, samples, {"per_device_train_batch_size": 16, "max_completion_length": 48})


def weights_of(folder):
    return (folder / "final" / "model.safetensors").read_bytes()


def environment_of(name):
    """What a shipped configuration says about shards, in the environment."""
    return {
        key: value
        for key, value in launcher(name)[1].items()
        if key.startswith(("FSDP", "ACCELERATE_USE_FSDP"))
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_two_processes_are_as_one(tmp_path, samples, alone, name):
    folder, one = alone
    settings = {"per_device_train_batch_size": 8, "max_completion_length": 48}
    two = run(tmp_path, samples, settings, size=2, environment=environment_of(name))
    assert two["sharded"] == (name == "fsdp2")
    assert not any("trl" in forms for forms in two["forms"] + one["forms"])
    assert (two["forms"][0] == two["forms"][1]) == (
        name == "fsdp2"
    )  # shards are gathered by all: they agree, and else would not
    assert two["gradients"].keys() == one["gradients"].keys()
    flat = [
        torch.cat([found["gradients"][key].flatten() for key in sorted(found["gradients"])])
        for found in (one, two)
    ]
    assert float((flat[0] - flat[1]).norm()) < 1e-4 * float(flat[0].norm())  # and that is not 0
    assert (
        max(float((two["weights"][key] - one["weights"][key]).abs().max()) for key in one["weights"]) < 1e-5
    )
    assert [line["step"] for line in read_lines(tmp_path / METRICS)] == [
        1,
        2,
        3,
    ]  # the main process alone writes
    assert len(read_lines(tmp_path / GROUPS)) == 1
    assert read_lines(tmp_path / EVALUATIONS) == read_lines(folder / EVALUATIONS)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("section", "name", "lora"), [("grpo", "fsdp2", False), ("sft", "fsdp2", True), ("sft", "ddp", False)]
)
def test_a_run_of_two_processes_ends_with_the_policy_of_one(tmp_path, section, name, lora, monkeypatch):
    """From the recipe to `final/`, and again from the checkpoint halfway; a group of GRPO lies in both
    processes.
    """
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    from anomalyr1.training import grpo
    from anomalyr1.training.run import train
    from support import processes, training_runs

    size = 8 if section == "grpo" else 2
    plain = {
        "adam_epsilon": 1.0,
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "learning_rate": 0.1,
        "max_steps": 2,
        "save_steps": 1,
    }
    grouped = {"num_generations": size} if section == "grpo" else {}
    adapters = (
        {"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False} if lora else None
    )

    def recipe(rows):
        return training_runs.recipe(
            section,
            lora=adapters,
            data=("drawn:dev?n=4&seed=0",),
            settings={**plain, **grouped, "per_device_train_batch_size": rows},
        )

    monkeypatch.setattr(grpo, "roll_out", processes.made_up)
    train(recipe(size), tmp_path / "alone", say=lambda line: None)
    settings = {"recipe": recipe(size // 2).model_dump(mode="json"), "first": size // 2}
    run(tmp_path / "two", "-", settings, size=2, environment=environment_of(name))
    one, two = tmp_path / "alone", tmp_path / "two" / "run"
    start, alone, both = (
        AutoModelForImageTextToText.from_pretrained(x).state_dict()
        for x in (recipe(1).model, one / "final", two / "final")
    )
    assert max(float((alone[key] - both[key]).abs().max()) for key in alone) < 1e-5
    assert max(float((alone[key] - start[key]).abs().max()) for key in alone) > 1e-4
    if lora:
        adapter, other = (load_file(x / "adapter" / "adapter_model.safetensors") for x in (one, two))
        assert adapter.keys() == other.keys() and all(
            torch.allclose(adapter[key], other[key], atol=1e-5) for key in adapter
        )
    if section == "grpo":
        groups = [read_lines(x / GROUPS) for x in (one, two)]
        assert len(groups[0]) == 2 and len(groups[0][0]["completions"]) == size
        assert [{**group, "image": ""} for group in groups[0]] == [
            {**group, "image": ""} for group in groups[1]
        ]
    before = weights_of(two)
    shutil.rmtree(two / "final")
    shutil.rmtree(two / "checkpoint-2")
    run(tmp_path / "two", "-", settings, size=2, environment=environment_of(name))
    assert json.loads((two / "run.json").read_text())["resumed"][0]["from"] == "checkpoint-1"
    assert weights_of(two) == before
