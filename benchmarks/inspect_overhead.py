"""What an inspection costs beside the model: milliseconds an image of each part, on images of one megapixel.

    python benchmarks/inspect_overhead.py [--images 48] [--side 1000] [--model nano]

The real inspector and the local engine run over copies of one drawn picture and leave out the model alone:
the completions are those that it wrote to the first copy. Parts are CPU milliseconds without the parts inside
them, so they hardly depend on what else runs. "decode" is Pillow's decoder, "processor" makes patches of
pixels and belongs to the model, "fsync" is the time that the disk takes; "beside" is all CPU time but
decoding and processor. "wall" is the whole run, with images opened and resized on several threads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageFile

from anomalyr1 import prompts, records
from anomalyr1.drawn.draw import draw
from anomalyr1.engines import local
from anomalyr1.engines.engine import Completion, Sampling
from anomalyr1.engines.local import LocalEngine
from anomalyr1.images.door import LoadedImage
from anomalyr1.inspection import inspector, verdicts
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.policy.load import load_policy
from anomalyr1.prompts import Prompt
from anomalyr1.types import Sample

FORMS = ("colour.png", "colour.jpg", "colour.bmp", "grey.png")
PARTS = {
    "decode": [(ImageFile.ImageFile, "load")],
    "open": [(inspector, "open_image")],
    "resize": [(local, "resize")],
    "prompt": [(prompts, "build"), (LocalEngine, "_encode_prompts")],
    "processor": [(LocalEngine, "_pixels")],
    "parse": [(local, "parse_with_place"), (verdicts, "conclude")],
    "record": [(records.Writer, "append"), (Inspector, "_judge")],
    "fsync": [(os, "fsync")],
}
"""What is timed; a part is what its functions take without the parts that they call."""


class Without(LocalEngine):
    """The local engine without its model: it says what it said before."""

    said: dict[str, Completion] | None = None

    def complete(
        self, asked: Sequence[Prompt], opened: Mapping[Path, LoadedImage], sampling: Sampling
    ) -> list[Completion]:
        """Everything but the model; the first call asks it."""
        if self.said is None:
            found = super().complete(asked, opened, sampling)
            self.said = {prompt.question.kind: one for prompt, one in zip(asked, found, strict=True)}
            return found
        self._encode_prompts(asked, opened, sampling)
        self._pixels(list(opened.values()))
        completions = [self.said[prompt.question.kind] for prompt in asked]
        for prompt, completion in zip(asked, completions, strict=True):
            local.parse_with_place(completion.text, prompt.question.options, completion.frame)
        return completions


class Clock:
    """Adds up what parts take, in every thread without the parts inside."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = threading.local()

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, timed as a part."""

        def run(*given: Any, **more: Any) -> Any:
            outer, self._inside.spent = getattr(self._inside, "spent", 0.0), 0.0
            began, began_wall = time.thread_time(), time.perf_counter()
            try:
                return work(*given, **more)
            finally:
                spent = time.thread_time() - began
                self.seconds[name] += (
                    time.perf_counter() - began_wall if name == "fsync" else spent - self._inside.spent
                )
                self._inside.spent = outer + spent

        return run


@contextlib.contextmanager
def watched() -> Iterator[Clock]:
    """A clock over all parts."""
    clock = Clock()
    with contextlib.ExitStack() as patches:
        for name, places in PARTS.items():
            for owner, attribute in places:
                patches.enter_context(
                    mock.patch.object(owner, attribute, clock.timed(name, getattr(owner, attribute)))
                )
        yield clock


def picture(side: int, form: str, folder: Path) -> Path:
    """A drawn plate of `side` x `side` pixels with a camera's noise."""
    drawn = Image.fromarray(draw(3, "metal plate").image).resize((side, side), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 2, (side, side, 3))
    whole = Image.fromarray(np.clip(np.asarray(drawn) + noise, 0, 255).astype(np.uint8))
    path = folder / form
    (whole.convert("L") if form.startswith("grey") else whole).save(path, quality=92)
    return path


def run(engine: Without, source: Path, count: int) -> dict[str, float]:
    """Milliseconds an image of every part over `count` copies."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            Path(shutil.copy(source, Path(folder) / f"{number:04}{source.suffix}")) for number in range(count)
        ]
        samples = [Sample(id=path.as_posix(), image=path) for path in paths]
        runs = Inspector(engine, masks="box")
        runs.run(samples[:8], Path(folder) / "warm.jsonl")
        with watched() as clock:
            began, used = time.perf_counter(), time.process_time()
            runs.run(samples, Path(folder) / "inspections.jsonl")
            wall, used = time.perf_counter() - began, time.process_time() - used
    each = {name: 1000 * clock.seconds[name] / count for name in PARTS}
    each["wall"] = 1000 * wall / count
    each["beside"] = 1000 * used / count - each["decode"] - each["processor"]
    return each


def main() -> None:
    """Print a line a file format, and all of it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--side", type=int, default=1000)
    parser.add_argument("--max-pixels", type=int, help="the model's cap; default: its own")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    engine = Without(load_policy(given.model, max_pixels=given.max_pixels))
    names = [*PARTS, "wall", "beside"]
    print(f"{'ms an image':12}" + "".join(f"{name:>11}" for name in names))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            engine.said = None
            found[form] = run(engine, picture(given.side, form, Path(folder)), given.images)
            print(f"{form:12}" + "".join(f"{found[form][name]:11.2f}" for name in names), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
