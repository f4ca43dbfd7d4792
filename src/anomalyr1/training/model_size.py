"""How large a model is, from its configuration alone: it is built without memory for its weights, and its parameters are counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anomalyr1.images import FAMILIES, Family
from anomalyr1.policy import chat
from anomalyr1.policy.load import find_configuration, load_processor, pixel_cap, quiet
from anomalyr1.training.known_models import KNOWN
from anomalyr1.training.recipes import Recipe
from anomalyr1.training.settings import adapters, freeze
from anomalyr1.types import InputError, SetupError

CHARS_PER_TOKEN = 3.5
"""Of English text in Qwen's tokenizer, on the low side, so that an estimate is rather too long."""

Encode = Callable[[Sequence[Mapping[str, Any]]], int]


@dataclass(frozen=True)
class Shape:
    """What planning needs to know of a model."""

    source: str
    """Where the numbers come from, in words."""
    family: Family
    max_pixels: int
    parameters: int
    """Without adapters."""
    adapters: int
    """Parameters of the recipe's adapters."""
    trained: int
    """Parameters that learn, adapters included."""
    vision: int
    """Parameters of the vision tower."""
    vision_learns: bool
    embedding: int
    """Parameters of the embedding table, which is looked up and not multiplied with, unless the head shares
    it."""
    config: Any
    """transformers' configuration."""
    text_tokens: Encode
    """Tokens of a chat, an image counted as one."""
    tokenizer: Any
    """The model's, None where it is not here: tokens are then estimated from the length of the text."""

    @property
    def text(self) -> Any:
        """Configuration of the text model."""
        return self.config.get_text_config()

    @property
    def merge(self) -> int:
        """Patches to an image token."""
        return int(self.config.vision_config.spatial_merge_size) ** 2

    @property
    def head_dim(self) -> int:
        """Width of one attention head of the text model."""
        return int(
            getattr(self.text, "head_dim", None) or self.text.hidden_size // self.text.num_attention_heads
        )

    def image_tokens(self, model_wh: tuple[int, int]) -> int:
        """Tokens of an image as the model sees it."""
        return model_wh[0] * model_wh[1] // self.family.factor**2


def read_shape(recipe: Recipe) -> Shape:
    """The shape of a recipe's model: from its folder or the hub, or, where the hub cannot be reached, from what the package knows.

    Raises `InputError` as `load_policy` does, and `SetupError` for a model that is neither here nor known.
    """
    import transformers

    try:
        folder, family, _ = find_configuration(recipe.model, recipe.revision)
    except SetupError:
        if recipe.model not in KNOWN:
            raise
        values = dict(KNOWN[recipe.model])
        config = transformers.CONFIG_MAPPING[values.pop("model_type")](**values)
        family = FAMILIES[config.model_type]
        source = f"values of {recipe.model!r} that the package knows, since its files are not here"
        return _counted(recipe, config, family, recipe.max_pixels or family.max_pixels, source, None)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    processor = load_processor(folder)
    cap = pixel_cap(folder, processor, family, recipe.max_pixels)
    return _counted(
        recipe, config, family, cap, f"the configuration of {recipe.model!r}", processor.tokenizer
    )


def _counted(
    recipe: Recipe, config: Any, family: Family, max_pixels: int, source: str, tokenizer: Any
) -> Shape:
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"), quiet():
        model = AutoModelForImageTextToText.from_config(config)
    parameters = sum(one.numel() for one in model.parameters())
    vision = sum(one.numel() for one in model.model.visual.parameters())
    table = model.get_input_embeddings().weight
    tied = table is model.get_output_embeddings().weight
    freeze(model, recipe)
    lora = adapters(recipe)
    if lora is not None:
        from peft import get_peft_model

        try:
            with torch.device("meta"):
                model = get_peft_model(model, lora)
        except ValueError as error:
            raise InputError(
                f"section lora of the recipe: {str(error).splitlines()[0].rstrip('.')}; name the modules that get adapters, such as "
                "lora.target_modules=[q_proj,k_proj,v_proj,o_proj]"
            ) from error
    learning = {name: one.numel() for name, one in model.named_parameters() if one.requires_grad}
    return Shape(
        source=source,
        family=family,
        max_pixels=max_pixels,
        parameters=parameters,
        adapters=sum(learning.values()) if lora is not None else 0,
        trained=sum(learning.values()),
        vision=vision,
        vision_learns=any(".visual." in name for name in learning),
        embedding=0 if tied else table.numel(),
        config=config,
        text_tokens=_estimate
        if tokenizer is None
        else lambda messages: len(chat.encode(tokenizer, messages)),
        tokenizer=tokenizer,
    )


def _estimate(messages: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of a chat by the length of its text; four a message and two an image for the format."""
    total = 3
    for message in messages:
        parts = (
            [{"type": "text", "text": message["content"]}]
            if isinstance(message["content"], str)
            else message["content"]
        )
        total += 4 + sum(
            3
            if part["type"] == "image"
            else round(len(part["text"].encode("utf-8", "replace")) / CHARS_PER_TOKEN)
            for part in parts
        )
    return total
