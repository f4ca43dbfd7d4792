"""An engine by its name on the command line."""

from __future__ import annotations

from anomalyr1.engines.engine import Engine
from anomalyr1.types import InputError

EXAMPLES = ("local", "local:MODEL", "vllm", "vllm:MODEL", "endpoint:FILE", "replay:FILE")
"""How an engine may be named: MODEL is "nano", a folder or a name of the hub; FILE is the configuration of a
server, or an inspections file."""


def load_engine(
    spec: str, model: str = "nano", revision: str | None = None, max_pixels: int | None = None
) -> Engine:
    """The engine that `spec` names; `model` is what it runs where the spec does not say so.

    Raises `InputError` for an unknown spec, and for a revision or a pixel cap given to an engine that has its
    own; beside these what the engine itself raises when it cannot start.
    """
    name, _, argument = spec.partition(":")
    needs_file = name in ("endpoint", "replay")
    if name not in ("local", "vllm", "endpoint", "replay") or (needs_file and not argument):
        raise InputError(f"unknown engine {spec!r}; write it as one of {', '.join(EXAMPLES)}")
    if needs_file and (revision is not None or max_pixels is not None or model != "nano"):
        raise InputError(
            f"{spec!r} names its own model, revision and max_pixels; "
            "leave --model, --revision and --max-pixels out"
        )
    if name == "local":
        from anomalyr1.engines.local import LocalEngine
        from anomalyr1.policy.load import load_policy

        return LocalEngine(load_policy(argument or model, revision, max_pixels=max_pixels))
    if name == "vllm":
        from anomalyr1.engines.vllm import VllmEngine

        return VllmEngine(argument or model, revision, max_pixels)
    if name == "endpoint":
        from anomalyr1.engines.endpoint import EndpointEngine
        from anomalyr1.engines.endpoint_config import EndpointConfig

        return EndpointEngine(EndpointConfig.read(argument))
    from anomalyr1.engines.replay import ReplayEngine

    return ReplayEngine(argument)
