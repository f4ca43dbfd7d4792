"""What the memory allocator does to training on a CPU: seconds a step at the start and later, and memory, the same steps in turn.

    python benchmarks/allocators.py [--steps 200] [--threads 1]

glibc before 2.38 does not find the aligned blocks that PyTorch frees (sourceware.org bug 14581), so its heap breaks into pieces and
every step is slower than the one before. *kept* are the settings of glibc by which the Makefile keeps freed memory where tcmalloc is not
installed; *tcmalloc* is left out then (`apt-get install libtcmalloc-minimal4`).
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

from anomalyr1.training import loop, nano
from anomalyr1.training.pool import draw_shard

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**28)}
FOLDERS = ("/usr/lib", "/usr/lib64")


def allocators() -> dict[str, dict[str, str]]:
    """The environment of each allocator."""
    found = {"glibc": {}, "glibc, kept": KEPT}
    libraries = sorted(path for folder in FOLDERS for path in Path(folder).glob("**/libtcmalloc_minimal.so.4"))
    return found | ({"tcmalloc": {"LD_PRELOAD": str(libraries[0])}} if libraries else {})


def steps(out: Path, count: int, threads: int) -> None:
    """Train the last stage for `count` steps and print seconds a step of each quarter, and memory."""
    from anomalyr1.training.nano_stages import Stages

    torch.set_num_threads(threads)
    recipe = nano.Recipe()
    stages = Stages(out, recipe)
    master = loop.Master(dict(stages.studio.named_parameters()), recipe.both, torch.bfloat16)
    seconds = []
    for step in range(count):
        begin = time.perf_counter()
        stages.both(np.random.default_rng(step))["total"].backward()
        master.step(1e-5)
        seconds.append(time.perf_counter() - begin)
    quarters = ", ".join(f"{float(np.mean(part)):.2f}" for part in np.array_split(seconds, 4))
    resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    print(f"{quarters} s a step in each quarter of {count}, {int(resident.split()[1]) / 1024:.0f} MB at the end")


def main() -> None:
    """Print a line an allocator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        steps(given.inside, given.steps, given.threads)
        return
    print(" ".join(platform.libc_ver()))
    with tempfile.TemporaryDirectory() as folder:
        recipe = nano.Recipe()
        for number in range(2):
            draw_shard(Path(folder) / "pool", number, recipe.shard, recipe.shape.max_pixels)
        nano._prepare(Path(folder), recipe)
        command = [sys.executable, __file__, "--inside", folder, "--steps", str(given.steps), "--threads", str(given.threads)]
        for name, settings in allocators().items():
            inherited = {key: value for key, value in os.environ.items() if key not in (*KEPT, "LD_PRELOAD")}
            run = subprocess.run(command, env=inherited | settings, check=True, capture_output=True, text=True)
            print(f"{name}: {run.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
