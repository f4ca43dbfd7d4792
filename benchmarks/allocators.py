"""What the memory allocator does to training on a CPU: seconds and memory of the same steps, turn by turn.

    python benchmarks/allocators.py [--turns 12] [--threads 1]

With glibc's own allocator (seen with 2.36) memory grows and every step is slower than the one before: batches
of ever new sizes break its heap into pieces. *kept* are the settings by which it keeps what is freed;
*tcmalloc* is left out where it is not installed (`apt-get install libtcmalloc-minimal4`).
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from anomalyr1.nano import loop, make
from anomalyr1.nano.pool import draw_shard
from anomalyr1.nano.recipe import NanoRecipe
from anomalyr1.nano.stage_losses import StageLosses
from anomalyr1.reproduction.study import KEEP_MEMORY

TCMALLOC = "libtcmalloc_minimal.so.4"


def allocators() -> dict[str, dict[str, str]]:
    """The environment of each allocator."""
    environments = {"glibc": {}, "glibc, kept": KEEP_MEMORY}
    # where the Makefile looks
    libraries = [*Path("/usr/lib").glob(f"*/{TCMALLOC}"), *Path("/usr").glob(f"lib*/{TCMALLOC}")]
    if libraries:
        environments["tcmalloc"] = {"LD_PRELOAD": str(libraries[0])}
    return environments


def steps(out: Path, count: int, threads: int) -> None:
    """Train the last stage `count` steps a line of the input; print seconds a step and memory in MB."""
    torch.set_num_threads(threads)
    recipe = NanoRecipe()
    losses = StageLosses(out, recipe)
    master = loop.MasterWeights(dict(losses.module.named_parameters()), recipe.both, torch.bfloat16)
    for turn, _ in enumerate(sys.stdin):
        begin = time.perf_counter()
        for step in range(count):
            losses.both(np.random.default_rng([turn, step]))["total"].backward()
            master.step(1e-5)
        status = Path("/proc/self/status").read_text().splitlines()
        resident = next(line for line in status if line.startswith("RssAnon"))
        print(f"{(time.perf_counter() - begin) / count} {int(resident.split()[1]) / 1024}", flush=True)


def main() -> None:
    """Print a line an allocator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10, help="in a turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        steps(options.inside, options.steps, options.threads)
        return
    print(" ".join(platform.libc_ver()))
    with tempfile.TemporaryDirectory() as folder:
        recipe = NanoRecipe()
        for number in range(2):
            draw_shard(Path(folder) / "pool", number, recipe.shard, recipe.shape.max_pixels)
        make._prepare_start(Path(folder), recipe)
        numbers = ["--steps", str(options.steps), "--threads", str(options.threads)]
        command = [sys.executable, __file__, "--inside", folder, *numbers]
        plain = {key: value for key, value in os.environ.items() if key not in (*KEEP_MEMORY, "LD_PRELOAD")}
        environments = allocators()
        processes = [
            subprocess.Popen(command, env=plain | more, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for more in environments.values()
        ]
        rounds = [[_turn(process) for process in processes] for _ in range(options.turns)]
        for process in processes:
            process.communicate()
    turns = np.array(rounds)  # (turns, allocators, 2)
    quarters = [part.mean(0) for part in np.array_split(turns, 4)]
    for i, name in enumerate(environments):
        seconds = ", ".join(f"{part[i, 0]:.2f}" for part in quarters)
        total, megabytes = options.turns * options.steps, turns[-1, i, 1]
        print(f"{name}: {seconds} s a step in each quarter of {total} steps, {megabytes:.0f} MB at the end")


def _turn(process: subprocess.Popen[bytes]) -> list[float]:
    """One turn of a process: seconds a step and MB."""
    process.stdin.write(b"\n")
    process.stdin.flush()
    return [float(number) for number in process.stdout.readline().split()]


if __name__ == "__main__":
    main()
