"""GRPO on image prompts: TRL's trainer in which a group reads its prompt once, for rollouts and for
log-probabilities alike.

TRL repeats a prompt for each of its G completions: G image encodings and G prompt passes in generation, in
the reference policy and in the training step. `SharedPrefixGRPOTrainer` gives the same numbers (see
`shared_prefix`) without the repeats, falls back to TRL's own path where it must, and logs why. It overrides
private methods of TRL 1.16, which the tests of exactness guard.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import (
    RepeatSampler,
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

from anomalyr1.shared_prefix.groups import Form, Groups, choose_form, cost_agreement, find_groups, split_rows
from anomalyr1.shared_prefix.rollouts import (
    drop_repeats,
    each_image_once,
    prompts_as_groups,
    roll_out,
    whole_weights,
)
from anomalyr1.shared_prefix.score import FAMILIES, install_scoring, suppress_tokens
from anomalyr1.training.group_order import ResumableSampler, reorder, shuffle_groups
from anomalyr1.training.reward_functions import ROW, text_of
from anomalyr1.training.sealed_trainer import SealedTrainer
from anomalyr1.training.zero_variance import (
    OnZeroVariance,
    ScoredGroup,
    group_completions,
    length_figures,
    splice,
    without_signal,
)
from anomalyr1.types import InputError

_ROWS = "rows of a group"
"""Among the fields of a batch of distinct prompts: which of them each completion will answer."""
_OURS = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids", "num_tiles")
"""What a batch may hold for the families of `shared_prefix`; anything else is another model's."""

_log = logging.getLogger(__name__)


class SharedPrefixGRPOTrainer(SealedTrainer, GRPOTrainer):  # type: ignore[misc]  # TRL is not typed
    """`trl.GRPOTrainer` with shared prefixes; takes its arguments, and some more.

    `suppressed_ids` are tokens that no completion may hold (image placeholders where it is left out;
    `Policy.suppressed_ids` is the full list): they leave the distribution that is sampled from and the one
    that is scored, of policy and reference policy alike. vLLM samples elsewhere: suppress them there too,
    with `generation_kwargs`. `form` forces one form of the shared prefix where it can be run. `forms` counts
    forward passes by what was used: "branched", "packed" or "trl".

    In a group whose completions all earn the same every advantage is exactly 0. `zero_variance` says what
    else becomes of it: "keep" it (the KL term still counts), "skip" it (its tokens leave the loss; a mean
    over completions still counts them, as zeros), or "resample" it (drawn once more before anything else is
    computed; the redrawn one counts, whatever it earned; one process only). `on_group` is given each group,
    in the main process; the rows of the data set must then have the column `row`.

    A GRPO step, and where it is:

    1. Rollouts: each prompt is read once, and its group goes on from there (`_generate_single_turn`).
    2. Rewards; groups without signal may be drawn once more (`_generate`).
    3. Log-probabilities of the reference policy, by a shared form (`_score_shared`).
    4. Advantages, exactly 0 without signal; every group to `on_group` (`_settle`).
    5. Microbatches of whole groups (`_prepare_inputs`).
    6. TRL's loss on log-probabilities by a shared form (`compute_loss`).
    7. The optimizer's step, unless no token has an advantage (`_KeepWeightsWithoutSignal`).

    Below, B are prompts, N the completions of a batch, P and L the most tokens of a prompt and a completion.
    """

    def __init__(
        self,
        *args: Any,
        suppressed_ids: Sequence[int] | None = None,
        form: Form | None = None,
        zero_variance: OnZeroVariance = "keep",
        on_group: Callable[[ScoredGroup], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if zero_variance == "resample" and self.accelerator.num_processes > 1:
            raise InputError(
                "zero_variance: resample draws different groups again in each process, which cannot wait for "
                "each other; use skip"
            )
        self._zero_variance = zero_variance
        self._on_group = on_group
        self._inputs: list[dict[str, Any]] = []
        self._newest_rewards: tuple[list[str], Tensor] | None = None
        self.forms: Counter[str] = Counter()
        self._form = form
        self._agree = cost_agreement(self.accelerator)
        self._logged: set[str] = set()
        self._signal = False
        # TRL's own: the microbatches of a generation batch.
        self._buffered_inputs: list[dict[str, Any]] | None = None
        self._shares = self._is_vlm and self._base(self.model).config.model_type in FAMILIES
        if self._shares:
            config = self._base(self.model).config
            ids = (config.image_token_id, config.video_token_id) if suppressed_ids is None else suppressed_ids
            for model in (self.model, self.ref_model):
                if model is not None:
                    suppress_tokens(self._base(model), ids)
                    install_scoring(self._base(model), self.temperature, self.args.cast_lm_head_to_fp32)
        self.add_callback(_KeepWeightsWithoutSignal(self))

    def _base(self, model: Any) -> Any:
        """The model itself inside wrappers and adapters."""
        inner = self.accelerator.unwrap_model(model)
        return inner.get_base_model() if is_peft_model(inner) else inner

    def _fall_back(self, reason: str) -> None:
        """Say once why TRL's own path is used."""
        if reason not in self._logged:
            self._logged.add(reason)
            _log.warning("TRL's own path is used: %s", reason)

    # Log-probabilities.

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **fields: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(N, L) log-probabilities and entropies of `input_ids` (N, P + L), whose L = `logits_to_keep`, and
        TRL's auxiliary loss.
        """
        images = {name: value for name, value in fields.items() if value is not None}
        reason = self._why_not_shared(model, images, compute_aux_loss)
        if reason is None:
            groups = find_groups(
                input_ids,
                attention_mask,
                logits_to_keep,
                *(images.get(name) for name in ("pixel_values", "image_grid_thw", "num_images")),
            )
            scores = self._score_shared(model, groups, batch_size or len(input_ids), compute_entropy)
            if not isinstance(scores, str):
                return (*scores, None)
            reason = scores
        self._fall_back(reason)
        self.forms["trl"] += 1
        trl_scores: tuple[Tensor, Tensor | None, Tensor | None] = super()._get_per_token_logps_and_entropies(
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            batch_size,
            compute_entropy,
            compute_aux_loss,
            **fields,
        )
        return trl_scores

    def _why_not_shared(self, model: Any, images: Mapping[str, Any], aux_loss: bool) -> str | None:
        """What keeps this batch from sharing prefixes, in words."""
        if not self._shares:
            return f"the model is none of {', '.join(FAMILIES)}"
        if aux_loss:
            return "the load-balancing loss of a mixture of experts needs every token"
        if foreign := [name for name in images if name not in _OURS]:
            return f"the batch holds {foreign[0]}"
        if self.tools:
            return "tools may add images to completions"
        inner = self.accelerator.unwrap_model(model)
        if is_peft_model(inner) and any(config.is_prompt_learning for config in inner.peft_config.values()):
            return "prompt learning puts virtual tokens before the prompt"
        return None

    def _score_shared(
        self,
        model: Any,
        groups: Groups,
        batch_size: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor | None] | str:
        """(N, L) log-probabilities and entropies, `batch_size` completions at a time; in words why not, where
        it saves nothing.
        """
        if self._agree is None and len(groups.prompts) == len(groups.group_of):
            return "no two completions of a microbatch share a prompt"
        log_probs, entropies = [], []  # (batch_size, L) each
        for part in split_rows(groups, batch_size):
            form = choose_form(self._base(model), part, self._form, self._agree)
            if form is None:
                return (
                    "gradient checkpointing needs the packed form, whose mask this attention implementation "
                    "does "
                    "not take"
                )
            with self.accelerator.autocast():
                part_log_probs, part_entropies = model(groups=part, form=form, entropy=entropy)
            log_probs.append(part_log_probs)
            entropies.append(part_entropies)
            self.forms[form] += 1
        return torch.cat(log_probs), torch.cat(entropies) if entropy else None

    # Rollouts.

    def _tokenize_prompts(
        self, prompts: list[Any]
    ) -> tuple[list[list[int]], list[Any] | None, dict[str, Any]]:
        """Ids and images of N prompts, and the processor's fields of the B distinct ones, which alone it has
        prepared.
        """
        if self._why_not_rolled_out() is not None:
            repeated: tuple[list[list[int]], list[Any] | None, dict[str, Any]] = super()._tokenize_prompts(
                prompts
            )
            return repeated
        distinct_prompts, rows = drop_repeats(prompts)
        ids, images, fields = super()._tokenize_prompts(distinct_prompts)
        # A prompt without images beside others with some: transformers' processors take [], not TRL's None.
        row_images = [images[row] or [] for row in rows] if images else None
        return [ids[row] for row in rows], row_images, {**fields, _ROWS: rows}

    def _why_not_rolled_out(self) -> str | None:
        """What keeps rollouts from sharing prefixes, in words."""
        if self.use_vllm:  # it caches prefixes itself, and takes prompts and images without the fields
            return None
        if not self._shares:
            return f"the model is none of {', '.join(FAMILIES)}"
        if self.tools or self.environment_factories is not None:
            return "rollouts with tools or environments"
        if self.use_transformers_continuous_batching:
            return "continuous batching"
        if self.args.cache_implementation is not None or self.generation_config.num_beams not in (None, 1):
            return "a cache implementation or beams of the recipe's own"
        return None

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: list[Any] | None,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[list[list[int]], Any]:
        """The ids of N completions, from one reading of each of the B distinct prompts, and nothing."""
        fields = dict(multimodal_fields)
        rows = fields.pop(_ROWS, None)
        if rows is None or self.use_vllm:
            if self.use_vllm:  # it takes None where the processors take []
                images = [row_images or None for row_images in images] if images else None
            else:
                self._fall_back(self._why_not_rolled_out() or "prompts were not grouped")
            completions: tuple[list[list[int]], Any] = super()._generate_single_turn(
                prompt_ids, images, fields, num_generations, has_tool_images
            )
            return completions
        distinct_ids = [prompt_ids[rows.index(group)] for group in range(rows[-1] + 1)]  # B
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
            whole_weights(self.model_wrapped),
            self.accelerator.autocast(),  # parts of the model are called, which accelerate has not wrapped in it
        ):
            base = self._base(model)
            merge = base.config.vision_config.spatial_merge_size**2
            groups = prompts_as_groups(
                distinct_ids, fields, rows, base.config.image_token_id, merge, self.accelerator.device
            )
            ids = roll_out(base, groups, self.generation_config)  # (N, L)
        return [_until_stop(row, self.eos_token_ids) for row in ids.tolist()], None

    # Batches.

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """As TRL's, each image prepared once; groups without signal are settled."""
        self._inputs = inputs
        with each_image_once(self.processing_class) if self._shares else nullcontext():
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model.training:
            self._settle(batch)
        return batch

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """As TRL's; with "resample", groups without signal are drawn once more."""
        outputs: tuple[Any, ...] = super()._generate(prompts)
        if self._zero_variance != "resample" or not self.model.training:
            return outputs
        # 1. Which groups earn nothing that differs?
        rewards = self._calculate_rewards(self._inputs, prompts, outputs[3], outputs[1])  # (N, rewards)
        flat = self._without_signal(rewards)  # (N,)
        self._metrics["train"]["signal/resampled"].append(float(flat.float().mean()))
        rows = flat.nonzero()[:, 0].tolist()
        if not rows:
            return outputs
        # 2. Their completions are replaced.
        merged = splice(outputs, super()._generate([prompts[row] for row in rows]), rows)
        # 3. Lengths are logged of what counts, in place of both draws.
        end_ids = (*self.eos_token_ids, self._tokenizer.pad_token_id)
        for name, value in length_figures(merged[1], end_ids).items():
            self._metrics["train"][name][-2:] = [value]
        return merged

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        """(N of all processes, rewards), which are kept with this process's texts for `_settle`."""
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._newest_rewards = [text_of(completion) for completion in completions], rewards
        return rewards

    def _without_signal(self, rewards: Tensor) -> Tensor:
        """(N,) bool: the rows of `rewards` (N, rewards) whose group has no signal."""
        apart = self.multi_objective_aggregation == "normalize_then_sum"
        return without_signal(rewards, self.reward_weights, self.num_generations, apart)

    def _settle(self, batch: dict[str, Any]) -> None:
        """Exact zeros for groups without signal, out of the loss with those that are skipped, and every group
        to `on_group`.
        """
        if self._newest_rewards is None:
            return
        (texts, rewards), self._newest_rewards = self._newest_rewards, None
        # 1. Rounding may have left a little of an advantage.
        start = self.accelerator.process_index * len(texts)
        flat = self._without_signal(rewards)[start : start + len(texts)]  # (N,) of this process
        batch["advantages"][flat] = 0.0  # (N,)
        # 2. Tokens out of the loss.
        if self._zero_variance == "skip":
            batch["completion_mask"][flat] = 0  # (N, L)
            batch["num_items_in_batch"] = self.accelerator.gather(batch["completion_mask"].sum()).sum()
        if self._on_group is None:
            return
        # 3. A group may lie in two processes: the main one puts all together.
        rows = [sample[ROW] for sample in self._inputs]
        prompt_tokens, advantages = batch["prompt_mask"].sum(1).tolist(), batch["advantages"].tolist()
        completions = gather_object(list(zip(rows, texts, prompt_tokens, advantages, strict=True)))
        if self.accelerator.is_main_process:
            by_name = {name: rewards[:, i].tolist() for i, name in enumerate(self.reward_func_names)}
            step = self.state.global_step + 1
            for group in group_completions(step, completions, by_name, self.num_generations):
                self._on_group(group)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """As TRL's, but a group stays together when the generation batch is shuffled, so that it lies in one
        microbatch.
        """
        if not self.model.training:
            inputs: dict[str, Any] = super()._prepare_inputs(generation_batch)
            return inputs
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
            order = shuffle_groups(len(batch["prompt_ids"]), self.num_generations)
            shuffled = {name: reorder(value, order) for name, value in batch.items()}
            microbatches = split_tensor_dict(shuffled, steps)
            self._buffered_inputs = [unsplit_pixel_values_by_grid(batch) for batch in microbatches]
        microbatch: dict[str, Any] = self._buffered_inputs[self._step % steps]
        return microbatch

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """TRL's loss; remembers whether any completion of the step had an advantage, and tokens that
        count.
        """
        if self.model.training:
            # (N,) bool; where truncated completions are masked, none of their tokens count.
            counts = inputs["completion_mask"].bool().any(1)
            self._signal = self._signal or bool(((inputs["advantages"] != 0) & counts).any())
        loss: Tensor = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return loss

    # Resume.

    def _get_train_sampler(self, dataset: Any = None) -> RepeatSampler:
        return ResumableSampler(super()._get_train_sampler(dataset), lambda: self.state.epoch or 0.0)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Left out: TRL's card knows nothing of the data, and `run.json` holds what it would say."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Sealed, and only where no rollouts wait for their steps: TRL does not save those."""
        if self._step % (self.args.steps_per_generation * self.num_iterations):
            _log.warning(
                "no checkpoint at step %d: rollouts of a generation batch are still in use",
                self.state.global_step,
            )
            return
        super()._save_checkpoint(model, trial)


class _KeepWeightsWithoutSignal(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Drops the gradients of a step in which no token has an advantage: momentum and weight decay would move
    the weights all the same.

    Not under DeepSpeed, whose engine has stepped by then.
    """

    def __init__(self, trainer: SharedPrefixGRPOTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, *_: object, **__: object) -> None:
        trainer = self._trainer
        signal = torch.tensor(float(trainer._signal), device=trainer.accelerator.device)
        trainer._signal = False
        if float(trainer.accelerator.reduce(signal, reduction="sum")) == 0:
            trainer.optimizer.zero_grad(set_to_none=True)
            trainer._metrics["train"]["steps_without_signal"].append(1.0)
        else:
            trainer._metrics["train"]["steps_without_signal"].append(0.0)


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    """A completion up to and with the token that ends it."""
    end = next((place + 1 for place, token_id in enumerate(ids) if token_id in stop_ids), len(ids))
    return ids[:end]
