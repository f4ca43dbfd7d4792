"""Which engine runs a model, in one word of the command line."""

from __future__ import annotations

from collections.abc import Callable

from anomalyr1.engines.engine import Engine
from anomalyr1.types import InputError

EXAMPLES = ("local", "local:MODEL", "vllm", "vllm:MODEL", "endpoint:FILE", "replay:FILE")
"""MODEL is "nano", a folder or a name of the hub; FILE the configuration of a server, or an inspections
file."""


def load(
    spec: str, model: str = "nano", revision: str | None = None, max_pixels: int | None = None
) -> Engine:
    """The engine that `spec` names; `model` is what it runs where the spec does not say so.

    Raises `InputError` for an unknown spec, and for a revision or a pixel cap given to an engine that has its
    own.
    """
    name, _, rest = spec.partition(":")
    if name not in _LOADERS or (name in ("endpoint", "replay") and not rest):
        raise InputError(f"unknown engine {spec!r}; write it as one of {', '.join(EXAMPLES)}")
    if name in ("endpoint", "replay") and (revision is not None or max_pixels is not None or model != "nano"):
        raise InputError(
            f"{spec!r} names its own model, revision and max_pixels; leave --model, --revision and --max-pixels out"
        )
    return _LOADERS[name](rest or model, revision, max_pixels)


def _local(model: str, revision: str | None, max_pixels: int | None) -> Engine:
    from anomalyr1.engines.local import LocalEngine
    from anomalyr1.policy.load import load_policy

    return LocalEngine(load_policy(model, revision, max_pixels=max_pixels))


def _vllm(model: str, revision: str | None, max_pixels: int | None) -> Engine:
    from anomalyr1.engines.vllm import VllmEngine

    return VllmEngine(model, revision, max_pixels)


def _endpoint(file: str, revision: str | None, max_pixels: int | None) -> Engine:
    from anomalyr1.engines.endpoint import EndpointEngine
    from anomalyr1.engines.endpoint_config import EndpointConfig

    return EndpointEngine(EndpointConfig.read(file))


def _replay(file: str, revision: str | None, max_pixels: int | None) -> Engine:
    from anomalyr1.engines.replay import ReplayEngine

    return ReplayEngine(file)


_LOADERS: dict[str, Callable[[str, str | None, int | None], Engine]] = {
    "local": _local,
    "vllm": _vllm,
    "endpoint": _endpoint,
    "replay": _replay,
}
