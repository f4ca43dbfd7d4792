"""A recipe with all that follows from it before any data are read: made once a run, and passed on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from anomalyr1 import prompts
from anomalyr1.rewards import Reward, is_code, load_reward, look_at_code
from anomalyr1.training.model_size import ModelSize, read_model_size
from anomalyr1.training.recipes import Recipe
from anomalyr1.training.settings import settings_of
from anomalyr1.types import Answer, InputError, Question


class PromptStyle(NamedTuple):
    """How a recipe puts questions, as `prompts.build` takes it."""

    style: str
    """The name of a built-in style."""
    text: str | None
    """The text of the user's own prompt file; None = that of the style."""


@dataclass(frozen=True)
class Resolved:
    """A recipe, and what its words stand for."""

    recipe: Recipe
    """The recipe as it was written."""
    settings: dict[str, Any]
    """Every key of the recipe's section with the value that holds for it."""
    rewards: dict[str, Reward]
    """The functions behind the recipe's rewards, by its names for them; none for SFT."""
    prompt_style: PromptStyle
    """How questions are put."""
    model_size: ModelSize
    """The size of the model, its adapters included."""

    @property
    def grpo(self) -> bool:
        """Whether the recipe is for GRPO, else for SFT."""
        return self.recipe.section == "grpo"


def resolve(recipe: Recipe, run_code: bool = True) -> Resolved:
    """Look up all that a recipe names but its data; loads no weights.

    Without `run_code` a stand-in that applies to all questions takes the place of rewards that are code,
    which are looked at only.

    Raises `InputError` for a reward, prompt, key, value or model that cannot be used, and `SetupError` for a
    model that is neither here nor known.
    """
    return Resolved(
        recipe=recipe,
        rewards={
            name: load_reward(name) if run_code or not is_code(name) else _look(name)
            for name in recipe.rewards
        },
        prompt_style=prompt_style(recipe),
        settings=settings_of(recipe),
        model_size=read_model_size(recipe),
    )


def _look(name: str) -> Reward:
    look_at_code(name)
    return _stand_in


def _stand_in(answer: Answer, question: Question) -> float | None:
    """Takes the place of a reward that is not run."""
    return 0.0


def prompt_style(recipe: Recipe) -> PromptStyle:
    """The prompt of a recipe. Raises `InputError` where it is neither a style nor a file that can be read."""
    if recipe.prompt in prompts.STYLES:
        return PromptStyle(recipe.prompt, None)
    if not Path(recipe.prompt).is_file():
        raise InputError(
            f"prompt {recipe.prompt!r} is neither a file nor a style; styles are {', '.join(prompts.STYLES)}"
        )
    return PromptStyle(prompts.DEFAULT_STYLE, prompts.read_prompt(Path(recipe.prompt)))
