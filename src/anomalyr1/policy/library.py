"""transformers, kept quiet, and whatever it raises made a typed error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalyr1.policy.documents import read_json
from anomalyr1.policy.rules import SAM2, Kind
from anomalyr1.types import InputError, SetupError


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


@contextmanager
def typed_errors(folder: Path, place: str = "") -> Iterator[None]:
    """Whatever transformers raises inside becomes a typed error: on damaged files it may raise anything.

    A panic in Rust is no `Exception`.
    """
    import torch

    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, InputError, SetupError):
        raise
    except ImportError as error:
        raise SetupError(
            f"{first_line(error)}; install the package with all it needs: pip install anomalyr1"
        ) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise SetupError(
            f"{str(folder)!r}: not enough memory{place}; choose a smaller model or another device"
        ) from error
    except BaseException as error:
        raise InputError(
            f"{str(folder)!r}: transformers cannot load this model ({type(error).__name__}: "
            f"{first_line(error)}); copy the folder again from the model's source"
        ) from error


def build_without_memory(folder: Path, kind: Kind) -> Any:
    """The model that the configuration of a checked folder describes, with tensors that take no memory."""
    import torch
    import transformers

    model_type = read_json(folder / "config.json")["model_type"]
    model_class = getattr(transformers, "Sam2Model" if kind is SAM2 else kind.architectures[model_type])
    with torch.device("meta"), quiet(), typed_errors(folder):
        config = model_class.config_class.from_pretrained(folder, local_files_only=True)
        return model_class._from_config(config, attn_implementation="sdpa")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
