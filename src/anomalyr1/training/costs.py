"""Predicted memory of a training run as a table of bytes, and its time on a CPU: from counted parameters,
tokens and operations.

A prediction, not a promise: the terms are those that matter for the shared forms of `shared_prefix`, with
AdamW, on one device. Sharding (ZeRO-3, FSDP) divides weights, gradients and optimizer by the number of
processes. What transformers, libraries and the allocator hold beside tensors stands as "the program". No GPU
was ever timed against it, so time is predicted for CPUs alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anomalyr1.training.model_size import ModelSize

SHARE_OF_PEAK = 0.4
"""Share of the measured peak that training reaches in large matrix products: a quarter was measured at nano's
size, and 0.6 at 0.2 billion parameters."""
DISPATCH_SECONDS = 4e-4
"""What a layer costs for one decoded token however small it is: Python and kernel launches."""
HEAD_CHUNK = 256
"""Tokens whose logits TRL's fused head holds at a time."""
PROGRAM_BYTES = 700_000_000
"""Bytes of Python, torch and transformers with their buffers."""
STANDING = (
    "the program",
    "weights",
    "reference policy",
    "gradients",
    "float32 masters",
    "optimizer",
)
"""The parts of memory that are there all the time."""


@dataclass(frozen=True)
class Machine:
    """What a device can do."""

    device: str
    """The name of the device."""
    operations: float | None
    """Floating-point operations a second of large matrix products, measured; None on a GPU."""
    bandwidth: float | None
    """Bytes a second that can be read, measured; None on a GPU."""
    memory: int | None
    """Bytes of the device; None = not known."""


@dataclass(frozen=True)
class StepLoad:
    """What an optimizer step has to do, in tokens: a generation batch and a microbatch of GRPO, or a
    microbatch of SFT.
    """

    prompts: int
    """Prompts of a generation batch; for SFT, prefixes of a microbatch."""
    completions: int
    """Completions of all those prompts."""
    micro_prompts: float
    """Prompts that a microbatch reads."""
    micro_completions: int
    """Completions of a microbatch."""
    prompt_tokens: int
    """Tokens of the longest prompt."""
    completion_tokens: int
    """Tokens that a completion may have, or the longest has."""
    image_tokens: int
    """Tokens of the images of one prompt, the most."""


def memory(
    model_size: ModelSize,
    dtype: str,
    settings: Mapping[str, Any],
    load: StepLoad,
    grpo: bool,
    shards: int = 1,
    masters: bool = False,
    gpu_bytes: int = 0,
) -> dict[str, float]:
    """Bytes by part, "peak" at the end. Rollouts and the training pass do not overlap, so the larger of the
    two counts.

    `masters`: bfloat16 weights that learn have float32 copies, on which the optimizer works, as under ZeRO-3
    and FSDP2. `gpu_bytes` is what vLLM takes its share of, on the GPU that it has in common with training.
    """
    # 1. Weights, and what learning keeps beside them.
    weight_bytes = 2 if dtype == "bfloat16" else 4
    learning_bytes = 4 if model_size.adapters else weight_bytes  # peft keeps adapters in float32
    masters = masters and learning_bytes == 2
    moment_bytes = 4 if masters else learning_bytes
    if "8bit" in str(settings["optim"]):
        moment_bytes = 1
    has_reference = grpo and settings["beta"] != 0 and not model_size.adapters
    vocabulary = int(model_size.text.vocab_size)
    table = {
        "the program": float(PROGRAM_BYTES),
        "weights": (model_size.parameters * weight_bytes + model_size.adapters * 4) / shards,
        "reference policy": model_size.parameters * weight_bytes / shards if has_reference else 0.0,
        "gradients": model_size.trained * learning_bytes / shards,
        "float32 masters": model_size.trained * 4.0 / shards if masters else 0.0,
        "optimizer": model_size.trained * 2 * moment_bytes / shards,
    }
    # 2. The training pass.
    activation_bytes = 2 if settings["bf16"] else weight_bytes
    table["activations"] = _activations(model_size, settings, load, activation_bytes)
    table["head of the training pass"] = HEAD_CHUNK * vocabulary * 4.0 * 3
    training = table["activations"] + table["head of the training pass"]
    # 3. Rollouts, here or by vLLM.
    standing = sum(table[name] for name in STANDING)
    rollouts = 0.0
    if grpo and not settings["use_vllm"]:
        tokens = load.completions * (load.prompt_tokens + load.completion_tokens)
        table["KV cache of rollouts"] = tokens * float(_cache_bytes_a_token(model_size, weight_bytes))
        table["logits of rollouts"] = load.completions * vocabulary * 4.0 * 3
        rollouts = table["KV cache of rollouts"] + table["logits of rollouts"]
    elif grpo and settings["vllm_mode"] == "colocate":
        table["vLLM"] = settings["vllm_gpu_memory_utilization"] * gpu_bytes
        if settings["vllm_enable_sleep_mode"]:  # it gives its memory back while the policy learns
            rollouts = table["vLLM"]
        else:
            standing += table["vLLM"]
    return table | {"peak": standing + max(rollouts, training)}


def _cache_bytes_a_token(model_size: ModelSize, value_bytes: int) -> int:
    """Bytes of the keys and values of one token in all layers."""
    heads, layers = int(model_size.text.num_key_value_heads), int(model_size.text.num_hidden_layers)
    return heads * model_size.head_dim * 2 * value_bytes * layers


def _activations(
    model_size: ModelSize, settings: Mapping[str, Any], load: StepLoad, value_bytes: int
) -> float:
    """Bytes that the backward pass needs of one microbatch."""
    text, vision = model_size.text, model_size.config.vision_config
    hidden, inner, layers = int(text.hidden_size), int(text.intermediate_size), int(text.num_hidden_layers)
    query_width = int(text.num_attention_heads) * model_size.head_dim
    key_width = int(text.num_key_value_heads) * model_size.head_dim
    # 1. A layer of the text model: two norms in float32, projections before and after rotation, attention,
    # the
    # gated product.
    tokens = load.micro_prompts * load.prompt_tokens + load.micro_completions * load.completion_tokens
    values = 8 * hidden * 4 / value_bytes + 3 * query_width + 4 * key_width + 4 * inner + 2 * hidden
    layer = values * value_bytes * tokens
    # 2. A block of the vision tower.
    patches = load.micro_prompts * load.image_tokens * model_size.patches_a_token
    width, depth = vision.hidden_size, int(vision.depth)
    block = (8 * width * 4 / value_bytes + 6 * width + 4 * vision.intermediate_size) * value_bytes * patches
    # 3. Under checkpointing the input of each layer and one whole layer, with the mask of the packed form.
    if settings["gradient_checkpointing"]:
        completions_a_prompt = load.micro_completions / max(load.micro_prompts, 1)
        row = load.prompt_tokens + completions_a_prompt * load.completion_tokens
        masks = load.micro_prompts * row**2 * value_bytes
        inputs = layers * tokens * hidden * value_bytes
        vision_inputs = depth * patches * width * value_bytes
        return float(inputs + layer + masks + vision_inputs + block)
    # 4. Else all layers, and the cache of the branched form, which is repeated for each completion.
    row = load.prompt_tokens + load.completion_tokens
    cache = load.micro_completions * row * 2 * (key_width + query_width) * value_bytes
    return float(layers * (layer + cache) + (depth * block if model_size.vision_learns else block))


def hours(
    model_size: ModelSize,
    settings: Mapping[str, Any],
    load: StepLoad,
    steps: int,
    machine: Machine,
    grpo: bool,
) -> float | None:
    """Hours of the whole run, every completion as long as it may be; None where the machine was not
    measured.
    """
    if machine.operations is None or machine.bandwidth is None:
        return None
    text = model_size.text
    matrices = model_size.parameters + model_size.adapters - model_size.vision - model_size.embedding
    layers, query_width = int(text.num_hidden_layers), int(text.num_attention_heads) * model_size.head_dim

    def forward(prompts: float, completions: float) -> float:
        """Operations of one forward pass: matrices, attention, images."""
        tokens = prompts * load.prompt_tokens + completions * load.completion_tokens
        pairs = prompts * load.prompt_tokens**2 / 2 + completions * load.completion_tokens * (
            load.prompt_tokens + load.completion_tokens / 2
        )
        patches = prompts * load.image_tokens * model_size.patches_a_token
        return 2 * matrices * tokens + 4 * layers * query_width * pairs + 2 * model_size.vision * patches

    # 1. The training pass: forward, backward, and forward again under checkpointing.
    speed = machine.operations * SHARE_OF_PEAK
    passes = 1 + (1 if model_size.adapters else 2) + (1 if settings["gradient_checkpointing"] else 0)
    accumulated = int(settings["gradient_accumulation_steps"])
    training = passes * accumulated * forward(load.micro_prompts, load.micro_completions) / speed
    if not grpo:
        return float(steps * training / 3600)
    # 2. A generation batch: prompts read, tokens written one by one, the reference policy.
    weight_bytes = (model_size.parameters - model_size.vision) * (2 if settings["bf16"] else 4)
    token_seconds = max(
        2 * matrices * load.completions / speed, weight_bytes / machine.bandwidth, layers * DISPATCH_SECONDS
    )
    reference = forward(load.prompts, load.completions) / speed if settings["beta"] != 0 else 0.0
    batch = forward(load.prompts, 0) / speed + load.completion_tokens * token_seconds + reference
    per_step = batch * accumulated / (settings["steps_per_generation"] * settings["num_iterations"])
    return float(steps * (training + per_step) / 3600)


def measure() -> Machine:
    """The device that a run would use; a CPU is measured for a moment, by matrix products and by copying."""
    import torch

    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        return Machine(facts.name, None, None, int(facts.total_memory))
    side = 1024
    matrix = torch.randn(side, side)
    block = torch.zeros(64 * 2**20 // 4)
    operations = 2 * side**3 / _fastest_seconds(lambda: matrix @ matrix)
    bandwidth = 2 * block.numel() * 4 / _fastest_seconds(block.clone)
    return Machine(f"CPU, {torch.get_num_threads()} threads", operations, bandwidth, _cpu_memory())


def _fastest_seconds(work: Callable[[], object]) -> float:
    """The least time of five that `work` takes."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _cpu_memory() -> int | None:
    """Bytes of the machine's memory; None where the system does not say."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
