"""A prompt is read once, however many questions and completions follow it.

    system, knowledge, images       read once; its keys and values are kept
      +-- question 1
      |     +-- completion
      |     +-- completion          a token looks at what lies above it, never aside
      +-- question 2
            +-- completion

`layout` says how such rows lie and which token looks at which. For answers, `trees` finds what prompts share
and `decode` grows their completions. For training, `groups` finds which completions answer which prompt,
`score` gives their log-probabilities, and `rollouts` samples them.
"""

from __future__ import annotations

from importlib import import_module

_FILES = {
    "layout": ("attention_mask", "pad_left"),
    "trees": ("Branch", "EncodedPrompt", "Tree", "batch_trees", "count_slots", "plant_trees"),
    "decode": ("EncodedImage", "encode_images", "grow_completions", "require_support"),
    "groups": ("Groups", "choose_form", "cost_agreement", "find_groups", "repeat_prompts", "split_rows"),
    "score": ("install_scoring", "score_completions", "suppress_tokens"),
    "rollouts": ("drop_repeats", "each_image_once", "prompts_as_groups", "roll_out", "whole_weights"),
}
"""The public names by the file that holds them; torch is loaded with the first use of one."""

_FILE_OF = {name: file for file, names in _FILES.items() for name in names}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> object:
    """Load what is asked for, when it is asked for (PEP 562)."""
    if name not in _FILE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILE_OF[name]}"), name)
