"""The trainer of a recipe: `SharedPrefixGRPOTrainer` or `PackedSFTTrainer`, with data, rewards, adapters and
what stays frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anomalyr1.policy.load import Policy
from anomalyr1.training.arguments import build_arguments
from anomalyr1.training.dataset import TrainingSet, prompt_rows
from anomalyr1.training.resolved import Resolved
from anomalyr1.training.reward_functions import CompletionReader, TrainingQuestion, reward_functions
from anomalyr1.training.run_folder import Group
from anomalyr1.training.run_log import RunLog
from anomalyr1.training.settings import adapter_config, freeze
from anomalyr1.training.zero_variance import ScoredGroup
from anomalyr1.types import SetupError

NEVER = -100.0
"""What vLLM adds to the logit of a token that must not be written: the least it takes."""


def make_trainer(
    resolved: Resolved,
    training_set: TrainingSet,
    argument_values: Mapping[str, Any],
    policy: Policy,
    log: RunLog,
) -> Any:
    """The trainer of a recipe over its training set; groups of GRPO go to `log`, and checkpoints to its
    folder.

    Changes the policy's model. `argument_values` are those of `arguments.argument_values`. Raises
    `SetupError` where this process sees several GPUs.
    """
    from transformers import set_seed

    recipe = resolved.recipe
    set_seed(recipe.seed)
    freeze(policy.model, recipe)
    policy.model.train()
    args = build_arguments(recipe.section, argument_values, log.run)
    _require_one_device(args)
    if resolved.grpo:
        return _grpo_trainer(resolved, training_set, args, policy, log)
    return _sft_trainer(resolved, training_set, args, policy)


def _sft_trainer(resolved: Resolved, training_set: TrainingSet, args: Any, policy: Policy) -> Any:
    from peft import get_peft_model

    from anomalyr1.training.sft import EncodedSamples, PackedSFTTrainer, PrefixCollator

    model, lora = policy.model, adapter_config(resolved.recipe)
    if lora is not None:
        model = get_peft_model(model, lora)
        if args.gradient_checkpointing:
            model.enable_input_require_grads()
    return PackedSFTTrainer(
        model=model,
        args=args,
        train_dataset=EncodedSamples(training_set, policy, resolved.recipe.seed),
        data_collator=PrefixCollator(policy),
        processing_class=policy.processor,
    )


def _grpo_trainer(
    resolved: Resolved, training_set: TrainingSet, args: Any, policy: Policy, log: RunLog
) -> Any:
    from anomalyr1.training.grpo import SharedPrefixGRPOTrainer

    if args.use_vllm:
        args.generation_kwargs = _suppress_in_vllm(args.generation_kwargs or {}, policy)
    # Rewards read each completion; the log takes over what they have read.
    questions = []
    for task in training_set.tasks:
        frame = training_set.frame(task.sample, policy.family, policy.max_pixels)
        questions.append(TrainingQuestion(task.sample.id, task.question, frame))
    reader = CompletionReader(questions)

    def log_group(scored: ScoredGroup) -> None:
        group = group_record(scored, training_set, questions[scored.row], resolved)
        log.group(group, [reader.read(scored.row, text) for text in scored.completions])

    return SharedPrefixGRPOTrainer(
        model=policy.model,
        reward_funcs=list(reward_functions(resolved.rewards, reader)),
        args=args,
        train_dataset=prompt_rows(training_set, policy.family, policy.max_pixels),
        processing_class=policy.processor,
        peft_config=adapter_config(resolved.recipe),
        suppressed_ids=policy.suppressed_ids,
        zero_variance=resolved.recipe.zero_variance,
        on_group=log_group,
    )


def _suppress_in_vllm(generation_kwargs: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """VLLM's arguments with the policy's suppressed tokens added to the recipe's own biases."""
    bias = {int(token_id): value for token_id, value in generation_kwargs.get("logit_bias", {}).items()}
    return {**generation_kwargs, "logit_bias": bias | dict.fromkeys(policy.suppressed_ids, NEVER)}


def group_record(
    scored: ScoredGroup, training_set: TrainingSet, question: TrainingQuestion, resolved: Resolved
) -> Group:
    """What the run's folder keeps of a group."""
    return Group(
        step=scored.step,
        sample_id=question.sample_id,
        question=question.question,
        image=str(training_set.tasks[scored.row].sample.image),
        frame=question.frame,
        prompt_tokens=scored.prompt_tokens,
        completions=tuple(scored.completions),
        rewards={name: tuple(values) for name, values in scored.rewards.items()},
        weights=resolved.recipe.rewards,
        advantages=tuple(scored.advantages),
        normalized_apart=resolved.settings["multi_objective_aggregation"] == "normalize_then_sum",
    )


def _require_one_device(args: Any) -> None:
    """Raise `SetupError` where this process sees several GPUs: transformers would run copies of the model
    that share no prefixes.
    """
    if args.n_gpu > 1:
        raise SetupError(
            f"one process sees {args.n_gpu} GPUs; start one a GPU with accelerate launch (docs/runs.md says "
            "how), "
            "or show it a single one with CUDA_VISIBLE_DEVICES=0"
        )
