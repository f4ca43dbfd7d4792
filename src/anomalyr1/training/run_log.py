"""What a training run writes down while it goes: metrics, groups, held-out figures, curves, and its progress.

    log = RunLog(run)
    log.rewind(step)          # when the run goes on from the checkpoint of `step`
    log.attach(trainer)
    log.group(group, answers)   # for every group of a generation batch

Only the main process writes. Lines are appended and synced one by one, so a kill costs at most the line being
written.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from transformers import TrainerCallback

from anomalyr1.files import append_synced, write_whole
from anomalyr1.report.text import visible
from anomalyr1.training.processes import is_main_process
from anomalyr1.training.run_folder import (
    EVALUATIONS,
    GROUPS,
    METRICS,
    SAMPLES,
    TENSORBOARD,
    Group,
    figures,
    read_lines,
)
from anomalyr1.types import Answer, SetupError

if TYPE_CHECKING:
    from rich.progress import Progress

SHOWN = {
    "loss": "loss",
    "reward": "reward",
    "answers/right": "right",
    "answers/consistent": "consistent",
    "signal/zero_variance": "one reward",
    "entropy": "entropy",
    "kl": "KL",
    "held_out/balanced accuracy": "held-out accuracy",
}
"""What the terminal shows of a step, under which name."""
PAGE_EVERY = 10
"""Steps between two pages in `samples/`, or a few more where rollouts are not of every step; step 1 has a
page, too."""


class RunLog:
    """Writes the folder of a run (see `run_folder`)."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.callback = _LogCallback(self)
        """For transformers' trainers; `attach` adds it."""
        self._groups: list[tuple[Group, Sequence[Answer]]] = []
        """The groups since the last step, with their answers."""
        self._resumed_step = 0
        self._page_step: int | None = None
        """The step of the newest page."""

    def rewind(self, step: int) -> None:
        """Forget what was written of later steps.

        A run resumed at `step` then ends with the files of an uninterrupted one.
        """
        self._resumed_step = step
        if not is_main_process():
            return
        for name in (METRICS, GROUPS, EVALUATIONS):
            path = self.run / name
            if path.exists():
                kept = [
                    line
                    for line in read_lines(path)
                    if step and line["step"] <= step and not line.get("final")
                ]
                write_whole(path, b"".join(map(_to_line, kept)))
        for page in sorted((self.run / SAMPLES).glob("step-*.html")):
            page_step = int(page.stem.rpartition("-")[2])
            if page_step > step:
                page.unlink()
            else:
                self._page_step = page_step
        if step == 0:
            shutil.rmtree(self.run / TENSORBOARD, ignore_errors=True)

    def attach(self, trainer: Any) -> None:
        """Log a trainer of TRL's.

        Our figures go with its own to whatever it reports to; its bars and printed lines give way to ours.
        """
        from transformers.trainer_callback import PrinterCallback, ProgressCallback

        self.callback.trainer = trainer
        for printing in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printing)
        self._point_tensorboard(trainer)
        trainer.add_callback(self.callback)

    def group(self, group: Group, answers: Sequence[Answer]) -> None:
        """Write one group, of which the rewards have read `answers`; the main process writes those of all."""
        if not is_main_process():
            return
        begins_step = not self._groups
        self._groups.append((group, answers))
        _append(self.run / GROUPS, group.to_json().encode("ascii") + b"\n")
        if begins_step and self._page_is_due(group.step):
            from anomalyr1.training.run_pages import write_page

            self._page_step = group.step
            write_page(self.run / SAMPLES / f"step-{group.step:06}.html", group, answers)

    def evaluation(self, step: int, values: Mapping[str, Any], final: bool = False) -> None:
        """Write held-out figures.

        Those that are numbers go to the curves too, as `held_out/NAME`, when training has begun.
        """
        if self.callback.trainer is not None and step and not final:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self.callback.trainer._metrics["train"][f"held_out/{name}"].append(float(value))
        if is_main_process():
            mark = {"final": True} if final else {}
            _append(self.run / EVALUATIONS, _to_line({"step": step, **mark, **values}))

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Write one logged step; values that are no finite numbers become null."""
        if is_main_process():
            finite = {name: _finite(value) for name, value in values.items()}
            _append(self.run / METRICS, _to_line({"step": step, **finite}))

    def close(self) -> None:
        """Leave the terminal as it was, however the run ended."""
        self.callback.close()

    def take_figures(self) -> dict[str, float]:
        """The figures of the groups since the last call."""
        groups, self._groups = self._groups, []
        return figures(groups)

    def _page_is_due(self, step: int) -> bool:
        return self._page_step is None or step // PAGE_EVERY > self._page_step // PAGE_EVERY

    def _point_tensorboard(self, trainer: Any) -> None:
        """Let TensorBoard's files lie in the run's folder, and hide what a resumed run will write again."""
        from transformers.integrations import TensorBoardCallback

        callbacks = trainer.callback_handler.callbacks
        boards = [callback for callback in callbacks if isinstance(callback, TensorBoardCallback)]
        if not boards or boards[0].tb_writer is not None or not is_main_process():
            return
        from torch.utils.tensorboard import SummaryWriter

        purge_step = self._resumed_step + 1 if self._resumed_step else None
        boards[0].tb_writer = SummaryWriter(str(self.run / TENSORBOARD), purge_step=purge_step)


class _LogCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Passes on what the trainer tells."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._display: _StepDisplay | None = None
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
        if is_main_process():
            self._display = _StepDisplay(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """Before the trainer logs the step: hand it our figures."""
        for name, value in self._log.take_figures().items():
            self.trainer._metrics["train"][name].append(value)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: object
    ) -> None:
        if logs is None or "train_runtime" in logs:  # the summary at the end is no step
            return
        self._log.metrics(state.global_step, logs)
        if self._display is not None:
            self._display.show(state.global_step, logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        self.close()

    def close(self) -> None:
        """Show nothing more."""
        if self._display is not None:
            self._display.close()


class _StepDisplay:
    """Progress with the time left: a bar on a terminal, a line a logged step elsewhere."""

    def __init__(self, start: int, steps: int) -> None:
        self._started_at, self._start, self._steps = time.monotonic(), start, steps
        self._bar: Progress | None = None
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("time left"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(markup=False, highlight=False, emoji=False))
            self._task = self._bar.add_task("", total=steps, completed=start)
            self._bar.start()

    def show(self, step: int, logs: Mapping[str, Any]) -> None:
        """Show a step and what was logged of it."""
        parts = [
            f"{title} {logs[name]:.3g}"
            for name, title in SHOWN.items()
            if isinstance(logs.get(name), int | float)
        ]
        line = visible(f"step {step}/{self._steps}  " + "  ".join(parts))
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, overflow="ellipsis", no_wrap=True)
            self._bar.update(self._task, completed=step)
            return
        seconds_a_step = (time.monotonic() - self._started_at) / max(step - self._start, 1)
        print(f"{line}  time left {_duration(seconds_a_step * (self._steps - step))}", flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, default=str, allow_nan=False).encode("ascii") + b"\n"


def _append(path: Path, line: bytes) -> None:
    """Add a whole line to a file, on the disk on return; a line that a kill tore before it is cut off.

    Raises `SetupError` when the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            _cut_torn_line(file)
            append_synced(file.fileno(), path, line)
    except OSError as error:
        raise SetupError(
            f"cannot write to {str(path)!r}: {error.strerror}; what is in it is safe, resume the run to go on"
        ) from error


def _cut_torn_line(file: BinaryIO) -> None:
    if not file.tell():
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
