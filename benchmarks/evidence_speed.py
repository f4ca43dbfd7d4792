"""What evidence costs: seconds and memory of learning and measuring, on drawn parts of 1 megapixel.

    python benchmarks/evidence_speed.py [--images 5000] [--parts 200]

Times are the least of a few tries, by the clock and of the processor, beside decoding the same files by the
clock. Other work on the machine makes all of them larger: run it on quiet cores. Memory is that of this
process (decoding has processes of its own).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomalyr1 import Bank
from anomalyr1.evidence.gathering import open_ahead
from anomalyr1.images.door import open_image


def draw(folder: Path, count: int, side: int) -> list[Path]:
    """So many JPEG files of square parts: a brushed plate, a little different each time."""
    folder.mkdir()
    paths = [folder / f"{number:04}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        rows = 140 + 30 * np.sin(np.linspace(0, 40, side) + rng.uniform(0, 1))
        pixels = rows[:, None] + rng.normal(0, 6, (side, side))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB").save(path, quality=92)
    return paths


def seconds(action: Callable[[], Any], tries: int = 3) -> tuple[float, float]:
    """The least of a few tries: by the clock, and of the processor."""
    clock, processor = [], []
    for _ in range(tries):
        begin, begin_processor = time.perf_counter(), time.process_time()
        action()
        clock.append(time.perf_counter() - begin)
        processor.append(time.process_time() - begin_processor)
    return min(clock), min(processor)


def memory() -> float:
    """Megabytes of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--parts", type=int, default=200)
    options = parser.parse_args()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{os.cpu_count()} cores, {threads} threads, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        large = draw(Path(folder) / "large", options.parts, 1000)
        small = draw(Path(folder) / "small", min(100, options.images), 128)
        bank = Bank.learn(large[:8])
        picture = open_image(large[9])
        decoding, _ = seconds(lambda: open_image(large[9]))
        clock, processor = seconds(lambda: bank.measure(picture))
        print(
            f"measure 1 Mpx: {clock:.3f} s ({processor:.3f} s of processor), {clock / decoding:.1f} times "
            f"its decoding ({decoding:.3f} s), {len(bank.patches):,} patches"
        )
        few = large[:32]
        opening, _ = seconds(lambda: list(open_ahead(few)), 1)
        for learned in (8, 32):
            clock, processor = seconds(lambda count=learned: Bank.learn(few, learned=count), 1)
            print(
                f"learn {len(few)} parts ({learned} learned): {clock:.1f} s ({processor:.1f} s of the "
                f"processor), {clock / opening:.1f} times opening them ({opening:.2f} s)"
            )
        before = memory()
        bank = Bank.learn(large, learned=len(large))
        print(f"learn {len(large)} parts, all learned: memory {before:.0f} -> {memory():.0f} MB")
        bank.write(Path(folder) / "x.bank")
        print(f"bank of {len(large)} parts: {(Path(folder) / 'x.bank').stat().st_size / 1e6:.1f} MB")
        for path in small:
            bank.measure(path)
        before = memory()
        for number in range(options.images):
            bank.measure(small[number % len(small)])
        print(f"measure {options.images:,} small images: memory {before:.0f} -> {memory():.0f} MB")


if __name__ == "__main__":
    main()
