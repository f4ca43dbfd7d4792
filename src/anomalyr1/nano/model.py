"""The parts of nano in the classes of the 3B model: tokenizer, processor and an untrained Qwen2.5-VL."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyr1.files import write_whole
from anomalyr1.nano.packing import CELL, MEAN, STD
from anomalyr1.policy.chat import CHAT_TEMPLATE
from anomalyr1.types import Record

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "bbox_2d")
"""Single tokens, and text for whoever decodes: not special."""

EMBEDDING_GAIN = 16.0
"""Factor on the token embeddings at the start; the last norm takes it back, so that first logits stay
small."""


class NanoShape(Record):
    """The size of the network."""

    text_width: int = 192
    text_layers: int = 6
    text_mlp: int = 512
    sight_width: int = 96
    sight_layers: int = 5
    sight_mlp: int = 256
    sight_head: int = 16
    """Many narrow heads: each starts out looking at one neighbour (`initial_weights.look_around`)."""
    patch: int = 7
    """Pixels of a patch; 28 / patch squared patches make one image token."""
    window: int = 56
    """Pixels of the square within which a patch attends to others. No layer attends across squares, so the
    tower can be taught on single squares; what lies further apart is the text model's to compare."""
    text_head: int = 64
    max_pixels: int = 448 * 448
    """Larger images are scaled down to it: the policy never saw larger ones."""
    min_pixels: int = 56 * 56
    vocabulary: int = 4096


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in Qwen's manner (every digit a token) trained on `texts`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=3,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast, shape: NanoShape) -> ProcessorMixin:
    """The Qwen2.5-VL processor around a tokenizer."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    sizes = {"shortest_edge": shape.min_pixels, "longest_edge": shape.max_pixels}
    grid = {"patch_size": shape.patch, "merge_size": CELL // shape.patch, "temporal_patch_size": 2}
    pixels = {"size": sizes, **grid, "image_mean": list(MEAN), "image_std": list(STD)}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, shape: NanoShape, seed: int = 0) -> PreTrainedModel:
    """A Qwen2.5-VL with fresh weights, float32, on the CPU; the same weights for the same seed."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    names = {"bos_token_id": "<|im_start|>", "eos_token_id": "<|im_end|>", "pad_token_id": "<|endoftext|>"}
    ends = {role: ids[name] for role, name in names.items()}
    config = Qwen2_5_VLConfig(
        text_config={**_text_config(shape), **ends, "vocab_size": len(tokenizer)},
        vision_config=_vision_config(shape),
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        # At the usual 0.02, words drown in the residual stream, and finding an option's letter by its words
        # is hardly learned.
        model.model.language_model.embed_tokens.weight.mul_(EMBEDDING_GAIN)
        model.model.language_model.norm.weight.div_(EMBEDDING_GAIN)
    model.generation_config.update(do_sample=False, **ends)
    return model


def _text_config(shape: NanoShape) -> dict[str, Any]:
    heads = shape.text_width // shape.text_head
    # Time, height and width take turns over the frequencies: with blocks and a large theta the width axis
    # would hardly turn.
    turns = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2] * (shape.text_head // 4)}
    return {
        "hidden_size": shape.text_width, "intermediate_size": shape.text_mlp,
        "num_hidden_layers": shape.text_layers, "num_attention_heads": heads, "num_key_value_heads": heads,
        "max_position_embeddings": 4096, "rope_parameters": turns, "tie_word_embeddings": True,
    }  # fmt: skip


def _vision_config(shape: NanoShape) -> dict[str, Any]:
    return {
        "depth": shape.sight_layers, "hidden_size": shape.sight_width, "intermediate_size": shape.sight_mlp,
        "num_heads": shape.sight_width // shape.sight_head, "out_hidden_size": shape.text_width,
        "patch_size": shape.patch, "spatial_merge_size": CELL // shape.patch, "temporal_patch_size": 2,
        "window_size": shape.window, "fullatt_block_indexes": [],
        "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
    }  # fmt: skip


def save_model(
    model: PreTrainedModel, processor: ProcessorMixin, folder: Path, card: str | None = None
) -> None:
    """Write the policy as bfloat16 safetensors with its processor and card, each file whole.

    Raises `SetupError` when the disk refuses.
    """
    import torch

    with tempfile.TemporaryDirectory() as temporary:
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(temporary)
        processor.save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir()):
            write_whole(folder / path.name, path.read_bytes())
    if card is not None:
        write_whole(folder / "README.md", card.encode("utf-8"))


def load_model(folder: Path) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model and processor of a folder that `save_model` wrote, float32."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(folder)
