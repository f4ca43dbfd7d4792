"""Predicted memory and time of a training run: counted parameters, tokens and operations, and a short measurement of this machine.

A prediction, not a promise: the terms are those that matter for the shared forms of `shared_prefix`, with
AdamW, on one device. Sharding (ZeRO-3, FSDP) divides weights, gradients and optimizer by the number of
processes. What transformers, libraries and the allocator hold beside tensors stands as "the program".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anomalyr1.training.model_size import Shape

SHARE_OF_PEAK = 0.4
"""Share of the measured peak that training reaches in large matrix products."""
DISPATCH_SECONDS = 4e-4
"""What a layer costs for one decoded token however small it is: Python and kernel launches."""
HEAD_CHUNK = 256
"""Tokens whose logits TRL's fused head holds at a time."""
PROGRAM_BYTES = 700_000_000
"""Python, torch and transformers with their buffers."""


@dataclass(frozen=True)
class Machine:
    """What a device can do, measured."""

    device: str
    operations: float
    """Floating-point operations a second of large matrix products."""
    bandwidth: float
    """Bytes a second that can be read."""
    memory: int | None
    """Bytes of the device; None = not known."""


@dataclass(frozen=True)
class Load:
    """What one optimizer step has to do, in tokens. Of GRPO: a generation batch and one of its microbatches; of SFT: a microbatch."""

    prompts: int
    """Prompts a generation batch; for SFT, prefixes a microbatch."""
    completions: int
    """Completions of all of them."""
    micro_prompts: float
    """Prompts that a microbatch reads."""
    micro_completions: int
    prompt_tokens: int
    """Of the longest prompt."""
    completion_tokens: int
    """The limit, or the longest."""
    image_tokens: int
    """Of the images of one prompt, the most."""


def memory(
    shape: Shape,
    dtype: str,
    settings: Mapping[str, Any],
    load: Load,
    grpo: bool,
    shards: int = 1,
    masters: bool = False,
    gpu_bytes: int = 0,
) -> dict[str, float]:
    """Bytes by part, "peak" last. Rollouts and the training pass do not overlap, so the larger of the two counts.

    `masters`: bfloat16 weights that learn have float32 copies, on which the optimizer works, as under ZeRO-3
    and FSDP2. `gpu_bytes` is what vLLM takes its share of, on the GPU that it has in common with training.
    """
    size = 2 if dtype == "bfloat16" else 4
    learn_size = 4 if shape.adapters else size  # peft keeps adapters in float32
    masters = masters and learn_size == 2
    moments = 2 * (1 if "8bit" in str(settings["optim"]) else 4 if masters else learn_size)
    text = shape.text
    keys = int(text.num_key_value_heads) * shape.head_dim * 2 * size * int(text.num_hidden_layers)
    vocabulary = int(text.vocab_size)
    has_reference = grpo and settings["beta"] != 0 and not shape.adapters
    found = {
        "the program": float(PROGRAM_BYTES),
        "weights": (shape.parameters * size + shape.adapters * 4) / shards,
        "reference policy": shape.parameters * size / shards if has_reference else 0.0,
        "gradients": shape.trained * learn_size / shards,
        "float32 masters": shape.trained * 4.0 / shards if masters else 0.0,
        "optimizer": shape.trained * moments / shards,
        "activations": _activations(shape, settings, load, 2 if settings["bf16"] else size),
        "head of the training pass": HEAD_CHUNK * vocabulary * 4.0 * 3,
    }
    rollout = 0.0
    if grpo and not settings["use_vllm"]:
        found["KV cache of rollouts"] = (
            load.completions * (load.prompt_tokens + load.completion_tokens) * float(keys)
        )
        found["logits of rollouts"] = load.completions * vocabulary * 4.0 * 3
        rollout = found["KV cache of rollouts"] + found["logits of rollouts"]
    standing = sum(
        found[name]
        for name in (
            "the program",
            "weights",
            "reference policy",
            "gradients",
            "float32 masters",
            "optimizer",
        )
    )
    if grpo and settings["use_vllm"] and settings["vllm_mode"] == "colocate":
        found["vLLM"] = settings["vllm_gpu_memory_utilization"] * gpu_bytes
        if settings["vllm_enable_sleep_mode"]:  # it gives its memory back while the policy learns
            rollout = found["vLLM"]
        else:
            standing += found["vLLM"]
    return {
        **found,
        "peak": standing + max(rollout, found["activations"] + found["head of the training pass"]),
    }


def _activations(shape: Shape, settings: Mapping[str, Any], load: Load, size: int) -> float:
    """Bytes that the backward pass needs of one microbatch."""
    text, vision = shape.text, shape.config.vision_config
    hidden, inner, layers = int(text.hidden_size), int(text.intermediate_size), int(text.num_hidden_layers)
    wide, narrow = (
        int(text.num_attention_heads) * shape.head_dim,
        int(text.num_key_value_heads) * shape.head_dim,
    )
    tokens = load.micro_prompts * load.prompt_tokens + load.micro_completions * load.completion_tokens
    # Two norms in float32, projections before and after rotation, attention, the gated product.
    layer = (8 * hidden * 4 / size + 3 * wide + 4 * narrow + 4 * inner + 2 * hidden) * size * tokens
    patches = load.micro_prompts * load.image_tokens * shape.merge
    block = (
        (8 * vision.hidden_size * 4 / size + 6 * vision.hidden_size + 4 * vision.intermediate_size)
        * size
        * patches
    )
    if settings["gradient_checkpointing"]:
        row = (
            load.prompt_tokens + load.micro_completions / max(load.micro_prompts, 1) * load.completion_tokens
        )
        masks = load.micro_prompts * row**2 * size
        return float(
            layers * tokens * hidden * size
            + layer
            + masks
            + int(vision.depth) * patches * vision.hidden_size * size
            + block
        )
    repeated = (
        load.micro_completions * (load.prompt_tokens + load.completion_tokens) * 2 * (narrow + wide) * size
    )  # branched: the cache
    return float(layers * (layer + repeated) + (int(vision.depth) * block if shape.vision_learns else block))


def hours(
    shape: Shape, settings: Mapping[str, Any], load: Load, steps: int, machine: Machine, grpo: bool
) -> float:
    """Hours of the whole run, every completion as long as it may be."""
    text = shape.text
    matrices = shape.parameters + shape.adapters - shape.vision - shape.embedding
    layers, wide = int(text.num_hidden_layers), int(text.num_attention_heads) * shape.head_dim

    def forward(prompts: float, completions: float) -> float:
        tokens = prompts * load.prompt_tokens + completions * load.completion_tokens
        pairs = prompts * load.prompt_tokens**2 / 2 + completions * load.completion_tokens * (
            load.prompt_tokens + load.completion_tokens / 2
        )
        return (
            2 * matrices * tokens
            + 4 * layers * wide * pairs
            + 2 * shape.vision * prompts * load.image_tokens * shape.merge
        )

    speed = machine.operations * SHARE_OF_PEAK
    passes = 1 + (1 if shape.adapters else 2) + (1 if settings["gradient_checkpointing"] else 0)
    accumulated = int(settings["gradient_accumulation_steps"])
    training = passes * accumulated * forward(load.micro_prompts, load.micro_completions) / speed
    if not grpo:
        return float(steps * training / 3600)
    weight_bytes = (shape.parameters - shape.vision) * (2 if settings["bf16"] else 4)
    token = max(
        2 * matrices * load.completions / speed, weight_bytes / machine.bandwidth, layers * DISPATCH_SECONDS
    )
    reference = forward(load.prompts, load.completions) / speed if settings["beta"] != 0 else 0.0
    batch = forward(load.prompts, 0) / speed + load.completion_tokens * token + reference
    per_step = batch * accumulated / (settings["steps_per_generation"] * settings["num_iterations"])
    return float(steps * (training + per_step) / 3600)


def measure() -> Machine:
    """The device that a run would use: a second of matrix products and of copying."""
    import torch

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype, side = (torch.bfloat16, 4096) if cuda else (torch.float32, 1024)
    a = torch.randn(side, side, device=device, dtype=dtype)
    block = torch.zeros(64 * 2**20 // 4, device=device)

    def best(work: Any) -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return min(times)

    operations = 2 * side**3 / best(lambda: a @ a)
    bandwidth = 2 * block.numel() * 4 / best(lambda: block.clone())
    if cuda:
        facts = torch.cuda.get_device_properties(0)
        return Machine(facts.name, operations, bandwidth, int(facts.total_memory))
    return Machine(f"CPU, {torch.get_num_threads()} threads", operations, bandwidth, _memory())


def _memory() -> int | None:
    import os

    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
