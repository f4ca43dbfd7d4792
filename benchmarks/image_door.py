"""What decoding in another process costs: `open_image` beside Pillow in this process, images of 1 megapixel.

    python benchmarks/image_door.py

Prints milliseconds by the clock (of 60 times the 10th fastest), processor milliseconds of both processes
together, and the seconds until the image that starts a decoder is open. Should hold on a quiet machine: at
most 3 ms more than Pillow alone.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from anomalyr1.images import decoder_process
from anomalyr1.images.door import open_image

TIMES = 60


def picture() -> Image.Image:
    """A smooth picture with grain."""
    y, x = np.mgrid[0:1000, 0:1000]
    grain = np.random.default_rng(7).integers(0, 24, (1000, 1000, 1))
    return Image.fromarray((np.stack([x, y, (x + y) // 2], 2) * 230 // 1000 + grain).astype(np.uint8))


def open_here(path: Path) -> Image.Image:
    """What Pillow alone does."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return image.convert("RGB")


def decoder_seconds() -> float:
    """Processor seconds of the decoders so far; 0 where the system does not say."""
    total = 0
    for decoder in decoder_process._pool.decoders:
        schedule = Path(f"/proc/{decoder._process.pid}/schedstat")
        total += int(schedule.read_text().split()[0]) if schedule.exists() else 0
    return total / 1e9


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds by the clock and of the processor, each the 10th smallest."""
    clocks, processors = [], []
    for _ in range(TIMES):
        clock, processor = time.perf_counter(), time.process_time() + decoder_seconds()
        work()
        processors.append((time.process_time() + decoder_seconds() - processor) * 1e3)
        clocks.append((time.perf_counter() - clock) * 1e3)
    return sorted(clocks)[9], sorted(processors)[9]


def main() -> None:
    """Print a line a format."""
    with tempfile.TemporaryDirectory() as folder:
        for name, options in (("a.jpg", {"quality": 90}), ("a.png", {}), ("a.bmp", {})):
            path = Path(folder, name)
            picture().save(path, **options)
            started = time.perf_counter()
            open_image(path)
            start = time.perf_counter() - started
            door, alone = measure(partial(open_image, path)), measure(partial(open_here, path))
            print(
                f"{name}: the door {door[0]:.1f} ms ({door[1]:.1f} of processors), Pillow alone "
                f"{alone[0]:.1f} ({alone[1]:.1f}), ratio {door[1] / alone[1]:.2f}; once {start:.2f} s"
            )


if __name__ == "__main__":
    main()
