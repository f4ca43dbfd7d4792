"""GRPO runs on tiny models."""

from __future__ import annotations

import functools

import numpy as np
import torch

from anomalyr1.policy.load import load_policy
from support import groups, tiny

SIZE = 4
"""Completions a group."""


@functools.cache
def rows(mixed=False):
    """Eight prompts of different lengths with 1-3 images, or with 0-3."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(8):
        images = groups.pictures(rng, i % 4 if mixed else 1 + i % 3)
        content = [{"type": "image"}] * len(images) + [{"type": "text", "text": "x yes no" * (i + 1)}]
        made.append({"prompt": [{"role": "user", "content": content}], "images": images})
    return made


def checksum(completion_ids, **_):
    return [sum(ids) % 7 / 7 for ids in completion_ids]


def trainer(
    kind, folder, family="qwen2_5_vl", reward=checksum, lora=False, mixed=False, own=None, **settings
):
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig

    policy = load_policy(str(tiny.folder_of(family)))
    data = Dataset.from_dict({"row": list(range(8))})
    config = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2 * SIZE,
        "gradient_accumulation_steps": 2,
        "num_generations": SIZE,
        "max_completion_length": 6,
        "max_steps": 5,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.1,
        "temperature": 0.9,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        **settings,
    }
    return kind(
        model=policy.model,
        reward_funcs=reward,
        args=GRPOConfig(**config),
        train_dataset=data.with_transform(
            lambda batch: {key: [rows(mixed)[i][key] for i in batch["row"]] for key in rows(mixed)[0]}
        ),
        processing_class=policy.processor,
        peft_config=LoraConfig(
            target_modules=["q_proj", "v_proj"], r=4, lora_dropout=0.1 if "save_steps" in settings else 0.0
        )
        if lora
        else None,
        **(own or {}),
    )


def weights(made):
    return torch.cat([one.detach().flatten() for one in made.model.parameters()])
