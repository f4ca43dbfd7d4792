"""What a verb takes beside processes that keep cores busy, as a multiple of its time on a quiet machine.

    python benchmarks/busy.py [--busy 1] [--images 6] [--runs 3] [--also-spinning]

`inspect` with nano runs as a process of its own, quiet and busy in turn. `--also-spinning` adds the same with
a thread a core that spins while it waits, which is what torch does where nobody says otherwise; on two cores
beside one busy process that takes minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SPINNING = {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "ACTIVE"}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=1)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--also-spinning", action="store_true")
    options = parser.parse_args()
    from anomalyr1.data.sources import load_sources

    ways: dict[str, dict[str, str]] = {"as the verb decides": {}}
    if options.also_spinning:
        ways["a thread a core, spinning"] = SPINNING
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "drawn"
        load_sources([f"drawn:seen?n={options.images}"], images)
        print(f"| threads | quiet, s | beside {options.busy} busy, s | times |\n|---|---|---|---|")
        for name, variables in ways.items():
            quiet, busy = [], []
            for run in range(options.runs):
                quiet.append(seconds(images, Path(folder) / f"{name}-quiet{run}", variables))
                with busy_processes(options.busy):
                    busy.append(seconds(images, Path(folder) / f"{name}-busy{run}", variables))
            ratio = statistics.median(b / q for b, q in zip(busy, quiet, strict=True))
            print(
                f"| {name} | {statistics.median(quiet):.1f} | {statistics.median(busy):.1f} | {ratio:.2f} |"
            )


def seconds(images: Path, out: Path, variables: dict[str, str]) -> float:
    """The time of the clock that `inspect` takes."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "anomalyr1", "inspect", str(images / "images"), "--out", str(out)],
        env=inherited | variables,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - began


@contextlib.contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Processes that never rest."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
