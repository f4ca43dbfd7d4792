"""Fine-tuning on completions written from labels: all questions about an image share its prefix.

A row of the data is a sample with all its questions. What their prompts have in common (instructions,
knowledge, images) is read once, and each question with its completion is a branch behind it, in the same
forms as the groups of GRPO (`shared_prefix`). Loss falls on the completions alone, the end of the turn
included; nothing is padded into it and nothing is cut off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from anomalyr1.images.door import open_image
from anomalyr1.images.frames import resize
from anomalyr1.policy import chat
from anomalyr1.policy.load import Policy
from anomalyr1.shared_prefix.groups import Groups, choose_form, cost_agreement
from anomalyr1.shared_prefix.score import install_scoring
from anomalyr1.training.dataset import Task, TrainingSet, completion_ids
from anomalyr1.training.sealed_trainer import SealedTrainer
from anomalyr1.types import InputError

IGNORED = -100
"""Label of a token that is not learned, as transformers counts them."""


@dataclass(frozen=True)
class EncodedSample:
    """One sample with its questions, in token ids; each image stands as one image token still."""

    tasks: list[Task]
    """The questions about the sample."""
    prompts: list[list[int]]
    """The ids of the prompt of each question."""
    completions: list[list[int]]
    """The ids of the completion of each question, the end of the turn included."""


class EncodedSamples:
    """The training data: a row a sample, encoded when asked for."""

    def __init__(self, training_set: TrainingSet, policy: Policy, seed: int) -> None:
        """Group the tasks of `training_set` by sample; wordings follow `seed`."""
        by_sample: dict[str, list[Task]] = {}
        for task in training_set.tasks:
            by_sample.setdefault(task.sample.id, []).append(task)
        self._rows = list(by_sample.values())
        self._training_set, self._policy, self._seed = training_set, policy, seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> EncodedSample:
        """One sample's questions. Raises `InputError` for a gold completion that writes a special token."""
        tokenizer, tasks = self._policy.processor.tokenizer, self._rows[index]
        frame = self._training_set.frame(tasks[0].sample, self._policy.family, self._policy.max_pixels)
        completions = [completion_ids(tokenizer, task, frame, self._seed) for task in tasks]
        prompts = [chat.encode(tokenizer, task.prompt.messages) for task in tasks]
        return EncodedSample(tasks, prompts, completions)


class PrefixCollator:
    """Makes batches of encoded samples: prefixes with their images, and a branch a question."""

    def __init__(self, policy: Policy) -> None:
        """Keep the policy's processor."""
        self._policy = policy
        self._image_id: int = policy.processor.tokenizer.convert_tokens_to_ids(chat.IMAGE)

    def __call__(self, samples: Sequence[EncodedSample]) -> dict[str, Any]:
        """`groups` of N branches of at most L tokens, and `labels` (N, L): learned tokens, else `IGNORED`."""
        prefixes: list[Tensor] = []  # (P_b,) each
        grids: list[Tensor] = []  # (images, 3) each
        pixels: list[Tensor] = []  # (patches, values) each
        branches: list[Tensor] = []  # (L_n,) each
        learned: list[Tensor] = []  # (L_n,) bool each
        group_of: list[int] = []
        merge = self._policy.processor.image_processor.merge_size**2
        for sample in samples:
            # 1. What the questions about the sample have in common is a prefix with the sample's images.
            sample_pixels, sample_grids = self._images(sample.tasks[0])
            image_tokens = (sample_grids.prod(-1) // merge).tolist()
            for numbers, prefix in common_prefix(sample.prompts, self._image_id).items():
                prefixes.append(torch.tensor(chat.expand(prefix, self._image_id, image_tokens)))
                grids.append(sample_grids)
                pixels.append(sample_pixels)
                # 2. What a prompt has behind the prefix is a branch with the completion, which is learned.
                for number in numbers:
                    tail, completion = sample.prompts[number][len(prefix) :], sample.completions[number]
                    branches.append(torch.tensor([*tail, *completion]))
                    learned.append(torch.tensor([False] * len(tail) + [True] * len(completion)))
                    group_of.append(len(prefixes) - 1)
        # 3. Branches are padded on the right.
        ids = pad_sequence(branches, batch_first=True)  # (N, L)
        scored = pad_sequence(learned, batch_first=True)  # (N, L)
        lengths = torch.tensor([len(branch) for branch in branches])  # (N,)
        real = torch.arange(ids.shape[1]) < lengths[:, None]  # (N, L)
        groups = Groups(prefixes, grids, pixels, torch.tensor(group_of), ids, real, scored)
        return {"groups": groups, "labels": ids.masked_fill(~scored, IGNORED)}

    def _images(self, task: Task) -> tuple[Tensor, Tensor]:
        """(patches, values) pixels and (images, 3) grids of the images of a sample's prompts."""
        images = [
            resize(open_image(path).rgb, self._policy.family, self._policy.max_pixels)[0]
            for path in task.prompt.images
        ]
        batch = self._policy.processor.image_processor(images=images, do_resize=False, return_tensors="pt")
        return batch["pixel_values"], batch["image_grid_thw"]


def common_prefix(prompts: Sequence[Sequence[int]], image_id: int) -> dict[tuple[int, ...], list[int]]:
    """Which prompts share which prefix, as the prefix by the numbers of its prompts.

    All of them share what they have in common, if that holds all images and text behind them; else each
    stands alone.
    """
    shortest = min(len(prompt) for prompt in prompts)
    length = next((i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1), shortest)
    prefix = list(prompts[0][:length])
    image_counts = {sum(token_id == image_id for token_id in prompt) for prompt in prompts}
    if image_counts == {prefix.count(image_id)} and prefix and prefix[-1] != image_id:
        return {tuple(range(len(prompts))): prefix}
    return {(number,): list(prompt) for number, prompt in enumerate(prompts)}


class PackedSFTTrainer(SealedTrainer):
    """transformers' `Trainer` for `EncodedSamples` in batches of `PrefixCollator`.

    The loss is the mean over all learned tokens of an optimizer step, as in TRL's `SFTTrainer`, whatever the
    split into microbatches. `forms` counts forward passes by the form that was used.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._agree = cost_agreement(self.accelerator)
        self.forms: defaultdict[str, int] = defaultdict(int)
        self._metrics: dict[str, defaultdict[str, list[float]]] = {"train": defaultdict(list)}
        self._base = self.accelerator.unwrap_model(self.model)
        if hasattr(self._base, "peft_config"):
            self._base = self._base.get_base_model()
        install_scoring(self._base)
        # We divide by `num_items_in_batch` ourselves, and our labels are not shifted.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """To the model's device."""
        groups: Groups = inputs["groups"]
        moved = {
            field.name: _to_device(getattr(groups, field.name), self.args.device) for field in fields(groups)
        }
        return {"groups": Groups(**moved), "labels": inputs["labels"].to(self.args.device)}

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Minus the summed log-probability of the learned tokens, by how many of them a step has."""
        groups = inputs["groups"]
        form = choose_form(self._base, groups, agree=self._agree)
        if form is None:
            raise InputError(
                "gradient checkpointing needs the packed form, which this attention takes no mask for; use "
                "sdpa, or turn it off"
            )
        log_probs, _ = model(groups=groups, form=form, entropy=False)  # (N, L), 0 where nothing is learned
        self.forms[form] += 1
        learned = inputs["labels"] != IGNORED  # (N, L)
        total = learned.sum() if num_items_in_batch is None else num_items_in_batch
        loss: Tensor = -log_probs.sum() / total
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # Gradients are averaged over processes, and `total` counts all of them.
            loss = loss * self.accelerator.num_processes
        self._metrics["train"]["learned_tokens"].append(float(learned.sum()))
        self._metrics["train"]["token_probability"].append(float(log_probs.detach()[learned].exp().mean()))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """transformers', with the means of our own figures."""
        figures = self._metrics["train"]
        logs.update({name: sum(values) / len(values) for name, values in figures.items() if values})
        figures.clear()
        super().log(logs, start_time)


def _to_device(value: Any, device: torch.device) -> Any:
    """A tensor, or each of a list of tensors, on `device`; None stays None."""
    if isinstance(value, list):
        return [tensor.to(device) for tensor in value]
    return None if value is None else value.to(device)
