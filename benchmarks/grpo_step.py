"""One GRPO step of `SharedPrefixGRPOTrainer` beside one of TRL's own trainer, in turn.

    OMP_NUM_THREADS=2 python benchmarks/grpo_step.py [--corner 8x290x64xnano ...] [--steps 3]
        [--out runs/grpo_step.json]

Both have the same model, data, seeds and settings.

A corner is completions a group x prompt tokens x completion tokens x size of the model, with +checkpointing
where it says so. Every completion has the full length. Each trainer lives in a process of its own; the two
take turns, so that both meet the same machine, and one that runs out of memory or time takes nothing along:
that is a result. Seconds are medians without the first step, by phase: rollouts, reference policy, and the
rest (rewards, forward, backward, optimizer). Peak memory is the highest resident size of a step above what
was resident before it. FLOPs are counted by torch in one more step of each (matrix products and attention),
beside the least that the step needs: images and prompt once and the completions once, five times over
(rollouts, reference, forward, and twice that for backward). The weights are random: only shapes matter.

Finished corners are kept in --out and not measured again. The table and the plot (--out with the ending .svg)
are made of all corners in it. Needs a quiet machine, and says how fast its matrix products are.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import resource
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

TRAINERS = ("ours", "TRL")
CORNERS = (
    "8x290x64xnano", "16x1060x64xnano", "16x290x256xnano", "8x1000x256xnano",
    "16x290x256xnano+checkpointing", "8x1000x64x0.2B",
)  # fmt: skip
PHASES = {"rollouts": "#4878a8", "reference": "#e0a33a", "rest": "#8a9aa8"}
"""With their colours."""
PASSES = 5
"""Forward passes that a step amounts to: rollouts, reference policy, training, and a backward pass as two."""


class Corner(NamedTuple):
    """The sizes of a step."""

    size: int
    """Completions a group."""
    prompt: int
    """Tokens, most of them of one image."""
    completion: int
    model: str
    checkpointing: bool

    @classmethod
    def read(cls, text: str) -> Corner:
        """From "8x290x64xnano"."""
        size, prompt, completion, model = text.removesuffix("+checkpointing").split("x", 3)
        return cls(int(size), int(prompt), int(completion), model, text.endswith("+checkpointing"))


def main() -> None:
    """Measure the corners that are not there yet, and print the table of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corner", nargs="*", default=CORNERS)
    parser.add_argument(
        "--steps", type=int, default=3, help="measured steps of each trainer, after one that is not"
    )
    parser.add_argument("--timeout", type=float, default=900, help="seconds after which a step is given up")
    parser.add_argument(
        "--memory-gb", type=float, default=0.85 * available_gb(), help="most that one trainer may take"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/grpo_step.json"))
    parser.add_argument("--serve", nargs=2, metavar=("TRAINER", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve[0], Path(given.serve[1]), Corner.read(given.corner[0]), given.memory_gb)
        return
    found: dict[str, Any] = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    for name in given.corner:
        if name not in found:
            print(f"{name} ...", flush=True)
            found[name] = measure(name, given.steps, given.timeout, given.memory_gb)
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
            print(f"  {found[name]}", flush=True)
    print(table(found))
    given.out.with_suffix(".svg").write_text(plot(found), encoding="utf-8")


def measure(name: str, steps: int, timeout: float, memory_gb: float) -> dict[str, Any]:
    """The figures of one corner: the two trainers take turns, step by step."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model", Corner.read(name).model)
        servers = {trainer: Server(trainer, Path(folder), name, timeout, memory_gb) for trainer in TRAINERS}
        try:
            peak = [one for server in servers.values() if (one := server.ask("peak"))]
            least = servers["ours"].ask("least")
            for _ in range(steps + 1):
                for server in servers.values():
                    server.steps.append(server.ask("step"))
            counted = {trainer: server.ask("count") for trainer, server in servers.items()}
        finally:
            for server in servers.values():
                server.end()
    found: dict[str, Any] = {
        "peak GFLOP/s": max((one["gflops"] for one in peak), default=None),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    found["least TFLOP"] = least and round(least["tflop"], 4)
    for trainer, server in servers.items():
        found[trainer] = figures(server, counted[trainer])
    return found


def figures(server: Server, counted: dict[str, Any] | None) -> dict[str, Any]:
    """Medians over the steps of one trainer, without the first."""
    measured = [one for one in server.steps[1:] if one]
    if server.failed or not measured:
        return {"result": server.failed or "no step was measured"}
    middle = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
    return {
        "seconds": round(middle["whole"], 3),
        "phases": {phase: round(middle[phase], 3) for phase in PHASES},
        "spread": [
            round(min(one["whole"] for one in measured), 3),
            round(max(one["whole"] for one in measured), 3),
        ],
        "peak GB": round(middle["gb"], 2),
        "TFLOP": counted and round(counted["tflop"], 4),
        "forms": counted and counted["forms"],
    }


class Server:
    """A trainer in a process of its own, asked line by line."""

    def __init__(self, trainer: str, folder: Path, corner: str, timeout: float, memory_gb: float) -> None:
        self.failed = ""
        self.steps: list[dict[str, Any] | None] = []
        self._timeout = timeout
        command = [
            sys.executable,
            __file__,
            "--serve",
            trainer,
            str(folder),
            "--corner",
            corner,
            "--memory-gb",
            str(memory_gb),
        ]
        self._log = (folder / f"{trainer}.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1
        )
        self.ask("ready")

    def ask(self, what: str) -> dict[str, Any] | None:
        """The answer; None once the trainer has failed, and `failed` says why."""
        if self.failed:
            return None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(what + "\n")
        except BrokenPipeError:
            return self._give_up()
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            if not waiting.select(self._timeout):
                self.failed = f"no answer in {self._timeout:.0f} s"
                self.end()
                return None
        line = self._process.stdout.readline()
        if not line:
            return self._give_up()
        found: dict[str, Any] = json.loads(line)
        self.failed = found.get("failed", "")
        return None if self.failed else found

    def _give_up(self) -> None:
        code = self._process.wait()
        self._log.seek(0)
        last = (self._log.read().strip().splitlines() or ["no message"])[-1]
        self.failed = "out of memory (killed)" if code == -9 else f"exit code {code}: {last[:300]}"

    def end(self) -> None:
        """Stop the process."""
        self._process.kill()
        self._process.wait()
        self._log.close()


def serve(trainer: str, folder: Path, corner: Corner, memory_gb: float) -> None:
    """Answer the lines of `Server` with one line of JSON each."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what trainers print is no answer
    limit = int(memory_gb * 1024**3)
    step: Step | None = None
    for line in sys.stdin:
        try:
            if step is None:
                step = Step(trainer, folder, corner)
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # once the libraries are mapped
            found = {
                "ready": lambda: {},
                "peak": peak_gflops,
                "least": step.least,
                "step": step.run,
                "count": step.count,
            }[line.strip()]()
        except (MemoryError, RuntimeError) as error:
            if (
                not isinstance(error, MemoryError)
                and "memory" not in str(error)
                and "allocate" not in str(error)
            ):
                raise
            found = {"failed": f"out of memory (more than {memory_gb:.1f} GB)"}
        answers.write(json.dumps(found) + "\n")


class Step:
    """A trainer, and its steps one at a time."""

    def __init__(self, name: str, folder: Path, corner: Corner) -> None:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        from anomalyr1.policy.load import load_policy
        from anomalyr1.training.grpo import SharedPrefixGRPOTrainer

        self._policy = load_policy(str(folder / "model"), dtype="float32", max_pixels=1024 * 1024)
        self._corner, self._phases = corner, dict.fromkeys(PHASES, 0.0)
        self._asked = row_of(self._policy.processor, corner.prompt)
        data = Dataset.from_dict({"row": [0]}).with_transform(
            lambda batch: {k: [v] * len(batch["row"]) for k, v in self._asked.items()}
        )
        settings = GRPOConfig(
            output_dir=str(folder / name),
            per_device_train_batch_size=corner.size,
            gradient_accumulation_steps=1,
            num_generations=corner.size,
            max_completion_length=corner.completion,
            generation_kwargs={"min_new_tokens": corner.completion},
            beta=0.04,
            temperature=1.0,
            max_steps=100,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=corner.checkpointing,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            seed=0,
        )
        self.trainer = {"ours": SharedPrefixGRPOTrainer, "TRL": GRPOTrainer}[name](
            model=self._policy.model,
            reward_funcs=lambda completion_ids, **_: [sum(ids) % 7 / 7 for ids in completion_ids],
            args=settings,
            train_dataset=data,
            processing_class=self._policy.processor,
        )
        self._time("rollouts", "_generate")
        self._time("reference", "_get_per_token_logps_and_entropies", only_without_gradient=True)
        self.trainer.create_optimizer_and_scheduler(100)
        self.trainer.current_gradient_accumulation_steps = 1
        self._rows = [data[0] for _ in range(corner.size)]

    def _time(self, phase: str, method: str, only_without_gradient: bool = False) -> None:
        import torch

        inner = getattr(self.trainer, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if only_without_gradient and torch.is_grad_enabled():
                return inner(*args, **kwargs)
            begin = time.perf_counter()
            found = inner(*args, **kwargs)
            self._phases[phase] += time.perf_counter() - begin
            return found

        setattr(self.trainer, method, timed)

    def run(self) -> dict[str, float]:
        """One whole step: rollouts, rewards, reference, forward, backward, optimizer."""
        self._phases = dict.fromkeys(PHASES, 0.0)
        peaks: list[float] = []
        with peak_memory(peaks):
            begin = time.perf_counter()
            self._step()
            whole = time.perf_counter() - begin
        return {**self._phases, "rest": whole - sum(self._phases.values()), "whole": whole, "gb": peaks[0]}

    def _step(self) -> None:
        trainer = self.trainer
        trainer.model.train()
        trainer.training_step(trainer.model, self._rows, None)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    def count(self) -> dict[str, Any]:
        """FLOPs of one more step."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self._step()
        return {"tflop": counter.get_total_flops() / 1e12, "forms": dict(getattr(self.trainer, "forms", {}))}

    def least(self) -> dict[str, float]:
        """FLOPs of images and prompt read once and the completions behind them read once, times `PASSES`."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        model, corner = self._policy.model, self._corner
        content = [
            {"type": "image", "image": self._asked["images"][0]},
            self._asked["prompt"][0]["content"][1],
        ]
        messages = [{"role": "user", "content": content}]
        given = self._policy.processor.apply_chat_template(
            [messages], tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
        )
        hidden = torch.zeros(corner.size, corner.completion, model.config.get_text_config().hidden_size)
        places = torch.arange(corner.completion).expand(3, corner.size, -1) + given["input_ids"].shape[1]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            cache = model.model(**given, use_cache=True).past_key_values
            cache.batch_repeat_interleave(corner.size)
            read = model.model.language_model(
                inputs_embeds=hidden, past_key_values=cache, position_ids=places
            ).last_hidden_state
            model.lm_head(read)
        return {"tflop": PASSES * counter.get_total_flops() / 1e12}


def write_model(folder: Path, size: str) -> None:
    """A folder with random weights of a size and the bundled policy's processor, for images of any size."""
    from anomalyr1.nano.model import NanoShape, load_model, make_model, make_processor, save_model
    from anomalyr1.policy.folders import NANO_FOLDER

    large = {
        "text_width": 1024,
        "text_layers": 12,
        "text_mlp": 2816,
        "sight_width": 512,
        "sight_layers": 8,
        "sight_mlp": 1408,
    }
    shape = NanoShape(**({} if size == "nano" else large), max_pixels=1024 * 1024)
    tokenizer = load_model(NANO_FOLDER)[1].tokenizer
    save_model(make_model(tokenizer, shape), make_processor(tokenizer, shape), folder)


def row_of(processor: Any, prompt_tokens: int) -> dict[str, Any]:
    """A prompt of that many tokens, most of them of one square image."""
    import numpy as np
    from PIL import Image

    side = 28 * max(2, math.isqrt(max(prompt_tokens - 20, 4)))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))
    words = ""
    while True:
        messages = [
            {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": words}]}
        ]
        ids = processor.apply_chat_template(
            [messages], tokenize=True, return_dict=True, add_generation_prompt=True
        )["input_ids"][0]
        if len(ids) >= prompt_tokens:
            return {
                "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}],
                "images": [image],
            }
        words += " x"


@contextmanager
def peak_memory(found: list[float]) -> Iterator[None]:
    """Append the highest resident size inside, in GB above what was resident before (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier steps have freed is not resident any more
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    yield
    found.append(_status("VmHWM") - before)


def _status(name: str, file: str = "/proc/self/status") -> float:
    line = next(one for one in Path(file).read_text(encoding="ascii").splitlines() if one.startswith(name))
    return int(line.split()[1]) / 1024**2


def available_gb() -> float:
    """What the machine has to give."""
    return _status("MemAvailable", "/proc/meminfo")


def peak_gflops(side: int = 2048) -> dict[str, float]:
    """The best of ten matrix products."""
    import torch

    a = torch.randn(side, side)
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - begin)
    return {"gflops": round(2 * side**3 / min(seconds) / 1e9, 1)}


def table(found: dict[str, Any]) -> str:
    """All corners as Markdown."""
    lines = [
        "| G x prompt x completion, model | ours: s | GB | TFLOP, of the least | share of the machine "
        "| TRL: s | GB | TFLOP | faster |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        cells = [name]
        ours, trl = row["ours"], row["TRL"]
        if "seconds" in ours:
            share = 1e3 * ours["TFLOP"] / ours["seconds"] / row["peak GFLOP/s"]
            cells += [
                f"{ours['seconds']:.2f}",
                f"{ours['peak GB']:.2f}",
                f"{ours['TFLOP']:.3f}, {ours['TFLOP'] / row['least TFLOP']:.2f} x",
            ]
            cells += [f"{share:.0%} of {row['peak GFLOP/s']:.0f} GFLOP/s"]
        else:
            cells += [ours["result"], "", "", ""]
        cells += (
            [f"{trl['seconds']:.2f}", f"{trl['peak GB']:.2f}", f"{trl['TFLOP']:.3f}"]
            if "seconds" in trl
            else [trl["result"], "", ""]
        )
        both = "seconds" in ours and "seconds" in trl
        cells += [f"{trl['seconds'] / ours['seconds']:.1f} x" if both else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: dict[str, Any], width: int = 760) -> str:
    """Bars of both trainers by phase, each corner to the scale of its slower one."""
    parts, y = [], 34
    for name, row in found.items():
        longest = max(
            (row[trainer]["seconds"] for trainer in TRAINERS if "seconds" in row[trainer]), default=1.0
        )
        parts.append(f'<text x="8" y="{y}" font-weight="600">{name}</text>')
        for trainer in TRAINERS:
            y += 24
            parts.append(f'<text x="20" y="{y}">{trainer}</text>')
            if "seconds" not in row[trainer]:
                parts.append(f'<text x="70" y="{y}">{row[trainer]["result"].replace("<", "")}</text>')
                continue
            x = 70.0
            for phase, colour in PHASES.items():
                long = row[trainer]["phases"][phase] / longest * (width - 230)
                parts.append(
                    f'<rect x="{x:.1f}" y="{y - 14}" width="{long:.1f}" height="18" fill="{colour}"/>'
                )
                x += long
            label = f"{row[trainer]['seconds']:.2f} s, {row[trainer]['peak GB']:.2f} GB"
            parts.append(f'<text x="{x + 6:.1f}" y="{y}">{label}</text>')
        y += 34
    for number, (phase, colour) in enumerate(PHASES.items()):
        parts.append(f'<rect x="{70 + 120 * number}" y="{y - 12}" width="14" height="14" fill="{colour}"/>')
        parts.append(f'<text x="{90 + 120 * number}" y="{y}">{phase}</text>')
    size = f'width="{width}" height="{y + 14}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


if __name__ == "__main__":
    main()
