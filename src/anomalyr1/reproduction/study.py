"""The experiment as a folder: every run of every arm, one after the other or side by side, each whole or not there.

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

import anomalyr1
from anomalyr1.data import sources
from anomalyr1.data import splits as fewshot
from anomalyr1.data.protocols import SplitPlan
from anomalyr1.files import lock, write_whole
from anomalyr1.policy.load import find_folder
from anomalyr1.reproduction import arms as known
from anomalyr1.reproduction.arms import SFT, Arm, Scale, Stage
from anomalyr1.reproduction.judge import choose_samples, write_records
from anomalyr1.training.recipes import dump_recipe
from anomalyr1.training.run_folder import FINAL
from anomalyr1.types import InputError, Record, SetupError

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
                f"a start cannot be called {clash[0]!r}, the folder of the experiment has that for itself: --start NAME=MODEL"
            )
        revisions = {name: find_folder(model).revision for name, model in scale.starts.items()}
        names = tuple(arm.name for arm in arms)
        return cls(
            scale=scale,
            arms=names,
            seeds=seeds,
            limit=limit,
            made_by=anomalyr1.__version__,
            revisions=revisions,
        )

    @property
    def tests(self) -> dict[str, str]:
        """The specs of the test sets by name; the first is what none of the few-shot splits learns from."""
        return {FEW_SHOT: self.scale.data, **self.scale.tests}

    @property
    def chosen(self) -> tuple[Arm, ...]:
        """The arms."""
        return known.chosen(self.arms, full=False)

    def split_file(self, folder: Path, shots: int) -> Path:
        """Where the split of so many images a class stands."""
        return folder / "few" / f"{shots}.json"

    def samples_file(self, folder: Path, test: str) -> Path:
        """Where a test set stands."""
        return folder / "samples" / f"{test.replace(' ', '-')}.jsonl"


class Job(NamedTuple):
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
        """`launch` is a command such as `accelerate launch --config_file FILE` to train with; empty = this Python."""
        self.out, self.study, self.say = out, study, say
        self._launch = [*shlex.split(launch), "-m"] if launch else [sys.executable, "-m"]
        self._locked = -1
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, jobs: int = 1) -> None:
        """All that is missing, `jobs` runs side by side.

        Raises `SetupError` for the first run that failed, when all others are done, and `InputError` where
        the study is being run already.
        """
        with (self.out / "lock").open(
            "wb"
        ) as locked:  # runs inherit it: what was killed without its runs is not begun again beside them
            lock(locked.fileno(), self.out)
            self._locked = locked.fileno()
            self._run(jobs)

    def _run(self, jobs: int) -> None:
        self._split()
        for name, spec in self.study.tests.items():
            file = self.study.samples_file(self.out, name)
            if not file.exists():
                spec = (
                    f"split:{self.study.split_file(self.out, known.MOST_SHOTS)}" if name == FEW_SHOT else spec
                )
                write_records(
                    file,
                    choose_samples(
                        spec, self.out.resolve() / "data" / name.replace(" ", "-"), self.study.limit
                    ),
                )
        every = [
            Job(start, arm, seed)
            for seed, arm, start in product(
                range(self.study.seeds), self.study.chosen, self.study.scale.starts
            )
        ]
        failed = self._all([*self.study.scale.starts, *(job for job in every if not job.arm.after_sft)], jobs)
        failed += self._all([job for job in every if job.arm.after_sft], jobs)
        if failed:
            raise failed[0]

    def _split(self) -> None:
        """Write the few-shot splits; each holds the smaller ones, so nothing that any arm learns from is asked about."""
        numbers = sorted({arm.shots for arm in self.study.chosen} | {known.MOST_SHOTS})
        missing = [shots for shots in numbers if not self.study.split_file(self.out, shots).exists()]
        spec = self.study.scale.data
        samples = sources.load_sources([spec], self.out / "data" / "few" / "drawn") if missing else []
        for shots in missing:
            plan = SplitPlan(protocol="few-shot", shots=shots, drop_leaks=True)
            fewshot.write(self.study.split_file(self.out, shots), fewshot.make(samples, plan, spec))

    def _all(self, todo: Sequence[str | Job], jobs: int) -> list[BaseException]:
        """What those that failed said; they stop no other."""
        with ThreadPoolExecutor(jobs) as pool:
            running = [pool.submit(self._start if isinstance(one, str) else self._job, one) for one in todo]  # type: ignore[arg-type]
            try:
                return [error for one in running if (error := one.exception()) is not None]
            finally:  # nothing is left to stop unless somebody interrupts
                pool.shutdown(wait=False, cancel_futures=True)
                with self._lock:
                    for process in self._running:
                        process.terminate()

    def _start(self, name: str) -> None:
        file = self.out / name / JUDGED
        if not file.exists():
            self.say(f"{name}: asking the start policy")
            self._judge(self.study.scale.starts[name], file)

    def _job(self, job: Job) -> None:
        folder = self.out / job.folder
        if (folder / JUDGED).exists():
            return
        self.say(f"{job.folder}: {job.arm.title}")
        begun = time.monotonic()
        if not (folder / COST).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._train(job, "sft" if job.arm.rewards is None else "grpo", folder)
            groups = folder / "run" / "groups.jsonl"
            rollouts = (
                sum(len(json.loads(line)["completions"]) for line in groups.open(encoding="ascii"))
                if groups.exists()
                else 0
            )
            cost = {"seconds": round(time.monotonic() - begun, 1), "rollouts": rollouts}
            write_whole(folder / COST, json.dumps(cost).encode("ascii"))
        self._judge(str(folder / "run" / FINAL), folder / JUDGED)
        self.say(f"{job.folder}: done after {time.monotonic() - begun:.0f} s")

    def _train(self, job: Job, stage: Stage, folder: Path) -> None:
        model = self.study.scale.starts[job.start]
        if job.arm.after_sft:
            model = str(self.out / Job(job.start, SFT, job.seed).folder / "run" / FINAL)
        few = f"split:{self.study.split_file(self.out, job.arm.shots)}"
        recipe = known.recipe_of(self.study.scale, job.arm, stage, model, few, job.seed)
        file = folder / "recipe.yaml"
        write_whole(file, dump_recipe(recipe).encode("utf-8"))
        self._call(
            [*self._launch, "anomalyr1", "train", str(file), "--out", str(folder / "run")],
            folder / "train.log",
        )

    def _judge(self, model: str, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "anomalyr1.reproduction.judge", str(self.out), model, str(file)]
        self._call(command, file.with_name("judge.log"))

    def _call(self, command: Sequence[str], log: Path) -> None:
        """Run a command to its end, its output in `log`. Raises `SetupError` where it fails."""
        inherited: dict[str, Any] = {"pass_fds": (self._locked,)} if os.name == "posix" else {}
        with log.open("wb") as written:
            process = subprocess.Popen(
                command, stdout=written, stderr=subprocess.STDOUT, env=environment(), **inherited
            )
            with self._lock:
                self._running.add(process)
            code = process.wait()
            with self._lock:
                self._running.discard(process)
        if code:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or [
                "it said nothing"
            ]
            raise SetupError(
                f"a run failed ({last[0]}); the whole of it is in {str(log)!r}; run the same command to go on"
            )


def environment() -> dict[str, str]:
    """Of a run: one thread on a CPU, so that runs side by side do not wait for each other and sums are always in one order."""
    found = dict(os.environ)
    import torch

    if not torch.cuda.is_available():
        found |= {"OMP_NUM_THREADS": "1", **KEEP_MEMORY}
    return found


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
    old = Study.read(out)
    starts, revisions = old.scale.starts | study.scale.starts, old.revisions | study.revisions
    same = {
        "data, tests or recipe": old.scale.model_copy(update={"starts": starts})
        == study.scale.model_copy(update={"starts": starts}),
        "limit": old.limit == study.limit,
        "version of AnomalyR1": old.made_by == study.made_by,
        "model of a start": all(
            starts[name] == model and revisions[name] == old.revisions[name]
            for name, model in old.scale.starts.items()
        ),
    }
    if differ := [name for name, equal in same.items() if not equal]:
        raise InputError(
            f"{str(out)!r} holds an experiment with another {' and another '.join(differ)}; name another folder with --out, or give what "
            "it was begun with. Arms, seeds and starts may be added"
        )
    arms = tuple(dict.fromkeys((*old.arms, *study.arms)))
    scale = study.scale.model_copy(update={"starts": starts})
    whole = study.model_copy(
        update={"scale": scale, "arms": arms, "seeds": max(old.seeds, study.seeds), "revisions": revisions}
    )
    write_whole(file, whole.to_json().encode("ascii"))
    return whole
