"""Random groups as TRL batches them, and TRL's trainer to compare with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from anomalyr1.policy.load import load_policy
from anomalyr1.shared_prefix.groups import Groups, find_groups
from support import tiny

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


class Batch(NamedTuple):
    ids: Any  # (N, P + L), prompts padded on the left, completions on the right
    mask: Any  # (N, P + L)
    kinds: Any  # (N, P + L) 1 = image token
    length: int  # L
    images: dict[str, Any]  # pixel_values and image_grid_thw; empty = no prompt has images
    num_images: list[int]
    size: int  # completions a group

    def fields(self) -> dict[str, Any]:
        return {"mm_token_type_ids": self.kinds, **self.images}


def policy(family: str, lora: bool = False, checkpointing: bool = False) -> Any:
    """A tiny policy in training mode with TRL's fused head and ours."""
    from peft import LoraConfig, get_peft_model
    from trl.trainer.utils import add_fused_lm_head

    from anomalyr1.shared_prefix.score import install_scoring

    loaded = load_policy(str(tiny.folder_of(family)))
    add_fused_lm_head(loaded.model, temperature=0.9, outputs=("log_probs", "entropy"))
    install_scoring(loaded.model, temperature=0.9)
    model = loaded.model
    if lora:
        torch.manual_seed(0)
        model = get_peft_model(
            model, LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], r=4, init_lora_weights=False)
        )
    model.train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, loaded


def pictures(rng: np.random.Generator, count: int) -> list[Image.Image]:
    sizes = rng.integers(56, 140, (count, 2))
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in sizes]


def batch(rng: np.random.Generator, processor: Any, groups: int | None = None, empty: bool = True) -> Batch:
    """1-4 groups of 2-4 completions of at most 10 tokens, prompts of different lengths with 0-3 images."""
    count, size, length = int(groups or rng.integers(1, 5)), int(rng.integers(2, 5)), int(rng.integers(1, 11))
    texts: list[str] = []
    shown: list[list[Image.Image]] = []
    for _ in range(count):
        own = pictures(rng, int(rng.integers(4)))
        text = IMAGE * len(own) + "x yes no" * int(rng.integers(1, 9))
        question = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        texts += [question] * size
        shown += [own] * size
    flat = [one for own in shown for one in own]
    made = processor(text=texts, images=flat or None, padding=True, return_tensors="pt")
    completions = torch.from_numpy(rng.integers(0, 250, (len(texts), length)))
    lengths = torch.from_numpy(rng.integers(0 if empty else 1, length + 1, len(texts)))
    real = (torch.arange(length) < lengths[:, None]).long()
    return Batch(
        torch.cat([made["input_ids"], completions], 1),
        torch.cat([made["attention_mask"], real], 1),
        torch.cat([made["mm_token_type_ids"], torch.zeros_like(completions)], 1),
        length,
        {name: made[name] for name in ("pixel_values", "image_grid_thw") if name in made},
        [len(own) for own in shown],
        size,
    )


def gradients(model: Any, log_probs: Any, entropies: Any, seed: int) -> Any:
    """Of a random sum of both, all parameters in one row."""
    weights = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    ((log_probs * weights).sum() + 0.3 * (entropies * weights).sum()).backward()
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


def by_trl(model: Any, given: Batch) -> tuple[Any, Any]:
    """(N, L) log-probabilities and entropies as TRL's trainer takes them."""
    labels = given.ids.masked_fill(given.mask == 0, -100)
    labels[:, : -given.length] = -100
    out = model(
        input_ids=given.ids, attention_mask=given.mask, labels=labels, fused_lm_head=True, **given.fields()
    )
    return out.log_probs[:, -given.length :], out.entropy[:, -given.length :]


def grouped(given: Batch) -> Groups:
    """The groups in a batch."""
    return find_groups(
        given.ids,
        given.mask,
        given.length,
        given.images.get("pixel_values"),
        given.images.get("image_grid_thw"),
        given.num_images,
    )
