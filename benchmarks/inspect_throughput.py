"""Throughput of inspection: our local engine against transformers' `generate` and its continuous batching.

    python benchmarks/inspect_throughput.py [--model nano] [--images 16] [--image-tokens 1000]
        [--new-tokens 32] [--threads 2]

`generate` runs at batch 1 and 16.

Two jobs: `questions` (1 image, 5 questions with options, greedy) and `votes` (1 image, 1 question, 8
samples). Every contender gets the same model, images and prompts and writes exactly `--new-tokens` tokens
(the end of a turn is suppressed), in a process of its own, after a warm-up. Seconds include the resizing and
the image processor; memory is the peak beyond the loaded model. Operations are those of matrix products and
attention as they were called; the floor counts every image, shared token and new token once, with causal
attention. Continuous batching takes token ids only, so it gets the text model's part of the job without the
images: less work than the others do.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from anomalyr1 import prompts
from anomalyr1.engines.engine import Sampling
from anomalyr1.engines.local import LocalEngine
from anomalyr1.images.door import LoadedImage
from anomalyr1.images.frames import fit, resize
from anomalyr1.policy.load import Policy, load_policy
from anomalyr1.prompts import Prompt
from anomalyr1.types import Question, Sample

CONTENDERS = ("ours", "generate-1", "generate-16", "continuous")
QUESTIONS = (
    ("Is there any defect in the object?", ("Yes.", "No.")),
    ("What is the type of the defect?", ("Scratch.", "Dent.", "Stain.", "Missing part.")),
    (
        "Where is the defect?",
        ("At the top left.", "At the bottom right.", "In the center.", "At the top right."),
    ),
    (
        "What does the defect look like?",
        ("A dark line.", "A round spot.", "A broken edge.", "A missing corner."),
    ),
    ("What may the defect cause?", ("A leak.", "A rejected part.", "A loose fit.", "Nothing.")),
)
VOTES = 8


def job(
    policy: Policy, name: str, images: int, image_tokens: int
) -> tuple[list[Prompt], dict[Path, LoadedImage]]:
    """The prompts of a job and their images, which are noise of about `image_tokens` tokens each."""
    side = round(math.sqrt(image_tokens)) * policy.family.factor
    asked, opened = [], {}
    for number in range(images):
        path = Path(f"{number}.png")
        coarse = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        opened[path] = LoadedImage(path, Image.fromarray(coarse).resize((side, side)), "PNG", "RGB", 1, None)
        chosen = QUESTIONS if name == "questions" else QUESTIONS[:1] * VOTES
        for place, (text, options) in enumerate(chosen):
            question = Question(id=f"{number}#{place}", kind="anomaly detection", text=text, options=options)
            asked.append(prompts.build(Sample(id=path.name, image=path), question))
    return asked, opened


def endless(policy: Policy) -> Policy:
    """The policy with the end of a turn suppressed, so that every completion has the same length."""
    policy.__dict__["suppressed_ids"] = tuple(sorted({*policy.suppressed_ids, *policy.stop_ids}))
    return policy


def ours(policy: Policy, asked: list[Prompt], opened: dict[Path, LoadedImage], sampling: Sampling) -> int:
    """Tokens written by our engine."""
    return sum(one.completion_tokens for one in LocalEngine(policy).complete(asked, opened, sampling))


def generate(
    policy: Policy, asked: list[Prompt], opened: dict[Path, LoadedImage], sampling: Sampling, batch: int
) -> int:
    """Tokens written by `generate`, prompt by prompt as evaluation scripts call it."""
    from transformers import GenerationConfig

    sampled = (
        {"do_sample": True, "temperature": sampling.temperature, "top_k": 0}
        if sampling.temperature
        else {"do_sample": False}
    )
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=policy.stop_ids[-1],
        suppress_tokens=list(policy.suppressed_ids),
        **sampled,
    )
    written = 0
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        texts = [
            policy.processor.apply_chat_template(prompt.messages, add_generation_prompt=True)
            for prompt in part
        ]
        shown = [
            resize(opened[path].rgb, policy.family, policy.max_pixels)[0]
            for prompt in part
            for path in prompt.images
        ]
        inputs = policy.processor(
            text=texts,
            images=shown,
            padding=True,
            do_resize=False,
            return_mm_token_type_ids=True,
            return_tensors="pt",
        ).to(policy.device)
        rows = policy.model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :]
        written += rows.numel()
    return written


def continuous(
    policy: Policy, asked: list[Prompt], opened: dict[Path, LoadedImage], sampling: Sampling
) -> int:
    """Tokens written by continuous batching, which sees words where the images were."""
    from transformers import GenerationConfig

    word = policy.processor.tokenizer("a", add_special_tokens=False)["input_ids"][0]
    image_id = policy.model.config.image_token_id
    encoded = LocalEngine(policy)._encode_prompts(asked, opened, sampling)
    ids = [[word if id_ == image_id else id_ for id_ in prompt.ids] for prompt in encoded]
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=sampling.temperature > 0,
        eos_token_id=-1,
        pad_token_id=policy.stop_ids[-1],
    )
    found = policy.model.generate_batch(inputs=ids, generation_config=config)
    return sum(len(one.generated_tokens) for one in found.values())


@contextmanager
def counted(model: nn.Module) -> Iterator[dict[str, float]]:
    """Operations of linear layers and attention inside, by kind."""
    spent = {"linear": 0.0, "attention": 0.0}

    def of_linear(layer: nn.Module, given: tuple[Any, ...], out: torch.Tensor) -> None:
        spent["linear"] += 2 * layer.weight.numel() * given[0].numel() / given[0].shape[-1]

    plain = nn.functional.scaled_dot_product_attention

    def of_attention(query: torch.Tensor, key: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        spent["attention"] += 4 * query.numel() * key.shape[-2]
        return plain(query, key, *rest, **more)

    hooks = [
        layer.register_forward_hook(of_linear) for layer in model.modules() if isinstance(layer, nn.Linear)
    ]
    nn.functional.scaled_dot_product_attention = of_attention
    try:
        yield spent
    finally:
        nn.functional.scaled_dot_product_attention = plain
        for hook in hooks:
            hook.remove()


def floor(policy: Policy, asked: list[Prompt], opened: dict[Path, LoadedImage], sampling: Sampling) -> float:
    """The least operations of a job: each image, each shared token and each new one computed once."""
    from anomalyr1.shared_prefix.trees import plant_trees

    engine, model = LocalEngine(policy), policy.model
    text, vision = model.config.get_text_config(), model.config.vision_config
    per_token = 2 * sum(
        layer.weight.numel() for layer in model.model.language_model.modules() if isinstance(layer, nn.Linear)
    )
    head = 2 * model.get_output_embeddings().weight.numel()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_pair = 4 * text.num_hidden_layers * text.num_attention_heads * size
    new = sampling.max_new_tokens
    total = 0.0
    for tree in plant_trees(engine._encode_prompts(asked, opened, sampling), engine._image_id, new, 10**9):
        p = len(tree.prefix)
        tokens, pairs = p, p * (p + 1) / 2
        for branch in tree.branches:
            s = len(branch.suffix)
            tokens += s + (new - 1) * len(branch.samples)
            pairs += (
                s * p + s * (s + 1) / 2 + len(branch.samples) * sum(p + s + step for step in range(1, new))
            )
            total += head * new * len(branch.samples)
        total += per_token * tokens + per_pair * pairs
    merge = vision.spatial_merge_size**2
    inside = [
        layer.weight.numel()
        for block in model.model.visual.blocks
        for layer in block.modules()
        if isinstance(layer, nn.Linear)
    ]
    merger = [
        layer.weight.numel() for layer in model.model.visual.merger.modules() if isinstance(layer, nn.Linear)
    ]
    whole = getattr(vision, "fullatt_block_indexes", None)
    for image in opened.values():
        w, h = fit(image.size_wh, policy.family, policy.max_pixels)
        patches = w * h // vision.patch_size**2
        window = (getattr(vision, "window_size", 0) // vision.patch_size) ** 2 or patches
        seen = sum(
            patches if whole is None or layer in whole else min(window, patches)
            for layer in range(vision.depth)
        )
        total += 2 * patches * (sum(inside) + sum(merger) / merge) + 4 * vision.hidden_size * patches * seen
    return total


def run_one(arguments: argparse.Namespace) -> dict[str, Any]:
    """One contender's figures on one job."""
    torch.set_num_threads(arguments.threads)
    policy = endless(load_policy(arguments.model, max_pixels=(arguments.image_tokens + 100) * 1024))
    sampling = Sampling(
        max_new_tokens=arguments.new_tokens, temperature=1.0 if arguments.job == "votes" else 0.0
    )
    name, _, batch = arguments.one.partition("-")
    contender: Callable[..., int] = {"ours": ours, "generate": generate, "continuous": continuous}[name]
    more = {"batch": int(batch)} if batch else {}
    asked, opened = job(policy, arguments.job, arguments.images, arguments.image_tokens)
    warm, few = job(policy, arguments.job, 1, 64)
    contender(policy, warm, few, sampling.model_copy(update={"max_new_tokens": 2}), **more)
    before = peak_bytes(policy)
    with counted(policy.model) as spent:
        began = time.perf_counter()
        written = contender(policy, asked, opened, sampling, **more)
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "images_s": arguments.images / seconds,
        "tokens": written,
        "peak_mb": (peak_bytes(policy) - before) / 2**20,
        "gflop": sum(spent.values()) / 1e9,
        "floor_gflop": floor(policy, asked, opened, sampling) / 1e9,
    }


def peak_bytes(policy: Policy) -> int:
    """The largest memory so far: of the device, or of this process."""
    if policy.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Print a line a contender and job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--image-tokens", type=int, default=1000)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--job", choices=("questions", "votes"))
    parser.add_argument(
        "--one", choices=CONTENDERS, help="run one contender in this process and print its figures as JSON"
    )
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments)))
        return
    print(f"{'job':10} {'contender':12} images/s  seconds  peak MB   tokens  GFLOP  x floor")
    for name in [arguments.job] if arguments.job else ("questions", "votes"):
        for contender in CONTENDERS:
            call = [sys.executable, __file__, *sys.argv[1:], "--job", name, "--one", contender]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
            if done.returncode:
                message = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
                print(f"{name:10} {contender:12} failed: {message}", flush=True)
                continue
            one = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{name:10} {contender:12} {one['images_s']:8.3f} {one['seconds']:8.1f} "
                f"{one['peak_mb']:8.0f} {one['tokens']:8} {one['gflop']:6.0f} "
                f"{one['gflop'] / one['floor_gflop']:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
