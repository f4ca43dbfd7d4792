"""The trainer of a recipe: `SharedPrefixGRPOTrainer` or `PackedSFTTrainer`, with data, rewards, adapters and what stays frozen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from anomalyr1.policy.load import Policy
from anomalyr1.rewards import load_reward
from anomalyr1.training.dataset import Material, prompt_rows
from anomalyr1.training.recipes import Recipe
from anomalyr1.training.reward_functions import Asked, reward_functions
from anomalyr1.training.run_log import RunLog
from anomalyr1.training.settings import adapters, arguments, freeze
from anomalyr1.training.zero_variance import ScoredGroup
from anomalyr1.types import SetupError

NEVER = -100.0
"""What vLLM adds to the logit of a token that must not be written: the least it takes."""


def make_trainer(recipe: Recipe, out: Path, policy: Policy, material: Material, log: RunLog) -> Any:
    """The trainer of `recipe` over `material`, which writes to `out`; groups of GRPO go to `log`. Changes the policy's model."""
    from transformers import set_seed

    set_seed(recipe.seed)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    freeze(policy.model, recipe)
    policy.model.train()
    if recipe.section == "sft":
        return _sft(recipe, out, policy, material, processes)
    return _grpo(recipe, out, policy, material, processes, log)


def _sft(recipe: Recipe, out: Path, policy: Policy, material: Material, processes: int) -> Any:
    from peft import get_peft_model

    from anomalyr1.training.sft import Lessons, PackedSFTTrainer, Packer

    lessons = Lessons(material, policy, recipe.seed)
    args = arguments(recipe, out, len(lessons), processes)
    _require_one_device(args)
    model, lora = policy.model, adapters(recipe)
    if lora is not None:
        model = get_peft_model(model, lora)
        if args.gradient_checkpointing:
            model.enable_input_require_grads()
    return PackedSFTTrainer(
        model=model, args=args, train_dataset=lessons, data_collator=Packer(policy), processing_class=policy.processor
    )  # fmt: skip


def _grpo(recipe: Recipe, out: Path, policy: Policy, material: Material, processes: int, log: RunLog) -> Any:
    from anomalyr1.training.grpo import SharedPrefixGRPOTrainer

    args = arguments(recipe, out, len(material.tasks), processes)
    _require_one_device(args)
    if args.use_vllm:
        own = args.generation_kwargs or {}
        bias = {int(id_): value for id_, value in own.get("logit_bias", {}).items()} | dict.fromkeys(
            policy.suppressed_ids, NEVER
        )
        args.generation_kwargs = {**own, "logit_bias": bias}
    asked = [
        Asked(task.sample.id, task.question, material.frame(task.sample, policy.family, policy.max_pixels))
        for task in material.tasks
    ]

    def on_group(group: ScoredGroup) -> None:
        task = material.tasks[group.row]
        log.group(
            trainer.state.global_step + 1, task.sample, task.question, group.prompt_tokens, group.completions, group.rewards,
            recipe.rewards, group.advantages, asked[group.row].frame,
        )  # fmt: skip

    trainer = SharedPrefixGRPOTrainer(
        model=policy.model,
        reward_funcs=list(reward_functions({name: load_reward(name) for name in recipe.rewards}, asked)),
        args=args,
        train_dataset=prompt_rows(material, policy.family, policy.max_pixels),
        processing_class=policy.processor,
        peft_config=adapters(recipe),
        suppressed_ids=policy.suppressed_ids,
        zero_variance=recipe.zero_variance,
        on_group=on_group,
    )
    return trainer


def _require_one_device(args: Any) -> None:
    """Raises `SetupError` where this process sees several GPUs: transformers would run copies of the model that share no prefixes."""
    if args.n_gpu > 1:
        raise SetupError(
            f"one process sees {args.n_gpu} GPUs; start one a GPU with accelerate launch (docs/runs.md says how), or show it a single "
            "one with CUDA_VISIBLE_DEVICES=0"
        )
