"""Two processes on the CPU end where one does, and the shipped configurations are what accelerate reads in them."""

from __future__ import annotations

import json
import os
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

CONFIGS = Path(str(files("anomalyr1.recipes"))) / "accelerate"
HERE = Path(__file__).parent


def launcher(name):
    """accelerate's own reading of a shipped configuration: arguments, and the environment that it gives to processes."""
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
    assert fsdp.use_fsdp and environment["FSDP_VERSION"] == "2" and environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    zero, _ = launcher("zero3")
    assert zero.use_deepspeed and zero.zero_stage == 3 and zero.zero3_save_16bit_model is True


def started(folder, samples, settings, rank=0, size=1, environment=None, port=0):
    folder.mkdir(exist_ok=True)
    own = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    if size > 1:
        own |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(HERE / "processes.py"), str(folder), str(samples), json.dumps(settings)]
    with (folder / f"log{rank}.txt").open("w") as log:
        return subprocess.Popen(command, env=os.environ | own | (environment or {}), stdout=log, stderr=subprocess.STDOUT)


def run(folder, samples, settings, size=1, environment=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [started(folder, samples, settings, rank, size, environment, port) for rank in range(size)]
    try:
        codes = [one.wait(timeout=120) for one in processes]
    finally:
        for one in processes:
            one.kill()
    said = "".join((folder / f"log{rank}.txt").read_text()[-3000:] for rank in range(size))
    assert codes == [0] * size, said
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    drawn = data.load("drawn:dev?n=6&seed=1", folder=folder)
    (folder / "samples.jsonl").write_text("".join(one.to_json() + "\n" for one in drawn))
    return folder / "samples.jsonl"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, samples):
    folder = tmp_path_factory.mktemp("alone")
    return folder, run(folder, samples, {"per_device_train_batch_size": 16})


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_two_processes_are_as_one(tmp_path, samples, alone, name):
    folder, one = alone
    environment = {key: value for key, value in launcher(name)[1].items() if key.startswith(("FSDP", "ACCELERATE_USE_FSDP"))}
    two = run(tmp_path, samples, {"per_device_train_batch_size": 8}, size=2, environment=environment)
    assert two["sharded"] == (name == "fsdp2")
    assert two["forms"].get("trl", 0) == 0 and one["forms"].get("trl", 0) == 0
    assert two["gradients"].keys() == one["gradients"].keys()
    flat = [torch.cat([found["gradients"][key].flatten() for key in sorted(found["gradients"])]) for found in (one, two)]
    assert float((flat[0] - flat[1]).norm()) < 1e-4 * float(flat[0].norm())  # and that is not 0
    assert max(float((two["weights"][key] - one["weights"][key]).abs().max()) for key in one["weights"]) < 1e-5
    assert [line["step"] for line in read_lines(tmp_path / METRICS)] == [1, 2, 3]  # the main process alone writes
    assert len(read_lines(tmp_path / GROUPS)) == 1
    assert read_lines(tmp_path / EVALUATIONS) == read_lines(folder / EVALUATIONS)
