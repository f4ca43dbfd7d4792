"""Tiny random-weight Qwen folders, complete as their large sisters are, under 3 MB each."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""Qwen's special tokens, in the order of their ids."""
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
FOREIGN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} says {{ message['content'] }}{% endfor %}"
)
"""Every tiny folder brings a chat template of its own that the package must not use."""


@functools.cache
def folder_of(family: str = "qwen2_5_vl") -> Path:
    """The model folder of `family` that all tests of a session share; copy it before you change it."""
    place = Path(tempfile.mkdtemp(prefix="tiny_"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return build(place / family, family)


def build(folder: Path, family: str = "qwen2_5_vl", seed: int = 0, max_positions: int = 4096) -> Path:
    """Write a model folder of `family` to `folder` and return it."""
    import torch
    from transformers.utils import logging

    folder.mkdir(parents=True, exist_ok=True)
    processor = _processor(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(family, processor.tokenizer, max_positions)
        for weight in model.parameters():
            # The library's small initial weights make every answer the same; these make answers depend on the
            # picture.
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    if bars:
        logging.enable_progress_bar()
    processor.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    words = (
        "think answer bbox_2d label defect scratch yes no Is there any good part option image box "
        "Yes No user assistant system ",
    ) * 4
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    merges = [tuple(pair) for pair in _merges(trained)]
    return Qwen2Tokenizer(
        vocab=trained.get_vocab(),
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIALS[1:]),
        chat_template=FOREIGN_TEMPLATE,
    )


def _merges(trained: Any) -> list[list[str]]:
    import json

    merges: list[list[str]] = json.loads(trained.to_str())["model"]["merges"]
    return merges


def _processor(family: str) -> Any:
    import transformers

    patch = 14 if family == "qwen2_5_vl" else 16
    size = {
        "shortest_edge": 4 * (2 * patch) ** 2,
        "longest_edge": 256 * (2 * patch) ** 2 if patch == 16 else 64 * (2 * patch) ** 2,
    }
    images = transformers.Qwen2VLImageProcessor(
        patch_size=patch, merge_size=2, temporal_patch_size=2, size=size
    )
    if family == "qwen2_5_vl":
        videos = transformers.Qwen2VLVideoProcessor(patch_size=patch)
        return transformers.Qwen2_5_VLProcessor(images, _tokenizer(), videos, chat_template=FOREIGN_TEMPLATE)
    return transformers.Qwen3VLProcessor(
        images, _tokenizer(), transformers.Qwen3VLVideoProcessor(), chat_template=FOREIGN_TEMPLATE
    )


def _model(family: str, tokenizer: Any, max_positions: int) -> Any:
    import transformers

    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    text = {
        "vocab_size": len(tokenizer) + 3,  # As in the large models, the table has rows that no token uses.
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "spatial_merge_size": 2,
    }
    shared = {
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
        "tie_word_embeddings": False,
    }
    if family == "qwen2_5_vl":
        vision |= {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]}
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **shared)
        return transformers.Qwen2_5_VLForConditionalGeneration(config)
    text |= {"head_dim": 32}
    text["rope_parameters"]["mrope_interleaved"] = True
    vision |= {"patch_size": 16, "num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1]}
    return transformers.Qwen3VLForConditionalGeneration(
        transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **shared)
    )
