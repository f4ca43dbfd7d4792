"""One prompt at a time, the plain way: transformers' processor, `generate`, one forward for option scores."""

from __future__ import annotations

import torch
from transformers import GenerationConfig

from anomalyr1 import images as doors


def inputs_of(policy, prompt, images):
    text = policy.processor.apply_chat_template(prompt.messages, add_generation_prompt=True)
    pictures = [doors.resize(images[path].rgb, policy.family, policy.max_pixels)[0] for path in prompt.images]
    return policy.processor(
        text=[text],
        images=pictures or None,
        do_resize=False,
        return_mm_token_type_ids=True,
        return_tensors="pt",
    )


def generated(policy, prompt, images, max_new_tokens):
    """The ids of the greedy completion, the stop token included."""
    inputs = inputs_of(policy, prompt, images)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(policy.stop_ids),
        pad_token_id=policy.stop_ids[-1],
        suppress_tokens=list(policy.suppressed_ids),
    )
    return policy.model.generate(**inputs, generation_config=config)[
        0, inputs["input_ids"].shape[1] :
    ].tolist()


@torch.no_grad()
def next_logits(policy, prompt, images, written):
    """The logits (V,) of the token after a prompt and what was written, by one forward without a cache."""
    inputs = inputs_of(policy, prompt, images)
    more = torch.tensor([written], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(more)], dim=1)
    return policy.model(**inputs, use_cache=False).logits[0, -1]
