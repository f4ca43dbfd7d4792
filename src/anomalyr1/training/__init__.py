"""Teaching policies from labelled parts, by SFT or by GRPO with ROAM: a recipe in, a run folder out.

    from anomalyr1.training import load_recipe, train
    train(load_recipe("nano-grpo"), Path("runs/mine"))

Importing this loads no model library; the names are looked up when they are asked for (PEP 562).
"""

from __future__ import annotations

from importlib import import_module

_FILES = {
    "recipes": ("Recipe", "load_recipe", "dump_recipe"),
    "run": ("train", "plan_run"),
    "run_folder": ("Group", "read_groups"),
    "explain": ("explain_group",),
    "diagnosis": ("diagnose",),
    "merge": ("merge_adapter",),
    "reward_functions": ("CompletionReader", "TrainingQuestion"),
    "grpo": ("SharedPrefixGRPOTrainer",),
    "sft": ("PackedSFTTrainer",),
}
"""The public names by the file that holds them; torch is loaded with the first use of one that needs it."""

_FILE_OF = {name: file for file, names in _FILES.items() for name in names}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> object:
    """Load what is asked for, when it is asked for (PEP 562)."""
    if name not in _FILE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILE_OF[name]}"), name)
