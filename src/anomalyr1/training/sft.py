"""Fine-tuning on completions written from labels: all questions about one image are read behind one image prefix.

A row of the data is a sample with all its questions. What their prompts have in common (instructions,
knowledge, images) is read once, and each question with its completion is a branch behind it, in the same
forms as the groups of GRPO (`shared_prefix`). Loss falls on the completions alone, the end of the turn
included; nothing is padded into it and nothing is cut off.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer

from anomalyr1.images import open_image, resize
from anomalyr1.policy import chat
from anomalyr1.policy.load import Policy
from anomalyr1.shared_prefix.groups import Groups, choose_form, cost_agreement
from anomalyr1.shared_prefix.score import install_scoring
from anomalyr1.training import checkpoints
from anomalyr1.training.dataset import Material, Task, completion_ids
from anomalyr1.types import InputError

IGNORED = -100
"""Label of a token that is not learned, as transformers counts them."""


@dataclass(frozen=True)
class Row:
    """One sample with its questions, in token ids; each image stands as one image token still."""

    tasks: list[Task]
    prompts: list[list[int]]
    completions: list[list[int]]
    """The end of the turn included."""


class Lessons:
    """The training data: a row a sample, encoded when asked for."""

    def __init__(self, material: Material, policy: Policy, seed: int) -> None:
        """Group the tasks of `material` by sample; wordings follow `seed`."""
        by_sample: dict[str, list[Task]] = {}
        for task in material.tasks:
            by_sample.setdefault(task.sample.id, []).append(task)
        self._rows = list(by_sample.values())
        self._material, self._policy, self._seed = material, policy, seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        """One sample's questions. Raises `InputError` for a gold completion that writes a special token."""
        tokenizer, tasks = self._policy.processor.tokenizer, self._rows[index]
        frame = self._material.frame(tasks[0].sample, self._policy.family, self._policy.max_pixels)
        completions = [completion_ids(tokenizer, task, frame, self._seed) for task in tasks]
        return Row(tasks, [chat.encode(tokenizer, task.prompt.messages) for task in tasks], completions)


class Packer:
    """Makes batches of rows: prefixes with their images, and a branch a question."""

    def __init__(self, policy: Policy) -> None:
        """Keep the policy's processor."""
        self._policy = policy
        self._image_id: int = policy.processor.tokenizer.convert_tokens_to_ids(chat.IMAGE)

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """`groups`, and `labels` (N, L): the learned tokens, `IGNORED` elsewhere."""
        prefixes: list[Tensor] = []
        grids: list[Tensor] = []
        pixels: list[Tensor] = []
        branches: list[Tensor] = []
        learned: list[Tensor] = []
        group_of: list[int] = []
        for row in rows:
            own_pixels, own_grids = self._images(row.tasks[0])
            tokens = (own_grids.prod(-1) // self._policy.processor.image_processor.merge_size**2).tolist()
            shared = common_prefix(row.prompts, self._image_id)
            for numbers, prefix in shared.items():
                prefixes.append(torch.tensor(chat.expand(prefix, self._image_id, tokens)))
                grids.append(own_grids)
                pixels.append(own_pixels)
                for number in numbers:
                    tail, completion = row.prompts[number][len(prefix) :], row.completions[number]
                    branches.append(torch.tensor([*tail, *completion]))
                    learned.append(torch.tensor([False] * len(tail) + [True] * len(completion)))
                    group_of.append(len(prefixes) - 1)
        ids = pad_sequence(branches, batch_first=True)
        scored = pad_sequence(learned, batch_first=True)
        written = torch.arange(ids.shape[1]) < torch.tensor([len(one) for one in branches])[:, None]
        groups = Groups(prefixes, grids, pixels, torch.tensor(group_of), ids, written, scored)
        return {"groups": groups, "labels": ids.masked_fill(~scored, IGNORED)}

    def _images(self, task: Task) -> tuple[Tensor, Tensor]:
        """Patches and grids of the images of a sample's prompts."""
        shown = [
            resize(open_image(path).rgb, self._policy.family, self._policy.max_pixels)[0]
            for path in task.prompt.images
        ]
        made = self._policy.processor.image_processor(images=shown, do_resize=False, return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]


def common_prefix(prompts: Sequence[Sequence[int]], image_id: int) -> dict[tuple[int, ...], list[int]]:
    """Which prompts share which prefix, as the prefix by the numbers of its prompts.

    All of them share what they have in common, if that holds all images and text behind them; else each
    stands alone.
    """
    shortest = min(len(prompt) for prompt in prompts)
    length = next((i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1), shortest)
    prefix = list(prompts[0][:length])
    images = {sum(id_ == image_id for id_ in prompt) for prompt in prompts}
    if images == {prefix.count(image_id)} and prefix and prefix[-1] != image_id:
        return {tuple(range(len(prompts))): prefix}
    return {(number,): list(prompt) for number, prompt in enumerate(prompts)}


class PackedSFTTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """transformers' `Trainer` for `Lessons` packed by `Packer`; `forms` counts forward passes by the form that was used.

    The loss is the mean over all learned tokens of an optimizer step, as in TRL's `SFTTrainer`, whatever the
    split into microbatches.
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
        self.model_accepts_loss_kwargs, self._loss_shifts_labels = (
            True,
            False,
        )  # we divide by `num_items_in_batch`, and labels are not shifted

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """To the model's device."""
        given: Groups = inputs["groups"]
        device = self.args.device
        prompts, grids, pixels = (
            [one.to(device) for one in each] for each in (given.prompts, given.grids, given.pixels)
        )
        group_of, completions, written = (
            one.to(device) for one in (given.group_of, given.completions, given.is_token)
        )
        labels = inputs["labels"].to(device)
        return {
            "groups": Groups(prompts, grids, pixels, group_of, completions, written, labels != IGNORED),
            "labels": labels,
        }

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """Minus the log-probability of the learned tokens, summed and divided by how many an optimizer step has."""
        groups = inputs["groups"]
        form = choose_form(self._base, groups, agree=self._agree)
        if form is None:
            raise InputError(
                "gradient checkpointing needs the packed form, which this attention takes no mask for; use sdpa, or turn it off"
            )
        log_probs, _ = model(groups=groups, form=form, entropy=False)
        self.forms[form] += 1
        learned = inputs["labels"] != IGNORED
        total = learned.sum() if num_items_in_batch is None else num_items_in_batch
        loss: Tensor = -log_probs.sum() / total
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = (
                loss * self.accelerator.num_processes
            )  # gradients are averaged over processes, `total` counts all of them
        self._metrics["train"]["learned_tokens"].append(float(learned.sum()))
        self._metrics["train"]["token_probability"].append(float(log_probs.detach()[learned].exp().mean()))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """transformers', with the means of our own figures."""
        own = self._metrics["train"]
        logs.update({name: sum(values) / len(values) for name, values in own.items() if values})
        own.clear()
        super().log(logs, start_time)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoints.load_weights(
            self,
            resume_from_checkpoint,
            functools.partial(super()._load_from_checkpoint, resume_from_checkpoint, model),
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As transformers', sealed (see `checkpoints`)."""
        checkpoints.save_sealed(
            self,
            Path(self._get_output_dir(trial=trial)),
            functools.partial(super()._save_checkpoint, model, trial),
        )
