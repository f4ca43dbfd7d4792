"""What a recipe's keys mean to TRL, peft and transformers: its section with all defaults, adapters, types."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import TYPE_CHECKING, Any

from anomalyr1.training.recipes import Recipe, check_keys, check_settings
from anomalyr1.types import InputError

if TYPE_CHECKING:
    from anomalyr1.policy.load import Policy

VISION = r".*\bvisual\b.*"
"""The names of the vision tower's modules."""
_HELD_OUT_BATCHES = "held-out data is asked by the engine that inspects, which makes its own batches"
_NO_EVALUATION = (
    "the trainer has no data to evaluate on; name held_out data, and say with eval_steps how often it is "
    "asked"
)
REFUSED = {
    "eval_strategy": _NO_EVALUATION,
    "do_eval": _NO_EVALUATION,
    "eval_on_start": "held_out data is asked before the first step anyway",
    "load_best_model_at_end": "there is no best one: held_out data chooses nothing; take the checkpoint that "
    "you want by `anomalyr1 merge`",
    "generation_batch_size": "it depends on the number of processes; say steps_per_generation",
    "save_only_model": "a run could not be resumed from such a checkpoint",
    "ignore_data_skip": "a resumed run would see other data than an uninterrupted one",
    "per_device_eval_batch_size": _HELD_OUT_BATCHES,
    "eval_accumulation_steps": _HELD_OUT_BATCHES,
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
"""Words of GRPO that TRL 1.16 itself checks only in the middle of a step."""
NOT_NEGATIVE = ("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm", "beta")
"""Keys whose value is 0 or a larger number: of others an optimizer complains once the run has begun."""
POSITIVE = (
    "num_generations",
    "num_iterations",
    "steps_per_generation",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_completion_length",
    "logging_steps",
    "eval_steps",
    "save_steps",
)
"""Counts, of which TRL refuses some only in the middle of a run."""
PLAIN_TYPES = {bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}
"""The types of values that are checked, in words."""


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """All keys of the recipe's section with what holds: TRL's defaults, then ours, then the recipe's.

    Raises `InputError` for a key that TRL does not know, one that is decided elsewhere, one of SFT's that has
    no meaning here, and a value that is none of its key's.
    """
    # 1. Are the keys TRL's, and for SFT those of every trainer of transformers'?
    config_class = trl_config_class(recipe.section)
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    check_settings(recipe, fields)
    if recipe.section == "sft":
        _require_trainer_keys(recipe)
    # 2. Are the values what the keys take?
    types = typing.get_type_hints(config_class)
    for key, value in recipe.settings.items():
        _check_value(recipe.section, key, value, types[key])
    # 3. TRL's defaults under ours under the recipe's.
    settings = {name: _default(field) for name, field in fields.items()}
    settings |= our_defaults() | recipe.settings
    if recipe.section == "grpo" and settings["steps_per_generation"] is None:
        settings["steps_per_generation"] = settings["gradient_accumulation_steps"]
    return settings


def trl_config_class(section: str) -> Any:
    """TRL's configuration of SFT or GRPO."""
    from trl import GRPOConfig, SFTConfig

    return SFTConfig if section == "sft" else GRPOConfig


def our_defaults() -> dict[str, Any]:
    """What holds here where the recipe says nothing, though TRL has it otherwise."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "logging_steps": 1,
        "report_to": ["tensorboard"],
        "save_strategy": "steps",
        "save_total_limit": 3,
        # transformers would log the mean so far in place of a loss that is no number
        "logging_nan_inf_filter": False,
        "bf16": cuda,
        "use_cpu": not cuda,
    }


def _require_trainer_keys(recipe: Recipe) -> None:
    """Raise `InputError` for a key of `SFTConfig` that transformers' own trainer does not have."""
    from transformers import TrainingArguments

    trainer_keys = {field.name for field in dataclasses.fields(TrainingArguments)}
    for key in recipe.settings:
        if key not in trainer_keys:
            raise InputError(
                f"section sft of the recipe cannot set {key!r}: it is about how TRL prepares texts, and this "
                "package writes and packs completions itself and never cuts them off; leave it out"
            )


def _check_value(section: str, key: str, value: Any, type_hint: Any) -> None:
    """Raise `InputError` for a key that is refused, and a value that is not of the key's type or words."""
    where = f"section {section} of the recipe"
    if key in REFUSED and value not in (None, False, "no"):
        raise InputError(f"{where} cannot set {key!r}: {REFUSED[key]}")
    if section == "grpo" and key in CHOICES and value not in CHOICES[key]:
        words = [choice for choice in CHOICES[key] if isinstance(choice, str)]
        raise InputError(f"{where}: {key} is {value!r}, expected one of {', '.join(words)}")
    types = typing.get_args(type_hint) or (type_hint,)
    is_whole_float = float in types and type(value) is int
    if set(types) <= PLAIN_TYPES.keys() and type(value) not in types and not is_whole_float:
        expected = " or ".join(PLAIN_TYPES[kind] for kind in types)
        raise InputError(f"{where}: {key} is {value!r}, expected {expected}")
    if key in POSITIVE and isinstance(value, int | float) and value <= 0:
        raise InputError(f"{where}: {key} is {value!r}, expected more than 0")
    if key in NOT_NEGATIVE and isinstance(value, int | float) and not 0 <= value < math.inf:
        raise InputError(f"{where}: {key} is {value!r}, expected 0 or more")
    if key == "max_steps" and value != -1 and value < 1:
        raise InputError(f"{where}: max_steps is {value!r}, expected more than 0, or -1 for whole epochs")
    if key == "max_completion_length" and value is None:
        raise InputError(
            f"{where}: max_completion_length is null, expected a whole number, by which memory and time are "
            "planned"
        )


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def adapter_config(recipe: Recipe) -> Any:
    """Peft's `LoraConfig` of the recipe, None without `lora`; frozen vision gets no adapters.

    Raises `InputError` for unknown keys, for a beginning that changes the base, which is not saved with them,
    and for adapters of the head.
    """
    if recipe.lora is None:
        return None
    from peft import LoraConfig

    # 1. Only keys that peft knows.
    keys = [field.name for field in dataclasses.fields(LoraConfig)]
    check_keys(recipe.lora, keys, "section lora of the recipe")
    # 2. What is frozen is left out.
    excluded = {"exclude_modules": VISION} if recipe.freeze == "vision" else {}
    if excluded and "exclude_modules" in recipe.lora:
        raise InputError(
            "a recipe with freeze: vision cannot set lora.exclude_modules too; say which modules with "
            "lora.target_modules"
        )
    try:
        config = LoraConfig(**{**recipe.lora, **excluded})
    except (ValueError, TypeError) as error:
        raise InputError(f"section lora of the recipe: {error}") from error
    # 3. The base must stay as it is, and the head without wrappers.
    if config.init_lora_weights not in (True, False, "gaussian", "orthogonal"):
        raise InputError(
            f"lora.init_lora_weights: {config.init_lora_weights} may change the base's weights, into which "
            "the adapter is merged in the end; expected true, false, gaussian or orthogonal"
        )
    for key in ("target_modules", "modules_to_save"):
        if "lm_head" in (recipe.lora.get(key) or ()):
            raise InputError(
                f"lora.{key} cannot hold lm_head, whose tokens are scored without wrappers; leave it out"
            )
    return config


def dtype_of(recipe: Recipe) -> str:
    """The type that the weights are loaded in: "float32" or "bfloat16".

    It is the recipe's `dtype`, else float32 where all weights learn, and bfloat16 on CUDA under adapters:
    bfloat16 weights that learn without float32 masters lose small updates.
    """
    import torch

    if recipe.dtype is not None:
        return recipe.dtype
    return "bfloat16" if recipe.lora is not None and torch.cuda.is_available() else "float32"


def cap_images(policy: Policy) -> None:
    """Let the policy's processor take images as `images.fit` sizes them, so that nothing is resized again.

    That holds for the processor once it is saved, too.
    """
    policy.processor.image_processor.size = {
        "shortest_edge": policy.family.min_pixels,
        "longest_edge": policy.max_pixels,
    }


def freeze(model: Any, recipe: Recipe) -> None:
    """Take what the recipe freezes out of training; adapters come on top and are trained."""
    if recipe.freeze == "vision":
        model.model.visual.requires_grad_(False)
