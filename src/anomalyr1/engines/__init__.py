"""Engines turn prompts into completions: `local`, `vllm`, `endpoint`, `replay`; `parity` compares two.

    engine = load_engine("local:nano")
    (completion,) = engine.complete([prompt], {path: open_image(path)})

Importing this loads no model library; loading an engine does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalyr1.engines.endpoint import EndpointEngine
from anomalyr1.engines.endpoint_config import EndpointConfig
from anomalyr1.engines.engine import GREEDY, Completion, Engine, Sampling
from anomalyr1.engines.loading import EXAMPLES, load_engine
from anomalyr1.engines.parity import Parity, compare_engines
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.engines.vllm import VllmEngine

if TYPE_CHECKING:
    from anomalyr1.engines.local import LocalEngine

__all__ = [
    "EXAMPLES",
    "GREEDY",
    "Completion",
    "EndpointConfig",
    "EndpointEngine",
    "Engine",
    "LocalEngine",
    "Parity",
    "ReplayEngine",
    "Sampling",
    "VllmEngine",
    "compare_engines",
    "load_engine",
]


def __getattr__(name: str) -> object:
    """Load the engine that needs torch when it is named (PEP 562)."""
    if name == "LocalEngine":
        from anomalyr1.engines.local import LocalEngine

        return LocalEngine
    raise AttributeError(f"module 'anomalyr1.engines' has no attribute {name!r}")
