"""One GRPO step of `SharedPrefixGRPOTrainer` beside one of TRL's own trainer: the same model, data, seeds and settings, in turn.

    OMP_NUM_THREADS=2 python benchmarks/grpo_step.py [--corner 0 1 2 3 4] [--steps 3] [--out grpo_step.json]

Each corner is (completions a group, prompt tokens, completion tokens, size of the model). Every completion has the full length. Seconds
are medians over steps that alternate between the trainers, by phase: rollouts, reference policy, and the rest (forward, backward,
optimizer). Peak memory is the highest resident size of a step above what was resident before it. FLOPs are counted by torch in one more
step of each (matrix products and attention), beside the least that the step needs: prompts once, completions once. "out of memory" is a
result. The weights are random: only shapes matter. Needs a quiet machine, and says how fast its matrix products are.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from trl import GRPOConfig, GRPOTrainer

from anomalyr1.policy.load import NANO_FOLDER, load_policy
from anomalyr1.training import nano_model
from anomalyr1.training.grpo import SharedPrefixGRPOTrainer

NANO = nano_model.Shape()
LARGE = nano_model.Shape(text_width=1024, text_layers=12, text_mlp=2816, sight_width=512, sight_layers=8, sight_mlp=1408)
CORNERS = (
    (8, 290, 64, "nano"),
    (16, 1060, 64, "nano"),
    (16, 290, 256, "nano"),
    (8, 1000, 256, "nano"),
    (8, 1000, 64, "0.2 B"),
)
TRAINERS = {"ours": SharedPrefixGRPOTrainer, "TRL": GRPOTrainer}


def main() -> None:
    """Run the corners and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--corner", type=int, nargs="*", default=range(len(CORNERS)))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    print(f"matrix products: {peak_gflops():.0f} GFLOP/s in float32 on {torch.get_num_threads()} threads")
    found = [corner(*CORNERS[number], steps=arguments.steps) for number in arguments.corner]
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def corner(size: int, prompt: int, completion: int, model: str, steps: int) -> dict[str, Any]:
    """The measured figures of one corner; prints them as they come."""
    print(f"\nG = {size}, {prompt} prompt tokens, {completion} completion tokens, {model}")
    made, row = {}, {"corner": [size, prompt, completion, model]}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        write_model(place, NANO if model == "nano" else LARGE)
        for name in TRAINERS:
            made[name] = Step(name, place, size, prompt, completion)
        for _ in range(steps + 1):  # the first of each warms up
            for step in made.values():
                step.run()
        for name, step in made.items():
            row[name] = step.figures()
            print(f"  {name:5} {row[name]}")
    if "seconds" in row["ours"] and "seconds" in row["TRL"]:
        row["times faster"] = round(row["TRL"]["seconds"] / row["ours"]["seconds"], 1)
        print(f"  {row['times faster']} times faster")
    return row


def write_model(folder: Path, shape: nano_model.Shape) -> None:
    """A folder with random weights of a shape and the bundled policy's processor, for images of any size here."""
    _, processor = nano_model.load(NANO_FOLDER)
    whole = shape.model_copy(update={"max_pixels": 1024 * 1024})
    nano_model.save(nano_model.make_model(processor.tokenizer, whole), nano_model.make_processor(processor.tokenizer, whole), folder)


class Step:
    """A trainer, and its steps one at a time."""

    def __init__(self, name: str, folder: Path, size: int, prompt: int, completion: int) -> None:
        policy = load_policy(str(folder), dtype="float32", max_pixels=1024 * 1024)
        self.failed = False
        self.seconds: list[dict[str, float]] = []
        self.peaks: list[float] = []
        self._phases: dict[str, float] = {}
        data = Dataset.from_dict({"row": [0]}).with_transform(lambda batch: {k: [v] * len(batch["row"]) for k, v in asked.items()})
        asked = row_of(policy.processor, prompt)
        settings = GRPOConfig(
            output_dir=str(folder.parent / name), per_device_train_batch_size=size, gradient_accumulation_steps=1, num_generations=size,
            max_completion_length=completion, generation_kwargs={"min_new_tokens": completion}, beta=0.04, temperature=1.0, max_steps=100,
            bf16=False, use_cpu=True, gradient_checkpointing=False, report_to=[], save_strategy="no", disable_tqdm=True, seed=0,
        )  # fmt: skip
        self.trainer = TRAINERS[name](
            model=policy.model,
            reward_funcs=lambda completion_ids, **_: [sum(ids) % 7 / 7 for ids in completion_ids],
            args=settings,
            train_dataset=data,
            processing_class=policy.processor,
        )
        self._measure("rollouts", "_generate")
        self._measure("reference", "_get_per_token_logps_and_entropies", only_without_gradient=True)
        self.trainer.create_optimizer_and_scheduler(100)
        self.trainer.current_gradient_accumulation_steps = 1
        self._rows = [data[0] for _ in range(size)]

    def _measure(self, phase: str, method: str, only_without_gradient: bool = False) -> None:
        inner = getattr(self.trainer, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if only_without_gradient and torch.is_grad_enabled():
                return inner(*args, **kwargs)
            begin = time.perf_counter()
            found = inner(*args, **kwargs)
            self._phases[phase] = self._phases.get(phase, 0.0) + time.perf_counter() - begin
            return found

        setattr(self.trainer, method, timed)

    def run(self) -> None:
        """One whole step: rollouts, rewards, reference, forward, backward, optimizer."""
        if self.failed:
            return
        self._phases = {}
        try:
            with peak_memory(self.peaks):
                begin = time.perf_counter()
                self._step()
                whole = time.perf_counter() - begin
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error):
                raise
            self.failed = True
            return
        self.seconds.append({**self._phases, "rest": whole - sum(self._phases.values()), "whole": whole})

    def _step(self) -> None:
        trainer = self.trainer
        trainer.model.train()
        trainer.training_step(trainer.model, self._rows, None)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    def figures(self) -> dict[str, Any]:
        """Medians without the first step, and the FLOPs of one more."""
        if self.failed:
            return {"result": "out of memory"}
        with FlopCounterMode(display=False) as counter:
            self._step()
        measured = self.seconds[1:]
        phases = {phase: round(statistics.median(one.get(phase, 0.0) for one in measured), 3) for phase in measured[0]}
        return {
            "seconds": phases.pop("whole"),
            "phases": phases,
            "peak GB": round(statistics.median(self.peaks[1:]), 2),
            "TFLOP": round(counter.get_total_flops() / 1e12, 3),
        }


def row_of(processor: Any, prompt_tokens: int) -> dict[str, Any]:
    """A prompt of that many tokens, most of them of one square image."""
    side = 28 * (math.isqrt(prompt_tokens - 20))
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    words = ""
    while True:
        messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": words}]}]
        ids = processor.apply_chat_template([messages], tokenize=True, return_dict=True, add_generation_prompt=True)["input_ids"][0]
        if len(ids) >= prompt_tokens:
            content = [{"type": "image"}, {"type": "text", "text": words}]
            return {"prompt": [{"role": "user", "content": content}], "images": [image]}
        words += " x"


@contextmanager
def peak_memory(found: list[float]) -> Iterator[None]:
    """Append the highest resident size inside, in GB above what was resident before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    yield
    found.append(_status("VmHWM") - before)


def _status(name: str) -> float:
    line = next(one for one in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if one.startswith(name))
    return int(line.split()[1]) / 1024**2


def peak_gflops(side: int = 2048) -> float:
    """The best of ten matrix products."""
    a = torch.randn(side, side)
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / min(seconds) / 1e9


if __name__ == "__main__":
    main()
