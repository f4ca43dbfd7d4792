"""Load a policy: a Qwen2.5-VL or Qwen3-VL model with its processor, from the package, a folder or the hub.

Only safetensors and classes of transformers itself; the folder is checked before transformers sees it
(`safety.py`). What a folder says about how to talk and sample is replaced: its chat template by ours
(`chat.py`), its generation defaults (such as a repetition penalty) by plain greedy decoding, so that only the
prompt and `Sampling` decide what a completion is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyr1.images.frames import Family
from anomalyr1.policy import chat
from anomalyr1.policy.folders import find_folder
from anomalyr1.policy.library import quiet, typed_errors
from anomalyr1.policy.taught import Taught, read_taught
from anomalyr1.types import InputError, SetupError

if TYPE_CHECKING:
    import torch

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class Policy:
    """A loaded model with its processor."""

    model: Any
    """transformers' `Qwen2_5_VLForConditionalGeneration`, `Qwen3VL...` or `Qwen3VLMoe...`, in evaluation mode
    on its device."""
    processor: Any
    """transformers' processor of the same folder, with our chat template, padding on the left."""
    family: Family
    max_pixels: int
    """The largest image that the model is shown, in pixels."""
    name: str
    """The name that it was loaded by: "nano", a folder or a name on the hub."""
    revision: str
    """The commit on the hub, or the digest "sha256:..." of a folder's weights and configuration."""
    taught: Taught | None = None
    """What it was taught with, as its folder says; None = not known."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end a completion."""
        return tuple(self.processor.tokenizer.convert_tokens_to_ids(list(chat.STOP_TOKENS)))

    @cached_property
    def suppressed_ids(self) -> tuple[int, ...]:
        """The ids that a completion must never hold.

        These are placeholders, special tokens that are no stop, and rows of the head without a token.
        """
        tokenizer = self.processor.tokenizer
        vocabulary = tokenizer.get_vocab()
        rows = range(self.model.get_output_embeddings().weight.shape[0])
        without_token = set(rows) - set(vocabulary.values())
        placeholders = {vocabulary[name] for name in chat.NEVER_WRITTEN if name in vocabulary}
        forbidden = without_token | placeholders | chat.special_ids(tokenizer)
        return tuple(sorted(forbidden - set(self.stop_ids)))

    @property
    def max_tokens(self) -> int:
        """How many tokens of prompt and completion together the model has positions for."""
        positions: int = self.model.config.get_text_config().max_position_embeddings
        return positions


def load_policy(
    name_or_dir: str,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    max_pixels: int | None = None,
) -> Policy:
    """Load "nano" or "nano-raw", the model in a folder, or a model of the hub (as "owner/name").

    `revision` pins weights and processor alike: a commit, tag or branch of the hub, or the digest that
    `Policy.revision` gave for a folder. `device` is CUDA where there is one; `dtype` bfloat16 on CUDA and
    float32 elsewhere; `max_pixels` what the policy was taught with, else the smaller of the checkpoint's own
    cap and the package's default. Raises
    `InputError` for a folder that is refused, damaged or not supported, and `SetupError` where the weights
    cannot be had or the device is missing.
    """
    folder, family, found_revision, name = find_folder(name_or_dir, revision)
    target = _find_device(device)
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(_DTYPES)}")
    if dtype is None:
        dtype = "bfloat16" if target.type == "cuda" else "float32"
    processor = load_processor(folder)
    processor.tokenizer.padding_side = "left"
    model = _load_model(folder, dtype, target, processor.tokenizer)
    _check_parts(folder, model, processor, family)
    cap = pixel_cap(folder, processor, family, max_pixels)
    return Policy(model, processor, family, cap, name, found_revision, read_taught(folder))


def load_processor(folder: Path) -> Any:
    """The processor of a checked folder, with our chat template.

    Raises `InputError` when transformers cannot load it.
    """
    from transformers import AutoProcessor

    with quiet(), typed_errors(folder):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    processor.chat_template = processor.tokenizer.chat_template = chat.CHAT_TEMPLATE
    return processor


def _find_device(name: str | None) -> torch.device:
    """The device of this name; without one, CUDA where there is one."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}; choose cpu, cuda or cuda:N") from error
    devices = torch.cuda.device_count()
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= devices):
        raise SetupError(
            f"there is no device {name!r} here ({devices} CUDA devices); choose cpu, or see: anomalyr1 doctor"
        )
    return device


def _load_model(folder: Path, dtype: str, device: torch.device, tokenizer: Any) -> Any:
    """The model of a checked folder in evaluation mode, with plain greedy decoding as its default."""
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig

    with quiet(), typed_errors(folder, f" on {device} in {dtype}"):
        model, loading = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        model.to(device)
    if absent := sorted(loading["missing_keys"]):
        raise InputError(
            f"{str(folder)!r}: {len(absent)} tensors are missing from the weights, such as {absent[0]!r}; "
            "download it again"
        )
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.convert_tokens_to_ids(list(chat.STOP_TOKENS)),
        pad_token_id=tokenizer.convert_tokens_to_ids(chat.TEXT_END),
    )
    return model.eval()


def _check_parts(folder: Path, model: Any, processor: Any, family: Family) -> None:
    """Raise `InputError` where weights, tokenizer and image processor do not belong together."""
    tokenizer, images = processor.tokenizer, processor.image_processor
    special = chat.special_ids(tokenizer)
    vocabulary = tokenizer.get_vocab()
    if absent := [token for token in chat.REQUIRED_TOKENS if vocabulary.get(token) not in special]:
        raise InputError(
            f"{str(folder)!r}: the tokenizer has no special token {absent[0]!r}; "
            "use the tokenizer of the model's source"
        )
    vision = model.config.vision_config
    factors = {
        "processor": images.patch_size * images.merge_size,
        "weights": vision.patch_size * vision.spatial_merge_size,
    }
    facts = [("image_token_id", model.config.image_token_id, vocabulary[chat.IMAGE])]
    for part, factor in factors.items():
        facts.append((f"patch size times merge size of the {part}", factor, family.factor))
    for fact, actual, expected in facts:
        if actual != expected:
            raise InputError(
                f"{str(folder)!r}: {fact} is {actual}, expected {expected}; "
                "its files are of different models, download it again"
            )
    rows, largest_id = model.get_input_embeddings().weight.shape[0], max(vocabulary.values())
    if largest_id >= rows:
        raise InputError(
            f"{str(folder)!r}: the tokenizer has ids up to {largest_id}, the weights only {rows} rows; "
            "its files are of different models, download it again"
        )


def pixel_cap(folder: Path, processor: Any, family: Family, max_pixels: int | None) -> int:
    """`max_pixels` where it is given, else what the policy was taught with, else the smaller one of the
    folder's cap and the family's.

    Raises `InputError` when it is too small for the family.
    """
    if max_pixels is not None:
        if max_pixels < family.min_pixels:
            raise InputError(
                f"max_pixels is {max_pixels:,}, expected at least {family.min_pixels:,}, "
                f"the least that {family.name} takes"
            )
        return max_pixels
    if (taught := read_taught(folder)) and taught.max_pixels >= family.min_pixels:
        return taught.max_pixels
    folder_cap = processor.image_processor.size["longest_edge"]
    if not isinstance(folder_cap, int) or folder_cap < family.min_pixels:
        raise InputError(
            f"{str(folder)!r}: the processor's own cap is {folder_cap!r} pixels, expected a number of at "
            f"least {family.min_pixels:,}; use the preprocessor_config.json of the model's source"
        )
    return min(folder_cap, family.max_pixels)
