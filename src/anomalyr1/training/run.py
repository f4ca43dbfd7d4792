"""One training run: recipe in, run folder out (`run_folder` says what lies in it).

from anomalyr1.training import load_recipe, train
train(load_recipe("nano-grpo", ["grpo.max_steps=20"]), Path("runs/mine"))
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyr1.data import sources
from anomalyr1.data.leaks import LEARNED
from anomalyr1.files import new_folder
from anomalyr1.inspection.picture_guard import keep_look
from anomalyr1.rewards import is_code
from anomalyr1.training import checkpoints
from anomalyr1.training.arguments import argument_values, build_arguments, old_names_allowed
from anomalyr1.training.dataset import TrainingSet, gather, require_apart
from anomalyr1.training.orientations import turn_samples
from anomalyr1.training.plan import Plan, make_plan
from anomalyr1.training.processes import is_main_process, wait_for_all, world_size
from anomalyr1.training.recipes import Recipe, differences, read_recipe
from anomalyr1.training.resolved import Resolved, resolve
from anomalyr1.training.run_folder import ADAPTER, DATA, FINAL, RECIPE, RUN
from anomalyr1.training.run_record import record_of, write_record
from anomalyr1.training.settings import cap_images, dtype_of
from anomalyr1.types import InputError, Sample, SetupError

if TYPE_CHECKING:
    from anomalyr1.policy.load import Policy
    from anomalyr1.training.run_log import RunLog

Say = Callable[[str], None]

SFT_ANSWERS = 256
"""Tokens that a held-out answer after SFT may have at least."""


@dataclass(frozen=True)
class ResumePoint:
    """Where a run begins."""

    checkpoint: Path | None
    """The checkpoint that it goes on from; None = it begins anew."""
    notes: list[str]
    """Which checkpoint that is, and which ones are passed over, a line each."""

    @property
    def step(self) -> int:
        """The optimizer steps that are behind it."""
        return checkpoints.step_of(self.checkpoint) if self.checkpoint else 0

    @property
    def at_the_end(self) -> bool:
        """Whether no step is left, so that only the policy remains to be written."""
        if self.checkpoint is None:
            return False
        state = json.loads((self.checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return bool(state["global_step"] >= state["max_steps"])


@dataclass(frozen=True)
class Preparation:
    """All that is settled of a run before any weights are loaded."""

    resolved: Resolved
    """The recipe with what it stands for."""
    training_set: TrainingSet
    """What is learned from."""
    held_out: list[Sample]
    """What is asked now and then; empty where the recipe names nothing."""
    argument_values: dict[str, Any]
    """The arguments for TRL's configuration, which TRL has accepted."""
    plan: Plan
    """What the run will take."""

    @property
    def answer_limit(self) -> int:
        """Most tokens of a held-out answer: those of GRPO's completions, or twice the longest of SFT's."""
        tokens = self.plan.completion_tokens
        return tokens if self.resolved.grpo else max(SFT_ANSWERS, 2 * tokens)


def train(recipe: Recipe, out: Path, *, resume: bool = False, say: Say = print, command: str = "") -> Path:
    """Run `recipe` into the new folder `out`, or go on with the run that is there.

    Gives the folder of the trained policy. `resume` takes the newest complete checkpoint and says which ones
    it passes over; with none, the run begins anew. Raises `InputError` for a folder that holds a run already
    (without `resume`), another recipe, other data or another model than the run began with, for prompts that
    do not fit, and for all that `plan_run` refuses; `SetupError` where memory or weights are lacking.
    """
    from anomalyr1.policy.library import quiet
    from anomalyr1.training.run_log import RunLog

    start = _resume_point(recipe, out, resume)
    if resume and (out / FINAL).is_dir():
        say(f"the run in {out} is finished: {out / FINAL}")
        return out / FINAL
    wait_for_all()  # no process looks at the folder after another has begun the run in it
    say = say if is_main_process() else _keep_silent
    with _data_folder(out) as folder:
        # 1. The plan, which is said.
        prepared = _prepare(recipe, folder, out, say)
        prepared.plan.require_fit()
        # 2. The policy.
        policy = _load_policy(prepared.resolved)
        # 3. The trainer; only once it has taken all settings the folder becomes a run.
        with closing(RunLog(out)) as log, quiet(), old_names_allowed(), _memory_errors_explained():
            trainer = _make_trainer(prepared, policy, log)
            record = record_of(
                prepared.resolved, prepared.training_set, prepared.held_out, policy, prepared.plan, command
            )
            traces = prepared.training_set.traces()
            notes = write_record(out, record, traces, recipe, start.checkpoint)
            for note in (*notes, *start.notes):
                say(note)
            # 4. Training, watched by the log and by held-out questions.
            log.rewind(start.step)
            log.attach(trainer)
            _attach_held_out(prepared, trainer, policy, log)
            _run_trainer(trainer, start)
            # 5. The trained policy.
            _write_policy(trainer, policy, prepared.resolved, out, prepared.training_set.samples)
    say(f"trained policy: {out / FINAL}")
    return out / FINAL


def plan_run(recipe: Recipe, say: Say = print) -> Plan:
    """What `train` would do, said and given back; loads no weights, runs no code, leaves nothing behind.

    Raises `InputError` for whatever cannot be trained, and `SetupError` for what is not installed or here.
    """
    with tempfile.TemporaryDirectory() as folder:
        plan = _prepare(recipe, Path(folder), Path(), say, run_code=False).plan
    for name in filter(is_code, recipe.rewards):
        say(f"reward {name} is code: not run by the plan, which takes it to apply to all questions")
    return plan


def _resume_point(recipe: Recipe, out: Path, resume: bool) -> ResumePoint:
    """Where to begin. Raises `InputError` where the folder and what is asked for do not go together."""
    if (out / RECIPE).is_file():
        if not resume:
            raise InputError(
                f"{str(out)!r} holds a run already; go on with it with --resume, or name another folder with "
                "--out"
            )
        changes = differences(read_recipe(out / RECIPE), recipe)
        if changes:
            raise InputError(
                f"{str(out)!r} was begun with another recipe, so it cannot be resumed: {'; '.join(changes)}. "
                "Give the recipe and overrides it was begun with, or another folder"
            )
        checkpoint, notes = checkpoints.newest(out)
        if checkpoint is None:
            return ResumePoint(None, [*notes, "there is no complete checkpoint, so the run begins anew"])
        return ResumePoint(checkpoint, [*notes, f"going on from {checkpoint.name}"])
    if out.exists() and not _may_begin_in(out):
        raise InputError(f"{str(out)!r} holds something that is no run; name another folder with --out")
    if resume:
        raise InputError(
            f"there is no run in {str(out)!r} to go on with; leave --resume out, or name the run's folder"
        )
    return ResumePoint(None, [])


def _may_begin_in(out: Path) -> bool:
    """Whether there is nothing in a folder but what a run leaves that was refused, or killed as it began."""
    unfinished = (
        f".{RUN}.",
        f".{LEARNED}.",
        f".{RECIPE}.",
    )  # as `write_whole` calls files that it has not renamed yet
    return out.is_dir() and all(
        path.name in (DATA, RUN, LEARNED) or path.name.startswith(unfinished) for path in out.iterdir()
    )


def _prepare(recipe: Recipe, folder: Path, out: Path, say: Say, run_code: bool = True) -> Preparation:
    """Settle all that can be settled without weights; drawn parts go to `folder`. The plan is said."""
    resolved = resolve(recipe, run_code)
    # 1. What is learned from, and what is held out.
    samples = sources.load_sources(recipe.data, folder / "drawn")
    if recipe.turned:
        samples += turn_samples(samples, folder / "turned")
    held_out = sources.load_sources(recipe.held_out, folder / "drawn", "test") if recipe.held_out else []
    counts: dict[str, int] = {}
    if recipe.evidence:
        from anomalyr1.training import evidence

        banks = evidence.ClassBanks(samples, recipe.turned)
        samples, counts = evidence.measure_training(samples, banks, recipe)
        held_out, lacking = evidence.measure_held_out(held_out, banks)
        counts |= lacking
    training_set = gather(samples, resolved)
    for name, number in counts.items():
        say(f"{number} {name}")
    require_apart(training_set, held_out)
    if held_out:
        from anomalyr1.training.held_out import require_both_kinds

        require_both_kinds(held_out)
    # 2. What it takes, and whether TRL accepts it. Its configuration is made again for the trainer: under
    # DeepSpeed transformers loads weights in shards while one is alive, and they are to be loaded whole.
    plan = make_plan(resolved, training_set)
    values = argument_values(recipe, resolved.settings, training_set.rows(resolved.grpo), world_size())
    build_arguments(recipe.section, values, out)
    for line in plan.lines():
        say(line)
    return Preparation(resolved, training_set, held_out, values, plan)


def _load_policy(resolved: Resolved) -> Policy:
    """The policy to train; its processor takes images as `images.fit` sizes them."""
    from anomalyr1.policy.load import load_policy

    recipe = resolved.recipe
    device = "cpu" if world_size() > 1 else None  # accelerate brings each process's copy to its own device
    policy = load_policy(recipe.model, recipe.revision, device, dtype_of(recipe), recipe.max_pixels)
    cap_images(policy)
    return policy


def _make_trainer(prepared: Preparation, policy: Policy, log: RunLog) -> Any:
    """The trainer, with an optimizer that is installed. Raises `InputError` and `SetupError` as it does."""
    from anomalyr1.training import trainers

    resolved = prepared.resolved
    with _refusals_explained(resolved.recipe.section):
        trainer = trainers.make_trainer(
            resolved, prepared.training_set, prepared.argument_values, policy, log
        )
        trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    return trainer


def _attach_held_out(prepared: Preparation, trainer: Any, policy: Policy, log: RunLog) -> None:
    """Let the held-out samples be asked now and then, where there are any."""
    if prepared.held_out:
        from anomalyr1.training import held_out

        resolved = prepared.resolved
        questions = held_out.HeldOut(prepared.held_out, policy, *resolved.prompt_style)
        held_out.attach(trainer, questions, log, prepared.answer_limit, resolved.recipe.seed)


def _run_trainer(trainer: Any, start: ResumePoint) -> None:
    """Train, from the checkpoint that there may be."""
    if start.at_the_end:
        _leave_out_steps(trainer)
    trainer.train(resume_from_checkpoint=str(start.checkpoint) if start.checkpoint else None)


def _leave_out_steps(trainer: Any) -> None:
    """Let `train` load the checkpoint and end.

    transformers 5.23 goes into the epoch and makes a step, whatever `max_steps` says.
    """

    def run_epoch(**_: object) -> None:
        trainer.control.should_training_stop = True

    trainer._run_epoch = run_epoch


def _write_policy(
    trainer: Any, policy: Policy, resolved: Resolved, out: Path, samples: Sequence[Sample]
) -> None:
    """Write the trained policy, and with `lora` the adapter beside it; whole or not at all.

    An adapter is merged into a fresh copy of its base: the trained one may lie in shards.
    """
    from accelerate.utils import is_peft_model
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from anomalyr1.training.handover import hand_over, taught_by
    from anomalyr1.training.merge import merged

    # Every process takes part where weights are sharded; DeepSpeed's engine, not the model in it, can gather
    # them.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not is_main_process():
        return
    for folder in (out / ADAPTER, out / FINAL):  # as a killed run may have left them
        shutil.rmtree(folder, ignore_errors=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if is_peft_model(model):
        with new_folder(out / ADAPTER) as folder:
            model.save_pretrained(folder, state_dict=state)
        # Else transformers would load the base in shards, and wait for the other processes.
        unset_hf_deepspeed_config()
        recipe = resolved.recipe
        model, state = merged(out / ADAPTER, recipe.model, recipe.revision, recipe.max_pixels)[0], None
    with new_folder(out / FINAL) as folder:
        model.save_pretrained(folder, state_dict=state)
        policy.processor.save_pretrained(folder)
        hand_over(folder, taught_by(policy, resolved), policy.family)
        keep_look(samples, folder)


@contextmanager
def _refusals_explained(section: str) -> Iterator[None]:
    """What a trainer refuses as it is made is the recipe's fault, or that of what is not installed."""
    try:
        yield
    except (InputError, SetupError, ModuleNotFoundError):
        raise
    except (ImportError, RuntimeError) as error:
        # "to be installed" is transformers' word for a tracker that is not there.
        if isinstance(error, RuntimeError) and "to be installed" not in str(error):
            raise
        raise SetupError(f"section {section} of the recipe needs what is not installed: {error}") from error
    except ValueError as error:
        raise InputError(f"section {section} of the recipe, refused by the trainer: {error}") from error


@contextmanager
def _memory_errors_explained() -> Iterator[None]:
    """Turn what torch raises when memory is short into a `SetupError` that says what to do."""
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        on_cpu = "can't allocate memory" in str(error)  # there torch has no class for it
        if not (on_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SetupError(
            f"not enough memory ({reason}); make per_device_train_batch_size or max_pixels smaller, use "
            "gradient_checkpointing or lora, or shard with accelerate; then begin another run"
        ) from error


@contextmanager
def _data_folder(out: Path) -> Iterator[Path]:
    """Where drawn parts go: into the run; its other processes draw the same into a folder that vanishes."""
    if is_main_process():
        yield out / DATA
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _keep_silent(_: str) -> None:
    """What the other processes of a run say."""
