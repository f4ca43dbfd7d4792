"""One training run: recipe in, run folder out (`run_folder` says what lies in it).

from anomalyr1.training.recipes import load_recipe
from anomalyr1.training.run import train
train(load_recipe("nano-grpo", ["grpo.max_steps=20"]), Path("runs/mine"))
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyr1.data import sources
from anomalyr1.rewards import load_reward
from anomalyr1.training import checkpoints, dataset
from anomalyr1.training.orientations import turned
from anomalyr1.training.plan import Plan, make_plan
from anomalyr1.training.recipes import Recipe, differences, load_recipe
from anomalyr1.training.run_folder import ADAPTER, DATA, FINAL, RECIPE, RUN
from anomalyr1.training.run_record import record_of, write_record
from anomalyr1.training.settings import cap_images, dtype_of
from anomalyr1.types import InputError, Sample, SetupError

if TYPE_CHECKING:
    from anomalyr1.policy.load import Policy

Say = Callable[[str], None]

SFT_ANSWERS = 256
"""Tokens that a held-out answer after SFT may have at least."""


@dataclass(frozen=True)
class _Start:
    """Where a run begins."""

    checkpoint: Path | None
    notes: list[str]

    @property
    def step(self) -> int:
        return int(self.checkpoint.name.rpartition("-")[2]) if self.checkpoint else 0

    @property
    def at_the_end(self) -> bool:
        """Whether the checkpoint is of the last step, so that only the policy remains to be written."""
        if self.checkpoint is None:
            return False
        state = json.loads((self.checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return bool(state["global_step"] >= state["max_steps"])


def train(recipe: Recipe, out: Path, *, resume: bool = False, say: Say = print, command: str = "") -> Path:
    """Run `recipe` into the new folder `out`, or go on with the run that is there; gives the folder of the trained policy.

    `resume` takes the newest complete checkpoint and says which ones it passes over; with none, the run
    begins anew. Raises `InputError` for a folder that holds a run already (without `resume`), another recipe,
    other data or another model than the run began with, for prompts that do not fit, and for all that `plan`
    refuses; `SetupError` where memory or weights are lacking.
    """
    start = _start(recipe, out, resume)
    if resume and (out / FINAL).is_dir():
        say(f"the run in {out} is finished: {out / FINAL}")
        return out / FINAL
    _wait_for_everyone()  # no process looks at the folder after another has begun the run in it
    say = say if _is_main() else _silent
    with _drawn_into(out / DATA) as folder:
        material, held_out, planned = _planned(recipe, folder, say)
        planned.require_fit()
        policy = _policy(recipe)
        record = record_of(recipe, material, held_out, policy, planned, command)

        def begin() -> None:
            for note in (*write_record(out, record, recipe, start.checkpoint), *start.notes):
                say(note)

        _fit(recipe, out, policy, material, held_out, planned.written, start, begin)
    say(f"trained policy: {out / FINAL}")
    return out / FINAL


def plan(recipe: Recipe, say: Say = print) -> Plan:
    """What `train` would do, said and given back; loads no weights and leaves nothing behind."""
    with tempfile.TemporaryDirectory() as folder:
        return _planned(recipe, Path(folder), say)[2]


def _start(recipe: Recipe, out: Path, resume: bool) -> _Start:
    """Where to begin. Raises `InputError` where the folder and what is asked for do not go together."""
    if (out / RECIPE).is_file():
        if not resume:
            raise InputError(
                f"{str(out)!r} holds a run already; go on with it with --resume, or name another folder with --out"
            )
        changed = differences(load_recipe(str(out / RECIPE)), recipe)
        if changed:
            raise InputError(
                f"{str(out)!r} was begun with another recipe, so it cannot be resumed: {'; '.join(changed)}. Give the recipe and overrides "
                "it was begun with, or another folder"
            )
        checkpoint, notes = checkpoints.newest(out)
        begin = (
            f"going on from {checkpoint.name}"
            if checkpoint
            else "there is no complete checkpoint, so the run begins anew"
        )
        return _Start(checkpoint, [*notes, begin])
    if out.exists() and (
        not out.is_dir() or any(one.name not in (DATA, RUN) and not _torn(one) for one in out.iterdir())
    ):
        raise InputError(f"{str(out)!r} holds something that is no run; name another folder with --out")
    if resume:
        raise InputError(
            f"there is no run in {str(out)!r} to go on with; leave --resume out, or name the run's folder"
        )
    return _Start(None, [])


def _planned(recipe: Recipe, folder: Path, say: Say) -> tuple[dataset.Material, list[Sample], Plan]:
    """What is learned from, what is held out, and the plan, which is said."""
    rewards = {name: load_reward(name) for name in recipe.rewards} if recipe.section == "grpo" else None
    samples = sources.load_sources(recipe.data, folder / "drawn")
    samples += turned(samples, folder / "turned") if recipe.turned else []
    material = dataset.gather(samples, recipe, rewards)
    held_out = sources.load_sources(recipe.held_out, folder / "drawn", "test") if recipe.held_out else []
    dataset.require_apart(material, held_out)
    if held_out:
        from anomalyr1.training.held_out import known

        known(held_out)
    made = make_plan(recipe, material)
    for line in made.lines():
        say(line)
    return material, held_out, made


def _policy(recipe: Recipe) -> Policy:
    """The policy to train; its processor takes images as `images.fit` sizes them, so that nothing is resized again."""
    from anomalyr1.policy.load import load_policy

    device = (
        "cpu" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
    )  # accelerate brings each process's copy to its own device
    policy = load_policy(recipe.model, recipe.revision, device, dtype_of(recipe), recipe.max_pixels)
    cap_images(policy)
    return policy


def _fit(
    recipe: Recipe,
    out: Path,
    policy: Policy,
    material: dataset.Material,
    held_out: list[Sample],
    written: int,
    start: _Start,
    begin: Callable[[], None],
) -> None:
    """Train and write the policy; `begin` makes the folder a run, once the trainer has taken all settings.

    Completions have at most `written` tokens; held-out answers may be as long, and after SFT twice as long,
    at least `SFT_ANSWERS`.
    """
    import torch

    from anomalyr1.policy.load import quiet
    from anomalyr1.training import held_out as held
    from anomalyr1.training.run_log import RunLog
    from anomalyr1.training.trainers import make_trainer

    log = RunLog(out, recipe)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", category=FutureWarning, module="transformers"
            )  # names that TRL still uses
            with _in_our_words(recipe.section):
                trainer = make_trainer(recipe, out, policy, material, log)
                trainer.get_optimizer_cls_and_kwargs(
                    trainer.args, trainer.model
                )  # what it needs may not be installed
            begin()
            log.rewind(start.step)
            log.attach(trainer)
            if held_out:
                limit = written if recipe.section == "grpo" else max(SFT_ANSWERS, 2 * written)
                held.attach(
                    trainer, held.HeldOut(held_out, policy, *dataset.prompt_style(recipe)), log, limit
                )
            if start.at_the_end:
                _without_steps(trainer)
            trainer.train(resume_from_checkpoint=str(start.checkpoint) if start.checkpoint else None)
            _finish(trainer, policy, recipe, out)
    except (MemoryError, RuntimeError) as error:
        on_cpu = "can't allocate memory" in str(error)  # there torch has no class for it
        if not (on_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)):
            raise
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise SetupError(
            f"not enough memory ({said}); make per_device_train_batch_size or max_pixels smaller, use gradient_checkpointing or lora, or "
            "shard with accelerate; then begin another run"
        ) from error
    finally:
        log.close()


@contextmanager
def _in_our_words(section: str) -> Iterator[None]:
    """What a trainer refuses as it is made is the recipe's fault, or that of what is not installed."""
    try:
        yield
    except (InputError, SetupError, ModuleNotFoundError):
        raise
    except (ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "to be installed" not in str(
            error
        ):  # transformers' word for a tracker that is not there
            raise
        raise SetupError(f"section {section} of the recipe needs what is not installed: {error}") from error
    except ValueError as error:
        raise InputError(f"section {section} of the recipe, refused by the trainer: {error}") from error


def _without_steps(trainer: Any) -> None:
    """Let `train` load the checkpoint and end: transformers 5.23 goes into the epoch and makes a step, whatever `max_steps` says."""

    def run_epoch(**_: object) -> None:
        trainer.control.should_training_stop = True

    trainer._run_epoch = run_epoch


def _finish(trainer: Any, policy: Policy, recipe: Recipe, out: Path) -> None:
    """Write the trained policy, and with `lora` the adapter beside it; whole or not at all.

    An adapter is merged into a fresh copy of its base: the trained one may lie in shards.
    """
    from accelerate.utils import is_peft_model
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from anomalyr1.training.merge import merged

    # Every process takes part where weights are sharded; DeepSpeed's engine, not the model in it, can gather
    # them.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not _is_main():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if is_peft_model(model):
        with _replaced(out / ADAPTER) as folder:
            model.save_pretrained(folder, state_dict=state)
        unset_hf_deepspeed_config()  # else transformers would load the base in shards, and wait for the others
        model, state = merged(out / ADAPTER, recipe.model, recipe.revision, recipe.max_pixels)[0], None
    with _replaced(out / FINAL) as folder:
        model.save_pretrained(folder, state_dict=state)
        policy.processor.save_pretrained(folder)


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """A new folder to fill in place of what a killed run may have left there."""
    from anomalyr1.files import new_folder

    if target.exists():
        shutil.rmtree(target)
    with new_folder(target) as folder:
        yield folder


@contextmanager
def _drawn_into(folder: Path) -> Iterator[Path]:
    """Where drawn parts go: the run's own folder, and for the other processes of a run, which draw the same, one that vanishes."""
    if _is_main():
        yield folder
        return
    with tempfile.TemporaryDirectory() as own:
        yield Path(own)


def _wait_for_everyone() -> None:
    """Until all processes of the run are here."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def _torn(path: Path) -> bool:
    """Whether a kill left this beside a file that `write_whole` was writing."""
    return path.name.startswith((f".{RUN}.", f".{RECIPE}."))


def _silent(_: str) -> None:
    """What the other processes of a run say."""


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"
