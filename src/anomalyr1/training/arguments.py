"""TRL's configuration of a run: what the settings come to over the data, and what could not be resumed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalyr1.training.recipes import Recipe
from anomalyr1.training.settings import our_defaults, trl_config_class
from anomalyr1.types import InputError, SetupError

SAVES = 10
"""Checkpoints that a run makes unless the recipe says how often."""


def argument_values(recipe: Recipe, settings: Mapping[str, Any], rows: int, processes: int) -> dict[str, Any]:
    """The arguments for TRL's configuration of a run over `rows` rows of data in so many processes.

    `settings` are `settings.settings_of(recipe)`. Raises `InputError` for a run that could not be resumed to
    the bit, for resampling in several processes, and for data that fill no batch.
    """
    grpo = recipe.section == "grpo"
    # 1. What several processes cannot do.
    if recipe.zero_variance == "resample" and processes > 1:
        raise InputError(
            "zero_variance: resample draws different groups again in each process, which cannot wait for "
            "each other; use skip"
        )
    # 2. When checkpoints are written, unless the recipe says so.
    values = our_defaults()
    if "save_steps" not in recipe.settings:
        steps = steps_of(settings, rows, processes, grpo)
        values["save_steps"] = _default_save_steps(settings, steps, grpo)
    save_steps = values.get("save_steps", settings["save_steps"])
    # 3. What does not go together.
    if grpo and settings["sync_ref_model"] and (settings["beta"] == 0 or recipe.lora is not None):
        raise InputError(
            "section grpo of the recipe: sync_ref_model needs a reference model of its own, so a beta that "
            "is not 0, and no lora, whose reference is the policy without adapters; set one of them, or "
            "leave sync_ref_model out"
        )
    if grpo and settings["save_strategy"] == "steps":
        _require_used_up(settings, save_steps, steps_of(settings, rows, processes))
    _require_logged(settings, save_steps)
    # 4. Ours under the recipe's, and what is decided elsewhere above them.
    if grpo:
        values["reward_weights"] = list(recipe.rewards.values())
    return values | recipe.settings | {"seed": recipe.seed, "remove_unused_columns": False}


def build_arguments(section: str, values: Mapping[str, Any], out: Path) -> Any:
    """TRL's `GRPOConfig` or `SFTConfig` of the run in the folder `out`.

    Raises `InputError` with TRL's words where it refuses `values`, and `SetupError` where a package is
    lacking that they need, such as DeepSpeed.
    """
    try:
        with old_names_allowed():
            return trl_config_class(section)(**values, output_dir=str(out))
    except (ValueError, TypeError) as error:
        raise InputError(f"section {section} of the recipe: {error}") from error
    except ImportError as error:  # `PackageNotFoundError`, too
        lack = " ".join(str(error.name or error).split()).rstrip(".")
        raise SetupError(
            f"section {section} of the recipe needs a package that is not installed ({lack}); install it, or "
            "leave the key out that needs it"
        ) from error


@contextmanager
def old_names_allowed() -> Iterator[None]:
    """No warning of transformers about names that it is giving up, and that TRL still uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        yield


def steps_of(settings: Mapping[str, Any], rows: int, processes: int = 1, grpo: bool = True) -> int:
    """Optimizer steps of a run over `rows` rows of data.

    Raises `InputError` where they do not fill one batch.
    """
    batch = settings["per_device_train_batch_size"] * processes
    if grpo:
        prompts, completions = prompts_of(settings, processes), batch * settings["steps_per_generation"]
        if rows < prompts or prompts == 0:
            raise InputError(
                f"the data has {rows} prompts, and a generation batch takes {prompts} ({completions} "
                f"completions, {settings['num_generations']} a prompt); give more data, or make "
                "per_device_train_batch_size or gradient_accumulation_steps smaller"
            )
        microbatches = rows // prompts * settings["steps_per_generation"] * settings["num_iterations"]
    else:
        microbatches = math.ceil(rows / batch)
    if settings["max_steps"] > 0:
        return int(settings["max_steps"])
    steps_an_epoch = max(1, math.ceil(microbatches / settings["gradient_accumulation_steps"]))
    steps: int = math.ceil(steps_an_epoch * settings["num_train_epochs"])
    return steps


def prompts_of(settings: Mapping[str, Any], processes: int = 1) -> int:
    """Prompts of a generation batch of GRPO."""
    completions = settings["per_device_train_batch_size"] * processes * settings["steps_per_generation"]
    return int(completions // settings["num_generations"])


def _default_save_steps(settings: Mapping[str, Any], steps: int, grpo: bool) -> int:
    """A tenth of the run, rounded up to where a generation batch ends and a step is logged."""
    unit = int(settings["logging_steps"]) if settings["logging_steps"] >= 1 else 1
    if grpo:
        unit = math.lcm(unit, _steps_to_use_up(settings))
    return math.ceil(steps / SAVES / unit) * unit


def _require_used_up(settings: Mapping[str, Any], save_steps: float, steps: int) -> None:
    """Raise `InputError` where a checkpoint would fall between the steps of a generation batch.

    None would be written there.
    """
    save_steps = math.ceil(steps * save_steps) if save_steps < 1 else int(save_steps)
    unit = _steps_to_use_up(settings)
    if save_steps % unit:
        raise InputError(
            f"section grpo of the recipe: save_steps is {save_steps}, and a checkpoint can be written every "
            f"{unit} steps, when a generation batch is used up; make save_steps a multiple of {unit}"
        )


def _steps_to_use_up(settings: Mapping[str, Any]) -> int:
    """Optimizer steps after which generation batch and step end together."""
    microbatches = int(settings["steps_per_generation"] * settings["num_iterations"])
    return microbatches // math.gcd(microbatches, int(settings["gradient_accumulation_steps"]))


def _require_logged(settings: Mapping[str, Any], save_steps: float) -> None:
    """Raise `InputError` where a checkpoint can fall between two logged steps.

    A run resumed there would lack the metrics before it.
    """
    logging_steps = settings["logging_steps"]
    when_logged, when_saved = settings["logging_strategy"], settings["save_strategy"]
    if "no" in (when_logged, when_saved) or (str(when_logged) == "steps" and logging_steps == 1):
        return
    if when_logged == when_saved and (when_saved != "steps" or save_steps % logging_steps == 0):
        return
    raise InputError(
        f"a run with logging_steps: {logging_steps} and save_steps: {save_steps} could not be resumed with "
        "all its metrics; make save_steps a multiple of logging_steps, or log every step"
    )
