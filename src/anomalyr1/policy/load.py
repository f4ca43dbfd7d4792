"""Load a policy: a Qwen2.5-VL or Qwen3-VL model with its processor, from the package, a folder or the hub.

Only safetensors and classes of transformers itself; the folder is checked before transformers sees it
(`safety.py`). What a folder says about how to talk and sample is replaced: its chat template by ours
(`chat.py`), its generation defaults (such as a repetition penalty) by plain greedy decoding, so that only the
prompt and `Sampling` decide what a completion is.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomalyr1.images import FAMILIES, Family
from anomalyr1.policy import chat
from anomalyr1.policy.safety import check_configuration, check_folder
from anomalyr1.types import InputError, SetupError

if TYPE_CHECKING:
    import torch

NANO = "nano"
"""The name of the bundled policy."""
NANO_FOLDER = Path(__file__).parent / "nano"
BUNDLED = {NANO: NANO_FOLDER, "nano-raw": NANO_FOLDER.with_name("nano-raw")}
"""What the package ships, by name; the raw one is a start for experiments: its reasoning often contradicts
its answers."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_CONFIGURATION = ("*.json", "merges.txt")
_HUB_WEIGHTS = ("*.safetensors",)

_DTYPES = ("float32", "bfloat16", "float16")

LICENCES = (
    (re.compile(r"qwen2\.5-vl-3b"), "Qwen Research License: non-commercial research only"),
    (re.compile(r"qwen2\.5-vl-72b"), "Qwen License: commercial use is free below 100 million monthly users"),
    (re.compile(r"qwen2\.5-vl-(7b|32b)"), "Apache-2.0"),
    (re.compile(r"qwen3-vl-"), "Apache-2.0"),
)
"""The licence of a model's weights by a part of its name in lower case; fine-tuned models inherit it."""


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
    """As it was asked for: "nano", a folder or a hub name."""
    revision: str
    """The commit on the hub, or the digest "sha256:..." of a folder's weights and configuration."""

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
        """The ids that a completion must never hold: placeholders, special tokens that are no stop, rows without a token."""
        tokenizer = self.processor.tokenizer
        known = tokenizer.get_vocab()
        rows = range(self.model.get_output_embeddings().weight.shape[0])
        without_token = set(rows) - set(known.values())
        named = {known[name] for name in chat.NEVER_WRITTEN if name in known}
        return tuple(sorted((without_token | named | chat.special_ids(tokenizer)) - set(self.stop_ids)))

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
    float32 elsewhere; `max_pixels` the smaller of the checkpoint's own cap and the package's default. Raises
    `InputError` for a folder that is refused, damaged or not supported, and `SetupError` where the weights
    cannot be had or the device is missing.
    """
    folder, family, found = find_folder(name_or_dir, revision)
    chosen = _device(device)
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(_DTYPES)}")
    if dtype is None:
        dtype = "bfloat16" if chosen.type == "cuda" else "float32"
    model, processor = _from_folder(folder, dtype, chosen)
    _check_parts(folder, model, processor, family)
    return Policy(
        model, processor, family, pixel_cap(folder, processor, family, max_pixels), name_or_dir, found
    )


class Found(NamedTuple):
    """A model folder that may be loaded."""

    folder: Path
    family: Family
    revision: str
    """The commit on the hub, or the digest of a folder's weights and configuration."""


def find_folder(name_or_dir: str, revision: str | None = None) -> Found:
    """The checked folder of "nano", of a folder or of a model of the hub; raises as `load_policy` does."""
    local = _local_folder(name_or_dir)
    folder = local or _download(name_or_dir, revision)
    family = FAMILIES[check_folder(folder)]
    return Found(folder, family, folder.name if local is None else _revision_of(local, revision))


def find_configuration(name_or_dir: str, revision: str | None = None) -> Found:
    """As `find_folder`, without the weights of a model of the hub: enough to plan with."""
    if local := _local_folder(name_or_dir):
        return Found(local, FAMILIES[check_configuration(local)], "")
    folder = _download(name_or_dir, revision, weights=False)
    return Found(folder, FAMILIES[check_configuration(folder)], folder.name)


def load_processor(folder: Path) -> Any:
    """The processor of a checked folder, with our chat template. Raises `InputError` when transformers cannot load it."""
    from transformers import AutoProcessor

    try:
        with quiet():
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{str(folder)!r}: transformers cannot load its processor ({_first_line(error)}); copy the folder again"
        ) from error
    processor.chat_template = processor.tokenizer.chat_template = chat.CHAT_TEMPLATE
    return processor


def licence_of(name: str) -> str:
    """The licence of a model's weights by its name, or the request to read it up."""
    if name in BUNDLED:
        return "the package's own licence (see LICENSE)"
    for pattern, licence in LICENCES:
        if pattern.search(name.lower()):
            return licence
    return f"unknown: read the model card of {name!r}; a fine-tuned model inherits the licence of its base"


def limits_of(name: str) -> str:
    """What must be known before a verdict of this model is believed; empty where nothing is known against it."""
    if name in BUNDLED:
        return f"{name} knows drawn parts only: on a photograph of a real part its verdict means nothing; name a real model with --model"
    if start := _bundled_start(name):
        return (
            f"{name} was {start}, which knows drawn parts only, before it was taught: on a photograph of a part it was not taught its "
            "verdict means nothing, and on one it was taught only as much as an evaluation on held-out images shows"
        )
    return ""


def _bundled_start(name: str) -> str:
    """The bundled policy that a run of ours (`RUN/final`, `RUN/checkpoint-N`), or the runs before it, began with; empty = not known.

    A run says in `run.json` what it began with, seen from where it was started: from here, or from a folder
    above the run.
    """
    places, seen = [Path()], set()
    try:
        while name not in BUNDLED:
            folder = next(
                found for place in places if (found := (place / Path(name).expanduser()).resolve()).is_dir()
            )
            run = folder.parent / "run.json"
            if run in seen:
                return ""
            seen.add(run)
            name, places = str(json.loads(run.read_bytes())["model"]), [Path(), *run.parents]
    except (StopIteration, OSError, ValueError, LookupError, TypeError, RecursionError, RuntimeError):
        return ""
    return name


def digest_of(folder: Path) -> str:
    """The digest of a model folder's weights and configuration: "sha256:" and 64 hexadecimal digits."""
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".json") or file.name == "merges.txt":
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            whole.update(f"{file.name} {content}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{whole.hexdigest()}"


def _local_folder(name: str) -> Path | None:
    """The folder that `name` means; None = it is the name of a model of the hub."""
    if name in BUNDLED:
        if not BUNDLED[name].is_dir():
            raise SetupError(
                f"the bundled policy {name} is not in this installation; install the package again, or name another model"
            )
        return BUNDLED[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(name):
        raise InputError(
            f"no model folder {name!r}; name a folder with a model in it, a model of the hub as owner/name, or {' or '.join(BUNDLED)}"
        )
    return None


def _revision_of(folder: Path, revision: str | None) -> str:
    """The commit of a snapshot in the hub's cache, else the digest; raises `InputError` when it is not the one asked for."""
    place = folder.resolve()
    in_cache = place.parent.name == "snapshots" and _COMMIT.fullmatch(place.name)
    found = place.name if in_cache else digest_of(folder)
    if revision is not None and revision != found:
        raise InputError(
            f"{str(folder)!r}: its revision is {found!r}, expected {revision!r}; the files are not the ones that were pinned"
        )
    return found


def _download(name: str, revision: str | None, weights: bool = True) -> Path:
    """A model of the hub in the hub's own cache: the configuration first, so that a model is refused before its weights are fetched."""
    from huggingface_hub import errors, snapshot_download

    # Neither is an OSError as all other failures of the network are, and older versions of the library do not
    # have them.
    unreachable = tuple(
        getattr(errors, kind)
        for kind in ("RevisionResolutionError", "XetDownloadError")
        if hasattr(errors, kind)
    )
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_CONFIGURATION)))
        check_configuration(folder)
        if weights:
            snapshot_download(
                name, revision=folder.name, allow_patterns=list(_HUB_CONFIGURATION + _HUB_WEIGHTS)
            )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise InputError(
            f"the hub has no model {name!r}{f' at revision {revision!r}' if revision else ''} that you may read ({_first_line(error)}); "
            "check the name, and for a gated model accept its terms on its page and run: hf auth login"
        ) from error
    except (OSError, *unreachable) as error:
        raise _not_here(name, revision, error) from error
    return folder


def _not_here(name: str, revision: str | None, error: BaseException) -> SetupError:
    pin = f" --revision {revision}" if revision else ""
    return SetupError(
        f"the weights of {name!r} are not on this machine and could not be fetched ({_first_line(error)}). With a network, run: "
        f"hf download {name}{pin}. Without one, run on another machine: hf download {name}{pin} --local-dir FOLDER, copy FOLDER here, and "
        f"name it instead of {name!r}"
    )


def _device(name: str | None) -> torch.device:
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}; choose cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise SetupError(
            f"there is no device {name!r} here ({torch.cuda.device_count()} CUDA devices); choose cpu, or see: anomalyr1 doctor"
        )
    return device


def _from_folder(folder: Path, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """Model and processor of a checked folder."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

    safe = {"trust_remote_code": False, "local_files_only": True}
    try:
        with quiet():
            processor = AutoProcessor.from_pretrained(folder, **safe)
            model, loading = AutoModelForImageTextToText.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                attn_implementation="sdpa",
                use_safetensors=True,
                output_loading_info=True,
                **safe,
            )
            model.to(device)
    except ImportError as error:
        raise SetupError(
            f"{_first_line(error)}; install the package with all it needs: pip install anomalyr1"
        ) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise SetupError(
            f"{str(folder)!r}: not enough memory on {device} in {dtype}; choose a smaller model or another device"
        ) from error
    except (
        OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError, struct.error,
        SafetensorError, StrictDataclassError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{str(folder)!r}: transformers cannot load this model ({type(error).__name__}: {_first_line(error)}); copy the folder again "
            "from the model's source"
        ) from error
    if absent := sorted(loading["missing_keys"]):
        raise InputError(
            f"{str(folder)!r}: {len(absent)} tensors are missing from the weights, such as {absent[0]!r}; download it again"
        )
    processor.chat_template = processor.tokenizer.chat_template = chat.CHAT_TEMPLATE
    processor.tokenizer.padding_side = "left"
    model.generation_config = GenerationConfig(
        eos_token_id=processor.tokenizer.convert_tokens_to_ids(list(chat.STOP_TOKENS)),
        pad_token_id=processor.tokenizer.convert_tokens_to_ids(chat.TEXT_END),
    )
    return model.eval(), processor


def _check_parts(folder: Path, model: Any, processor: Any, family: Family) -> None:
    """Raise `InputError` where weights, tokenizer and image processor do not belong together."""
    tokenizer, images = processor.tokenizer, processor.image_processor
    special = chat.special_ids(tokenizer)
    known = tokenizer.get_vocab()
    if absent := [token for token in chat.REQUIRED_TOKENS if known.get(token) not in special]:
        raise InputError(
            f"{str(folder)!r}: the tokenizer has no special token {absent[0]!r}; use the tokenizer of the model's source"
        )
    vision = model.config.vision_config
    facts = (
        ("image_token_id", model.config.image_token_id, known[chat.IMAGE]),
        (
            "patch size times merge size of the processor",
            images.patch_size * images.merge_size,
            family.factor,
        ),
        (
            "patch size times merge size of the weights",
            vision.patch_size * vision.spatial_merge_size,
            family.factor,
        ),
    )
    for what, found, expected in facts:
        if found != expected:
            raise InputError(
                f"{str(folder)!r}: {what} is {found}, expected {expected}; its files are of different models, download it again"
            )
    rows = model.get_input_embeddings().weight.shape[0]
    if max(known.values()) >= rows:
        raise InputError(
            f"{str(folder)!r}: the tokenizer has ids up to {max(known.values())}, the weights only {rows} rows; its files are of different "
            "models, download it again"
        )


def pixel_cap(folder: Path, processor: Any, family: Family, max_pixels: int | None) -> int:
    """The pixel cap asked for, else the smaller one of the folder's own and the family's. Raises `InputError` when it is too small."""
    if max_pixels is not None:
        if max_pixels < family.min_pixels:
            raise InputError(
                f"max_pixels is {max_pixels:,}, expected at least {family.min_pixels:,}, the least that {family.name} takes"
            )
        return max_pixels
    own = processor.image_processor.size["longest_edge"]
    if not isinstance(own, int) or own < family.min_pixels:
        raise InputError(
            f"{str(folder)!r}: the processor's own cap is {own!r} pixels, expected a number of at least {family.min_pixels:,}; use the "
            "preprocessor_config.json of the model's source"
        )
    return min(own, family.max_pixels)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings inside, and put them back as they were."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
