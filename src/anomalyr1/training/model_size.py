"""How large a model is, from its configuration alone: it is built without memory, and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anomalyr1.images.frames import FAMILIES, Family
from anomalyr1.policy import chat
from anomalyr1.policy.folders import find_configuration
from anomalyr1.policy.library import quiet
from anomalyr1.policy.load import load_processor, pixel_cap
from anomalyr1.training.recipes import Recipe
from anomalyr1.training.settings import adapter_config, freeze
from anomalyr1.types import InputError, SetupError

CHARS_PER_TOKEN = 3.5
"""Of English text in Qwen's tokenizer, on the low side, so that an estimate is rather too long."""

KNOWN_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": True,
        "text_config": {
            "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
            "max_position_embeddings": 128000, "tie_word_embeddings": True,
        },
        "vision_config": {"hidden_size": 1280, "out_hidden_size": 2048},
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl",
        "text_config": {
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 128000,
        },
        "vision_config": {"hidden_size": 1280},
    },
    "Qwen/Qwen3-VL-4B-Instruct": {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": True,
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
            "num_key_value_heads": 8, "max_position_embeddings": 262144, "tie_word_embeddings": True,
        },
        "vision_config": {
            "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2560,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    },
}  # fmt: skip
"""Values of the published `config.json` files of the models that the shipped recipes name, for planning where
the hub cannot be reached; what is not listed is the
default of transformers' class."""


@dataclass(frozen=True)
class ModelSize:
    """What planning needs to know of a model."""

    source: str
    """Where the numbers come from, in words."""
    family: Family
    """The family whose rules resize images."""
    max_pixels: int
    """The largest image that the model is shown, in pixels."""
    parameters: int
    """Parameters of the model without adapters."""
    adapters: int
    """Parameters of the recipe's adapters."""
    trained: int
    """Parameters that learn, adapters included."""
    vision: int
    """Parameters of the vision tower."""
    vision_learns: bool
    """Whether any parameter of the vision tower learns."""
    embedding: int
    """Parameters of the embedding table, which is looked up and not multiplied with; 0 where the head shares
    it."""
    config: Any
    """transformers' configuration of the model."""
    count_text_tokens: Callable[[Sequence[Mapping[str, Any]]], int]
    """A function that counts the tokens of a chat, an image as one."""
    tokenizer: Any
    """The model's tokenizer, None where it is not here: tokens are then estimated from the length of the
    text."""

    @property
    def text(self) -> Any:
        """The configuration of the text model."""
        return self.config.get_text_config()

    @property
    def patches_a_token(self) -> int:
        """How many patches become one image token."""
        return int(self.config.vision_config.spatial_merge_size) ** 2

    @property
    def head_dim(self) -> int:
        """The width of one attention head of the text model."""
        return int(
            getattr(self.text, "head_dim", None) or self.text.hidden_size // self.text.num_attention_heads
        )


def read_model_size(recipe: Recipe) -> ModelSize:
    """The size of a recipe's model, from its folder or the hub, else from `KNOWN_CONFIGURATIONS`.

    Raises `InputError` as `load_policy` does and for adapters that find no modules, and `SetupError` for a
    model that is neither here nor known.
    """
    import transformers

    try:
        folder, family, *_ = find_configuration(recipe.model, recipe.revision)
    except SetupError:
        if recipe.model not in KNOWN_CONFIGURATIONS:
            raise
        values = dict(KNOWN_CONFIGURATIONS[recipe.model])
        config = transformers.CONFIG_MAPPING[values.pop("model_type")](**values)
        family = FAMILIES[config.model_type]
        source = f"values of {recipe.model!r} that the package knows, since its files are not here"
        return _count(recipe, config, family, recipe.max_pixels or family.max_pixels, source, None)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    processor = load_processor(folder)
    max_pixels = pixel_cap(folder, processor, family, recipe.max_pixels)
    source = f"the configuration of {recipe.model!r}"
    return _count(recipe, config, family, max_pixels, source, processor.tokenizer)


def _count(
    recipe: Recipe, config: Any, family: Family, max_pixels: int, source: str, tokenizer: Any
) -> ModelSize:
    """Build the model on the meta device, freeze and adapt it as the recipe says, and count."""
    import torch
    from transformers import AutoModelForImageTextToText

    # 1. The model as it is.
    with torch.device("meta"), quiet():
        model = AutoModelForImageTextToText.from_config(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    vision = sum(parameter.numel() for parameter in model.model.visual.parameters())
    embedding = model.get_input_embeddings().weight
    shared_with_head = embedding is model.get_output_embeddings().weight
    # 2. What of it learns.
    freeze(model, recipe)
    lora = adapter_config(recipe)
    if lora is not None:
        model = _adapt(model, lora)
    learning = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}

    def count_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
        return len(chat.encode(tokenizer, messages))

    return ModelSize(
        source=source,
        family=family,
        max_pixels=max_pixels,
        parameters=parameters,
        adapters=sum(learning.values()) if lora is not None else 0,
        trained=sum(learning.values()),
        vision=vision,
        vision_learns=any(".visual." in name for name in learning),
        embedding=0 if shared_with_head else embedding.numel(),
        config=config,
        count_text_tokens=_estimate_tokens if tokenizer is None else count_tokens,
        tokenizer=tokenizer,
    )


def _adapt(model: Any, lora: Any) -> Any:
    """The model with adapters, all without memory. Raises `InputError` where they find no modules."""
    import torch
    from peft import get_peft_model

    try:
        with torch.device("meta"):
            return get_peft_model(model, lora)
    except ValueError as error:
        raise InputError(
            f"section lora of the recipe: {str(error).splitlines()[0].rstrip('.')}; name the modules that "
            "get adapters, such as lora.target_modules=[q_proj,k_proj,v_proj,o_proj]"
        ) from error


def _estimate_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of a chat by the length of its text; 3 for its end, 4 a message and 3 an image for the form."""
    total = 3
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        total += 4
        for part in parts:
            if part["type"] == "image":
                total += 3
            else:
                total += round(len(part["text"].encode("utf-8", "replace")) / CHARS_PER_TOKEN)
    return total
