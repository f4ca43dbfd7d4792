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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomalyr1.files import sha256_of_file
from anomalyr1.images.frames import FAMILIES, Family
from anomalyr1.policy import chat
from anomalyr1.policy.safety import check_configuration, check_folder
from anomalyr1.types import InputError, SetupError

if TYPE_CHECKING:
    import torch

NANO = "nano"
"""The name of the bundled policy."""
NANO_FOLDER = Path(__file__).parent / "nano"
BUNDLED = {NANO: NANO_FOLDER, "nano-raw": NANO_FOLDER.with_name("nano-raw")}
"""The folders of the policies that the package ships, by name. The raw one is a start for experiments: its
reasoning often contradicts its answers."""

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
    """The name that it was loaded by: "nano", a folder or a name on the hub."""
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
    float32 elsewhere; `max_pixels` the smaller of the checkpoint's own cap and the package's default. Raises
    `InputError` for a folder that is refused, damaged or not supported, and `SetupError` where the weights
    cannot be had or the device is missing.
    """
    folder, family, found_revision = find_folder(name_or_dir, revision)
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
    return Policy(model, processor, family, cap, name_or_dir, found_revision)


class ModelFolder(NamedTuple):
    """A model folder that has been checked and may be loaded."""

    folder: Path
    """Where the files lie."""
    family: Family
    """The family of the model in it."""
    revision: str
    """The commit on the hub, or the digest of a folder's weights and configuration; empty = not computed."""


def find_folder(name_or_dir: str, revision: str | None = None) -> ModelFolder:
    """The checked folder of "nano", of a folder or of a model of the hub; raises as `load_policy` does."""
    local = _local_folder(name_or_dir)
    folder = local or _download(name_or_dir, revision)
    family = FAMILIES[check_folder(folder)]
    return ModelFolder(folder, family, folder.name if local is None else _revision_of(local, revision))


def find_configuration(name_or_dir: str, revision: str | None = None) -> ModelFolder:
    """As `find_folder`, without the weights of a model of the hub: enough to plan with."""
    local = _local_folder(name_or_dir)
    folder = local or _download(name_or_dir, revision, weights=False)
    return ModelFolder(folder, FAMILIES[check_configuration(folder)], folder.name if local is None else "")


def load_processor(folder: Path) -> Any:
    """The processor of a checked folder, with our chat template.

    Raises `InputError` when transformers cannot load it.
    """
    from transformers import AutoProcessor

    with quiet(), _typed_errors(folder):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
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
    """What to know before a verdict of this model is believed; empty where nothing is known against it."""
    if name in BUNDLED:
        return (
            f"{name} knows drawn parts only: on a photograph of a real part its verdict means nothing; "
            "name a real model with --model"
        )
    if start := _bundled_start(name):
        return (
            f"{name} was {start}, which knows drawn parts only, before it was taught: on a photograph of a "
            "part it was not taught its verdict means nothing, and on one it was taught only as much as an "
            "evaluation on held-out images shows"
        )
    return ""


def _bundled_start(name: str) -> str:
    """The bundled policy that a run (`RUN/final`, `RUN/checkpoint-N`) goes back to; empty = none is known.

    A run says in `run.json` what it began with, which may be a run again. It names that as seen from where it
    was started: from here, or from a folder above the run.
    """
    starting_points, run_files = [Path()], set()
    try:
        while name not in BUNDLED:
            folders = ((point / Path(name).expanduser()).resolve() for point in starting_points)
            folder = next(filter(Path.is_dir, folders), None)
            if folder is None:
                return ""
            run_file = folder.parent / "run.json"
            if run_file in run_files:  # runs that name each other
                return ""
            run_files.add(run_file)
            name = str(json.loads(run_file.read_bytes())["model"])
            starting_points = [Path(), *run_file.parents]
    except (OSError, ValueError, LookupError, TypeError, RuntimeError):  # no run.json, or not one of ours
        return ""
    return name


def digest_of(folder: Path) -> str:
    """The digest of a model folder's weights and configuration: "sha256:" and 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".json") or file.name == "merges.txt":
            digest.update(f"{file.name} {sha256_of_file(file)}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()}"


def _local_folder(name: str) -> Path | None:
    """The folder that `name` means; None = it is the name of a model of the hub."""
    if name in BUNDLED:
        if not BUNDLED[name].is_dir():
            raise SetupError(
                f"the bundled policy {name} is not in this installation; install the package again, "
                "or name another model"
            )
        return BUNDLED[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(name):
        raise InputError(
            f"no model folder {name!r}; name a folder with a model in it, a model of the hub as owner/name, "
            f"or {' or '.join(BUNDLED)}"
        )
    return None


def _revision_of(folder: Path, revision: str | None) -> str:
    """The commit of a snapshot in the hub's cache, else the digest.

    Raises `InputError` when it is not the `revision` that was pinned.
    """
    place = folder.resolve()
    in_cache = place.parent.name == "snapshots" and _COMMIT.fullmatch(place.name)
    actual = place.name if in_cache else digest_of(folder)
    if revision is not None and revision != actual:
        raise InputError(
            f"{str(folder)!r}: its revision is {actual!r}, expected {revision!r}; "
            "the files are not the ones that were pinned"
        )
    return actual


def _download(name: str, revision: str | None, weights: bool = True) -> Path:
    """A model of the hub, in its cache; it is refused by its configuration before weights are fetched."""
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
            f"the hub has no model {name!r}{f' at revision {revision!r}' if revision else ''} that you may "
            f"read ({_first_line(error)}); check the name, and for a gated model accept its terms on its "
            "page and run: hf auth login"
        ) from error
    except (OSError, *unreachable) as error:
        raise _not_here(name, revision, error) from error
    return folder


def _not_here(name: str, revision: str | None, error: BaseException) -> SetupError:
    pin = f" --revision {revision}" if revision else ""
    return SetupError(
        f"the weights of {name!r} are not on this machine and could not be fetched ({_first_line(error)}). "
        f"With a network, run: hf download {name}{pin}. Without one, run on another machine: "
        f"hf download {name}{pin} --local-dir FOLDER, copy FOLDER here, and name it instead of {name!r}"
    )


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

    with quiet(), _typed_errors(folder, f" on {device} in {dtype}"):
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


@contextmanager
def _typed_errors(folder: Path, place: str = "") -> Iterator[None]:
    """Whatever transformers raises inside becomes a typed error: on damaged files it may raise anything."""
    import torch

    try:
        yield
    except ImportError as error:
        raise SetupError(
            f"{_first_line(error)}; install the package with all it needs: pip install anomalyr1"
        ) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise SetupError(
            f"{str(folder)!r}: not enough memory{place}; choose a smaller model or another device"
        ) from error
    except Exception as error:
        raise InputError(
            f"{str(folder)!r}: transformers cannot load this model ({type(error).__name__}: "
            f"{_first_line(error)}); copy the folder again from the model's source"
        ) from error


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
    """`max_pixels` where it is given, else the smaller one of the folder's cap and the family's.

    Raises `InputError` when it is too small for the family.
    """
    if max_pixels is not None:
        if max_pixels < family.min_pixels:
            raise InputError(
                f"max_pixels is {max_pixels:,}, expected at least {family.min_pixels:,}, "
                f"the least that {family.name} takes"
            )
        return max_pixels
    folder_cap = processor.image_processor.size["longest_edge"]
    if not isinstance(folder_cap, int) or folder_cap < family.min_pixels:
        raise InputError(
            f"{str(folder)!r}: the processor's own cap is {folder_cap!r} pixels, expected a number of at "
            f"least {family.min_pixels:,}; use the preprocessor_config.json of the model's source"
        )
    return min(folder_cap, family.max_pixels)


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
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
