"""What a recipe's section means to TRL: its own defaults, ours, and the recipe's keys, each checked; and the adapters of `lora`."""

from __future__ import annotations

import dataclasses
import math
import typing
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyr1.training.recipes import Recipe, check_keys, check_settings
from anomalyr1.types import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomalyr1.policy.load import Policy

VISION = r".*\bvisual\b.*"
"""The names of the vision tower's modules."""
SAVES = 10
"""Checkpoints that a run makes unless the recipe says how often."""
REFUSED = {
    "eval_strategy": "the trainer has no data to evaluate on; name held_out data, and say with eval_steps how often it is asked",
    "do_eval": "the trainer has no data to evaluate on; name held_out data, and say with eval_steps how often it is asked",
    "eval_on_start": "held_out data is asked before the first step anyway",
    "load_best_model_at_end": "there is no best one: held_out data chooses nothing; take the checkpoint that you want by `anomalyr1 merge`",
    "generation_batch_size": "it depends on the number of processes; say steps_per_generation",
    "save_only_model": "a run could not be resumed from such a checkpoint",
    "ignore_data_skip": "a resumed run would see other data than an uninterrupted one",
    "per_device_eval_batch_size": "held-out data is asked by the engine that inspects, which makes its own batches",
    "eval_accumulation_steps": "held-out data is asked by the engine that inspects, which makes its own batches",
    "num_generations_eval": "held-out data is asked once, greedily",
    "eval_delay": "held-out data is asked from the first step on, every eval_steps",
    "use_transformers_continuous_batching": "TRL has it for models without images; say use_vllm",
    "label_smoothing_factor": "only written tokens are scored",
    "dataloader_drop_last": "nothing that is to be learned from is left out",
}
"""Keys of TRL's that mean nothing here or would break what a run promises, with the reason and what to do;
"no" and false are let pass."""
CHOICES = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("colocate", "server"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}
"""Words that TRL 1.16 itself checks only in the middle of a step."""
POSITIVE = (
    "num_generations", "num_iterations", "steps_per_generation", "per_device_train_batch_size", "gradient_accumulation_steps",
    "num_train_epochs", "max_completion_length", "logging_steps", "eval_steps", "save_steps",
)  # fmt: skip
"""Counts, of which TRL refuses some only in the middle of a run."""
PLAIN = {bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """All keys of the recipe's section with what holds for them: TRL's defaults, then ours, then the recipe's.

    Raises `InputError` for a key that TRL does not know, one that is decided elsewhere, and one of SFT's that
    has no meaning here.
    """
    import torch
    from transformers import TrainingArguments
    from trl import GRPOConfig, SFTConfig

    kind = SFTConfig if recipe.section == "sft" else GRPOConfig
    fields = {field.name: field for field in dataclasses.fields(kind)}
    check_settings(recipe, fields)
    if recipe.section == "sft":
        plain = {field.name for field in dataclasses.fields(TrainingArguments)}
        if foreign := [key for key in recipe.settings if key not in plain]:
            raise InputError(
                f"section sft of the recipe cannot set {foreign[0]!r}: it is about how TRL prepares texts, and this package writes and "
                "packs completions itself and never cuts them off; leave it out"
            )
    _check_values(recipe, typing.get_type_hints(kind))
    defaults = {name: _default(field) for name, field in fields.items()}
    cuda = torch.cuda.is_available()
    ours = {
        "logging_steps": 1,
        "report_to": ["tensorboard"],
        "save_strategy": "steps",
        "save_total_limit": 3,
        "logging_nan_inf_filter": False,  # transformers would log the mean so far in place of a loss that is no number
        "bf16": cuda,
        "use_cpu": not cuda,
    }
    found = defaults | ours | recipe.settings
    if recipe.section == "grpo" and found["steps_per_generation"] is None:
        found["steps_per_generation"] = found["gradient_accumulation_steps"]
    return found


def _check_values(recipe: Recipe, hints: Mapping[str, Any]) -> None:
    """Raise `InputError` for a key that is refused, a word that TRL does not know, and text or a number where a truth value belongs."""
    where = f"section {recipe.section} of the recipe"
    for key, value in recipe.settings.items():
        if key in REFUSED and value not in (None, False, "no"):
            raise InputError(f"{where} cannot set {key!r}: {REFUSED[key]}")
        if recipe.section == "grpo" and key in CHOICES and value not in CHOICES[key]:
            known = [one for one in CHOICES[key] if isinstance(one, str)]
            raise InputError(f"{where}: {key} is {value!r}, expected one of {', '.join(known)}")
        kinds = typing.get_args(hints[key]) or (hints[key],)
        if (
            all(kind in PLAIN for kind in kinds)
            and type(value) not in kinds
            and not (float in kinds and type(value) is int)
        ):
            raise InputError(
                f"{where}: {key} is {value!r}, expected {' or '.join(PLAIN[kind] for kind in kinds)}"
            )
        if key in POSITIVE and isinstance(value, int | float) and value <= 0:
            raise InputError(f"{where}: {key} is {value!r}, expected more than 0")
        if key == "max_completion_length" and value is None:
            raise InputError(
                f"{where}: max_completion_length is null, expected a whole number, by which memory and time are planned"
            )


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def steps_of(settings: Mapping[str, Any], rows: int, processes: int = 1, grpo: bool = True) -> int:
    """Optimizer steps of a run over `rows` rows of data. Raises `InputError` where they do not fill one batch."""
    batch = settings["per_device_train_batch_size"] * processes
    accumulated = settings["gradient_accumulation_steps"]
    if grpo:
        prompts, completions = prompts_of(settings, processes), batch * settings["steps_per_generation"]
        if rows < prompts or prompts == 0:
            raise InputError(
                f"the data has {rows} prompts, and a generation batch takes {prompts} ({completions} completions, "
                f"{settings['num_generations']} a prompt); give more data, or make "
                "per_device_train_batch_size or gradient_accumulation_steps smaller"
            )
        microbatches = rows // prompts * settings["steps_per_generation"] * settings["num_iterations"]
    else:
        microbatches = math.ceil(rows / batch)
    per_epoch = max(1, math.ceil(microbatches / accumulated))
    return (
        int(settings["max_steps"])
        if settings["max_steps"] > 0
        else math.ceil(per_epoch * settings["num_train_epochs"])
    )


def prompts_of(settings: Mapping[str, Any], processes: int = 1) -> int:
    """Prompts of a generation batch of GRPO."""
    return int(
        settings["per_device_train_batch_size"]
        * processes
        * settings["steps_per_generation"]
        // settings["num_generations"]
    )


def arguments(recipe: Recipe, out: Path, rows: int, processes: int = 1) -> Any:
    """TRL's `GRPOConfig` or `SFTConfig` of the run. Raises `InputError` with TRL's words where values do not go together."""
    from trl import GRPOConfig, SFTConfig

    found = settings_of(recipe)
    if recipe.zero_variance == "resample" and processes > 1:
        raise InputError(
            "zero_variance: resample draws different groups again in each process, which cannot wait for each other; use skip"
        )
    grpo = recipe.section == "grpo"
    own: dict[str, Any] = {
        key: found[key]
        for key in (
            "logging_steps",
            "report_to",
            "save_strategy",
            "save_total_limit",
            "logging_nan_inf_filter",
            "bf16",
            "use_cpu",
        )
    }
    if "save_steps" not in recipe.settings:
        own["save_steps"] = _save_steps(found, steps_of(found, rows, processes, grpo), grpo)
    if grpo and found["sync_ref_model"] and (found["beta"] == 0 or recipe.lora is not None):
        raise InputError(
            "section grpo of the recipe: sync_ref_model needs a reference model of its own, so a beta that is not 0, and no lora, whose "
            "reference is the policy without adapters; set one of them, or leave sync_ref_model out"
        )
    if grpo and found["save_strategy"] == "steps":
        saved = (found | own)["save_steps"]
        saved = math.ceil(steps_of(found, rows, processes) * saved) if saved < 1 else int(saved)
        _check_saving(saved, _generation(found))
    _check_logging({**found, **own})
    if grpo:
        own["reward_weights"] = list(recipe.rewards.values())
    values = (
        own | recipe.settings | {"output_dir": str(out), "seed": recipe.seed, "remove_unused_columns": False}
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", category=FutureWarning, module="transformers"
            )  # names that TRL still uses
            return (GRPOConfig if grpo else SFTConfig)(**values)
    except (ValueError, TypeError) as error:
        raise InputError(f"section {recipe.section} of the recipe: {error}") from error


def _check_saving(save_steps: int, unit: int) -> None:
    """Raise `InputError` where a checkpoint would fall between the steps of a generation batch: none would be written there."""
    if save_steps % unit:
        raise InputError(
            f"section grpo of the recipe: save_steps is {save_steps}, and a checkpoint can be written every {unit} steps, when a "
            f"generation batch is used up; make save_steps a multiple of {unit}"
        )


def _generation(found: Mapping[str, Any]) -> int:
    """Optimizer steps after which generation batch and step end together."""
    used = int(
        found["steps_per_generation"] * found["num_iterations"]
    )  # microbatches between two generation batches
    return used // math.gcd(used, int(found["gradient_accumulation_steps"]))


def _check_logging(found: Mapping[str, Any]) -> None:
    """Raise `InputError` where a checkpoint can fall between two logged steps: a run resumed there lacks the metrics before it."""
    logged, saved = found["logging_steps"], found["save_steps"]
    each = str(found["logging_strategy"]) == "steps" and logged == 1
    together = found["logging_strategy"] == found["save_strategy"] and (
        found["save_strategy"] != "steps" or saved % logged == 0
    )
    if not each and not together and "no" not in (found["logging_strategy"], found["save_strategy"]):
        raise InputError(
            f"a run with logging_steps: {logged} and save_steps: {saved} could not be resumed with all its metrics; make save_steps a "
            "multiple of logging_steps, or log every step"
        )


def _save_steps(found: Mapping[str, Any], steps: int, grpo: bool) -> int:
    """A tenth of the run, rounded up to where a generation batch ends and a step is logged."""
    unit = int(found["logging_steps"]) if found["logging_steps"] >= 1 else 1
    if grpo:
        unit = math.lcm(unit, _generation(found))
    return math.ceil(steps / SAVES / unit) * unit


def adapters(recipe: Recipe) -> Any:
    """Peft's `LoraConfig` of the recipe, None without `lora`; frozen vision gets no adapters.

    Raises `InputError` for unknown keys, for a beginning that changes the base, which is not saved with them,
    and for adapters of the head.
    """
    if recipe.lora is None:
        return None
    from peft import LoraConfig

    check_keys(
        recipe.lora, [field.name for field in dataclasses.fields(LoraConfig)], "section lora of the recipe"
    )
    frozen = {"exclude_modules": VISION} if recipe.freeze == "vision" else {}
    if frozen and "exclude_modules" in recipe.lora:
        raise InputError(
            "a recipe with freeze: vision cannot set lora.exclude_modules too; say which modules with lora.target_modules"
        )
    try:
        found = LoraConfig(**{**recipe.lora, **frozen})
    except (ValueError, TypeError) as error:
        raise InputError(f"section lora of the recipe: {error}") from error
    if found.init_lora_weights not in (True, False, "gaussian", "orthogonal"):
        raise InputError(
            f"lora.init_lora_weights: {found.init_lora_weights} may change the base's weights, into which the adapter is merged in the "
            "end; expected true, false, gaussian or orthogonal"
        )
    for key in ("target_modules", "modules_to_save"):
        if "lm_head" in (recipe.lora.get(key) or ()):
            raise InputError(
                f"lora.{key} cannot hold lm_head, whose tokens are scored without wrappers; leave it out"
            )
    return found


def dtype_of(recipe: Recipe) -> str:
    """What the weights are loaded in: the recipe's `dtype`, else float32 where all weights learn, and bfloat16 on CUDA under adapters.

    bfloat16 weights that learn without float32 masters lose small updates.
    """
    import torch

    return recipe.dtype or (
        "bfloat16" if recipe.lora is not None and torch.cuda.is_available() else "float32"
    )


def cap_images(policy: Policy) -> None:
    """Let the policy's processor take images as `images.fit` sizes them, so that nothing is resized again, also once it is saved."""
    policy.processor.image_processor.size = {
        "shortest_edge": policy.family.min_pixels,
        "longest_edge": policy.max_pixels,
    }


def freeze(model: Any, recipe: Recipe) -> None:
    """Take what the recipe freezes out of training; adapters come on top and are trained."""
    if recipe.freeze == "vision":
        model.model.visual.requires_grad_(False)
