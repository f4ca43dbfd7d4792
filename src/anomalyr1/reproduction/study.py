"""The experiment as a folder: every run of every arm, one after the other or side by side, each whole or not
there.

    study.json                      what is run; another experiment is refused
    few/SHOTS.json                  the few-shot splits (`data.fewshot`)
    samples/TEST.jsonl, data/       the test sets, drawn once
    START/judged.jsonl              what the start policy answers
    START/ARM/SEED/run/             a training run (`training.run_folder`)
    START/ARM/SEED/judged.jsonl     what its policy answers
    START/ARM/SEED/cost.json        seconds and rollouts
    index.html, report.md, ...      the page (`page`)

A run that was killed begins anew; what is finished is not run again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Self

from anomalyr1.data import sources, splits
from anomalyr1.data.protocols import SplitPlan
from anomalyr1.files import lock, write_whole
from anomalyr1.policy.folders import find_folder
from anomalyr1.reproduction.arms import MOST_SHOTS, SFT, Arm, Scale, Stage, choose_arms, recipe_of
from anomalyr1.reproduction.samples import choose_samples, write_records
from anomalyr1.training.recipes import dump_recipe
from anomalyr1.training.run_folder import FINAL, GROUPS
from anomalyr1.types import InputError, Record, SetupError
from anomalyr1.version import __version__

STUDY, JUDGED, COST = "study.json", "judged.jsonl", "cost.json"
TAKEN = ("few", "samples", "data", "plots", "lock")
"""What no start may be called: they lie beside it."""
FEW_SHOT = "few-shot classes"
"""The name of the first test set."""
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**28)}
"""With these glibc keeps what is freed; `benchmarks/allocators.py` holds it against other allocators."""
Say = Callable[[str], None]


class Study(Record):
    """What is run."""

    scale: Scale
    arms: tuple[str, ...]
    seeds: int
    limit: int
    """Most samples of a test set."""
    made_by: str
    """The version of this package."""
    revisions: dict[str, str]
    """Of each start."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The study of a folder. Raises `InputError` where there is none."""
        try:
            return cls.from_json((folder / STUDY).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{str(folder)!r} holds no {STUDY}; begin one with: anomalyr1 reproduce roam --out {folder}"
            ) from error
        except ValueError as error:
            raise InputError(
                f"{str(folder / STUDY)!r} is no experiment of this version ({str(error).splitlines()[0]})"
            ) from error

    @classmethod
    def of(cls, scale: Scale, arms: Sequence[Arm], seeds: int, limit: int) -> Self:
        """A new one. Raises `InputError` for a start that is no model, or has a name that is taken."""
        if clash := [name for name in scale.starts if name in TAKEN]:
            raise InputError(
                f"a start cannot be called {clash[0]!r}, the folder of the experiment has that for itself: "
                "--start NAME=MODEL"
            )
        revisions = {name: find_folder(model).revision for name, model in scale.starts.items()}
        names = tuple(arm.name for arm in arms)
        return cls(
            scale=scale,
            arms=names,
            seeds=seeds,
            limit=limit,
            made_by=__version__,
            revisions=revisions,
        )

    @property
    def tests(self) -> dict[str, str]:
        """The specs of the test sets by name; the first is what none of the few-shot splits learns from."""
        return {FEW_SHOT: self.scale.data, **self.scale.tests}

    @property
    def arms_to_run(self) -> tuple[Arm, ...]:
        """The arms."""
        return choose_arms(self.arms, full=False)

    def split_file(self, folder: Path, shots: int) -> Path:
        """Where the split of so many images a class stands."""
        return folder / "few" / f"{shots}.json"

    def samples_file(self, folder: Path, test: str) -> Path:
        """Where a test set stands."""
        return folder / "samples" / f"{test.replace(' ', '-')}.jsonl"


class ArmRun(NamedTuple):
    """A run of an arm."""

    start: str
    arm: Arm
    seed: int

    @property
    def folder(self) -> Path:
        """Below the study's folder."""
        return Path(self.start) / self.arm.name / str(self.seed)


class Runner:
    """Runs what is missing of a study."""

    def __init__(self, out: Path, study: Study, say: Say, launch: str = "") -> None:
        """`launch` is a command such as `accelerate launch --config_file FILE` to train with; empty = this
        Python.
        """
        self.out, self.study, self.say = out, study, say
        self._launch = [*shlex.split(launch), "-m"] if launch else [sys.executable, "-m"]
        self._locked = -1
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    @property
    def runs(self) -> list[ArmRun]:
        """Every run of the study."""
        study = self.study
        trials = product(range(study.seeds), study.arms_to_run, study.scale.starts)
        return [ArmRun(start, arm, seed) for seed, arm, start in trials]

    def describe_stop(self) -> str:
        """How many runs are done, for a study that was stopped."""
        done = sum((self.out / run.folder / JUDGED).exists() for run in self.runs)
        return f"stopped after {done} of {len(self.runs)} runs; the same command goes on"

    def run(self, jobs: int = 1) -> None:
        """All that is missing, `jobs` runs side by side.

        Raises `SetupError` for the first run that failed, when all others are done, and `InputError` where
        the study is being run already.
        """
        # Runs inherit the lock: what was killed without its runs is not begun again beside them
        with (self.out / "lock").open("ab") as lock_file:
            lock(lock_file.fileno(), self.out)
            self._locked = lock_file.fileno()
            self._run(jobs)

    def _run(self, jobs: int) -> None:
        # 1. What is learned from, and what is asked about
        self._split()
        self._write_samples()
        # 2. The starts, and the arms that begin with them
        starts = self.study.scale.starts
        errors = self._all([*starts, *(run for run in self.runs if not run.arm.after_sft)], jobs)
        # 3. The arms that go on from the SFT of their seed
        errors += self._all([run for run in self.runs if run.arm.after_sft], jobs)
        if errors:
            raise errors[0]

    def _write_samples(self) -> None:
        """Choose the samples of each test set that has none yet."""
        for name, spec in self.study.tests.items():
            file = self.study.samples_file(self.out, name)
            if file.exists():
                continue
            if name == FEW_SHOT:
                spec = f"split:{self.study.split_file(self.out, MOST_SHOTS)}"
            folder = self.out.resolve() / "data" / name.replace(" ", "-")
            write_records(file, choose_samples(spec, folder, self.study.limit))

    def _split(self) -> None:
        """Write the few-shot splits; each holds the smaller ones, so nothing that any arm learns from is
        asked about.
        """
        numbers = sorted({arm.shots for arm in self.study.arms_to_run} | {MOST_SHOTS})
        missing = [shots for shots in numbers if not self.study.split_file(self.out, shots).exists()]
        spec = self.study.scale.data
        samples = sources.load_sources([spec], self.out / "data" / "few" / "drawn") if missing else []
        for shots in missing:
            plan = SplitPlan(protocol="few-shot", shots=shots, drop_leaks=True)
            splits.write(self.study.split_file(self.out, shots), splits.make(samples, plan, spec))

    def _all(self, tasks: Sequence[str | ArmRun], jobs: int) -> list[BaseException]:
        """What those that failed said; they stop no other."""
        with ThreadPoolExecutor(jobs) as pool:
            running = [pool.submit(self._ask_or_run, task) for task in tasks]
            try:
                errors = [task.exception() for task in running]
                return [error for error in errors if error is not None]
            finally:  # nothing is left to stop unless somebody interrupts
                pool.shutdown(wait=False, cancel_futures=True)
                with self._lock:
                    for process in self._running:
                        process.terminate()

    def _ask_or_run(self, task: str | ArmRun) -> None:
        """Ask a start policy, or run an arm."""
        if isinstance(task, str):
            self._start(task)
        else:
            self._job(task)

    def _start(self, name: str) -> None:
        file = self.out / name / JUDGED
        if not file.exists():
            self.say(f"{name}: asking the start policy")
            self._judge(self.study.scale.starts[name], file)

    def _job(self, job: ArmRun) -> None:
        folder = self.out / job.folder
        if (folder / JUDGED).exists():
            return
        self.say(f"{job.folder}: {job.arm.title}")
        begun = time.monotonic()
        if not (folder / COST).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._train(job, "sft" if job.arm.rewards is None else "grpo", folder)
            seconds = round(time.monotonic() - begun, 1)
            cost = {"seconds": seconds, "rollouts": _count_rollouts(folder / "run" / GROUPS)}
            write_whole(folder / COST, json.dumps(cost).encode("ascii"))
        self._judge(str(folder / "run" / FINAL), folder / JUDGED)
        self.say(f"{job.folder}: done after {time.monotonic() - begun:.0f} s")

    def _train(self, job: ArmRun, stage: Stage, folder: Path) -> None:
        model = self.study.scale.starts[job.start]
        if job.arm.after_sft:
            model = str(self.out / ArmRun(job.start, SFT, job.seed).folder / "run" / FINAL)
        few_shot_split = f"split:{self.study.split_file(self.out, job.arm.shots)}"
        recipe = recipe_of(self.study.scale, job.arm, stage, model, few_shot_split, job.seed)
        file = folder / "recipe.yaml"
        write_whole(file, dump_recipe(recipe).encode("utf-8"))
        self._call(
            [*self._launch, "anomalyr1", "train", str(file), "--allow-code", "--out", str(folder / "run")],
            folder / "train.log",
        )

    def _judge(self, model: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "anomalyr1.reproduction.judge", str(self.out), model, str(file)]
        self._call(command, file.with_name("judge.log"))

    def _call(self, command: Sequence[str], log: Path) -> None:
        """Run a command to its end, its output in `log`. Raises `SetupError` where it fails."""
        inherited_descriptors: dict[str, Any] = {"pass_fds": (self._locked,)} if os.name == "posix" else {}
        with log.open("wb") as log_file:
            process = subprocess.Popen(
                command, stdout=log_file, stderr=subprocess.STDOUT, env=environment(), **inherited_descriptors
            )
            with self._lock:
                self._running.add(process)
            code = process.wait()
            with self._lock:
                self._running.discard(process)
        if code:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise SetupError(
                f"a run failed ({lines[-1] if lines else 'it said nothing'}); the whole of it is in "
                f"{str(log)!r}; "
                "run the same command to go on"
            )


def _count_rollouts(groups: Path) -> int:
    if not groups.exists():
        return 0
    with groups.open(encoding="ascii") as lines:
        return sum(len(json.loads(line)["completions"]) for line in lines)


def environment() -> dict[str, str]:
    """Of a run: one thread on a CPU, so that runs side by side do not wait for each other and sums are always
    in one order.
    """
    variables = dict(os.environ)
    import torch

    if not torch.cuda.is_available():
        variables |= {"OMP_NUM_THREADS": "1", **KEEP_MEMORY}
    return variables


def settle(
    scale: Scale, out: Path, starts: dict[str, str], data: str | None, tests: dict[str, str] | None
) -> Scale:
    """The size of an experiment with a user's starts ({} = the usual ones), data and test sets.

    Without `tests` it is asked about what the folder `out` was begun with, else about the scale's own, and
    real solar cells where their package is installed. Raises `InputError` where there is no data to learn
    from.
    """
    spec = data or scale.data
    if not spec:
        raise InputError(
            "scale 3b learns from your data: give --data SPEC, such as mmad:PATH or folder:PATH "
            "(see docs/guide/data.md)"
        )
    if tests is None and (out / STUDY).exists():
        asked_about = Study.read(out).scale.tests
    else:
        usual = scale.tests if data is None else {}
        asked_about = {**usual, **(real_tests() if tests is None else tests)}
    return scale.model_copy(update={"starts": starts or scale.starts, "data": spec, "tests": asked_about})


def real_tests() -> dict[str, str]:
    """The test set of photographs that every arm is asked about where nothing else is named."""
    return {"solar cells": "elpv"} if importlib.util.find_spec("elpv_dataset") else {}


def begin(out: Path, study: Study) -> Study:
    """Write down what is run: arms, seeds and starts are added to what the folder holds; gives both together.

    Raises `InputError` for a folder of another study.
    """
    file = out / STUDY
    if not file.exists():
        if out.exists() and any(out.iterdir()):
            raise InputError(
                f"{str(out)!r} holds something that is no experiment; name another folder with --out"
            )
        write_whole(file, study.to_json().encode("ascii"))
        return study
    existing = Study.read(out)
    starts, revisions = existing.scale.starts | study.scale.starts, existing.revisions | study.revisions
    unchanged = {
        "data, tests or recipe": existing.scale.model_copy(update={"starts": starts})
        == study.scale.model_copy(update={"starts": starts}),
        "limit": existing.limit == study.limit,
        "version of AnomalyR1": existing.made_by == study.made_by,
        "model of a start": all(
            starts[name] == model and revisions[name] == existing.revisions[name]
            for name, model in existing.scale.starts.items()
        ),
    }
    if changes := [name for name, equal in unchanged.items() if not equal]:
        raise InputError(
            f"{str(out)!r} holds an experiment with another {' and another '.join(changes)}; name another "
            "folder with --out, or give what it was begun with. Arms, seeds and starts may be added"
        )
    arms = tuple(dict.fromkeys((*existing.arms, *study.arms)))
    scale = study.scale.model_copy(update={"starts": starts})
    merged = study.model_copy(
        update={
            "scale": scale,
            "arms": arms,
            "seeds": max(existing.seeds, study.seeds),
            "revisions": revisions,
        }
    )
    write_whole(file, merged.to_json().encode("ascii"))
    return merged
