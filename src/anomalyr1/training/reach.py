"""What a recipe file may not decide alone: keys that reach a network, run code, or name files elsewhere.

A recipe may come from anybody, and is refused where it holds one of them, until its user says the same on the
command line. Rewards that are code can be allowed as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anomalyr1.rewards import is_code
from anomalyr1.types import InputError

NETWORK, CODE, ELSEWHERE = "reaches a network", "runs code", "names files elsewhere"
REACHING = {
    "push_to_hub": NETWORK,
    "log_completions_hub_repo": NETWORK,
    "report_to": NETWORK,
    "vllm_mode": NETWORK,
    "vllm_group_port": NETWORK,
    "trust_remote_code": CODE,
    "torch_compile_backend": CODE,
    "accelerator_config": ELSEWHERE,
    "deepspeed": ELSEWHERE,
    "fsdp_config": ELSEWHERE,
    # peft imports the modules that its configuration names
    "auto_mapping": CODE,
    "megatron_config": CODE,
    "megatron_core": CODE,
    "base_model_name_or_path": ELSEWHERE,
}
"""Keys of TRL's, transformers' and peft's configurations, and what they do."""
REACHING_PREFIXES = ("hub_", "trackio_", "vllm_server_")
"""Keys that begin so reach a network."""
HARMLESS = {"report_to": ("none", "tensorboard"), "vllm_mode": ("colocate",)}
"""Values of such keys that stay on this machine and in the run's folder."""


def require_said(
    sections: Mapping[str, Mapping[str, Any]],
    rewards: Iterable[str],
    overrides: Mapping[str, Any],
    where: str,
    allow_code: bool,
) -> None:
    """Raise `InputError` for the first thing that a recipe may not decide alone and nobody else has said.

    `sections` are the recipe's, by their names, and `overrides` what the command line says of them, in the
    same form; `where` names the recipe.
    """
    for section, settings in sections.items():
        typed = overrides.get(section) or {}
        for key, value in settings.items():
            reason = reach_of(key, value)
            if reason is not None and (key not in typed or typed[key] != value):
                raise InputError(
                    f"{where}: {section}.{key} {reason}, which a recipe file may not decide alone; leave it "
                    f"out, or say it on the command line, whole: {section}.{key}=VALUE"
                )
    for name in rewards:
        if is_code(name) and not allow_code and name not in (overrides.get("rewards") or {}):
            raise InputError(
                f"{where}: the reward {name!r} is code, which training runs; read it, then say --allow-code "
                "(in Python load_recipe(..., allow_code=True)), or name it on the command line: "
                f"rewards.{name}=WEIGHT"
            )


def reach_of(key: str, value: Any) -> str | None:
    """What a key does beyond the run's folder; None = nothing, with this value."""
    reason = NETWORK if key.startswith(REACHING_PREFIXES) else REACHING.get(key)
    values = value if isinstance(value, list) else [value]
    harmless = (None, False, "", *HARMLESS.get(key, ()))
    return None if all(part in harmless for part in values) else reason
