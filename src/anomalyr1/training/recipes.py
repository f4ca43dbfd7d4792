"""Recipes: one YAML file says what is trained, on what, and how; dotted overrides change single values.

    model: nano
    data: ["drawn:seen?n=64"]
    rewards: {roam: 1.0, accuracy: 1.0}
    grpo: {num_generations: 8, learning_rate: 5e-7}

`sft` or `grpo` goes to TRL's `SFTConfig` or `GRPOConfig` as it stands; every key is checked, and an unknown
one is refused with the nearest known. In overrides `train.` means the section that the recipe has:
`train.learning_rate=1e-6`. PyYAML reads it rather than OmegaConf, which takes `no` for false and splits the
name of a reward such as `mine.rewards:length` at its dots. What a recipe file may not decide alone,
`reach` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from anomalyr1.files import YAML_LIMIT, parse_yaml, read_text
from anomalyr1.rewards import LARGEST_REWARD
from anomalyr1.training.reach import require_said
from anomalyr1.types import InputError, Record, first_error, nearest_name

SECTIONS = ("sft", "grpo")
TRAIN = "train"
"""In overrides: whichever of `SECTIONS` the recipe has."""
OURS = (
    "output_dir",
    "seed",
    "resume_from_checkpoint",
    "reward_weights",
    "remove_unused_columns",
    "model_init_kwargs",
)
"""Keys of TRL's configurations that the recipe or the run decides elsewhere."""


class Recipe(Record):
    """What one training run does."""

    description: str = ""
    """What the recipe does, in a sentence, with the hardware that it needs."""
    model: str = "nano"
    """"nano", a folder, or a model of the hub."""
    revision: str | None = None
    """The model's commit on the hub; None = the newest."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """The type of the weights; None = bfloat16 on CUDA where `lora` is given, else float32: see
    `settings.dtype_of`."""
    max_pixels: int | None = Field(default=None, gt=0)
    """The largest image that the model is shown, in pixels; None = the model's and the package's own cap."""
    data: tuple[str, ...] = ()
    """The specs of what is learned from, as for `anomalyr1 data check`."""
    held_out: tuple[str, ...] = ()
    """The specs of what is asked now and then, and never learned from."""
    prompt: str = "ours"
    """A prompt style, or the path of a prompt file."""
    questions: Literal["all", "own", "inspect"] = "all"
    """What is asked about a sample: its own questions, the two of `inspect` (verdict and boxes), or all."""
    turned: bool = Field(default=False, strict=True)
    """Whether each image is learned from in its seven other orientations, too, of which verdict and boxes
    alone are asked."""
    evidence: bool = Field(default=False, strict=True)
    """Whether prompts hold what good parts of the sample's class, of the data alone, say about its image."""
    evidence_dropout: float = Field(default=1 / 3, ge=0, le=1)
    """The share of samples whose prompts hold none, so that the policy looks for itself, too."""
    evidence_wrong: float = Field(default=0.1, ge=0, le=1)
    """The share whose prompts hold what was measured on another image of the class."""
    rewards: dict[str, float] = Field(default_factory=dict)
    """Weights by the name or dotted path of a reward; for GRPO."""
    zero_variance: Literal["keep", "skip", "resample"] = "keep"
    """What becomes of a group whose completions all earn the same; see `grpo.SharedPrefixGRPOTrainer`."""
    sft: dict[str, Any] | None = None
    """Keys of TRL's `SFTConfig`; None = the recipe is for GRPO."""
    grpo: dict[str, Any] | None = None
    """Keys of TRL's `GRPOConfig`; None = the recipe is for SFT."""
    lora: dict[str, Any] | None = None
    """Keys of peft's `LoraConfig`; None = all weights are trained."""
    freeze: Literal["vision"] | None = None
    """The part of the model that does not learn; None = all of it does."""
    seed: int = Field(default=42, ge=0)
    """The seed of everything that is random in the run."""

    @field_validator("data", "held_out", mode="before")
    @classmethod
    def _listed(cls, specs: Any) -> Any:
        """One spec is a list of one."""
        return [specs] if isinstance(specs, str) else specs

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.sft is None) == (self.grpo is None):
            raise ValueError("a recipe has one of the sections sft and grpo")
        if self.grpo is not None and not self.rewards:
            raise ValueError("a recipe for GRPO needs rewards, such as {roam: 1.0, accuracy: 1.0}")
        if self.sft is not None and (self.rewards or self.zero_variance != "keep"):
            raise ValueError(
                "rewards and zero_variance mean something for GRPO alone; leave them out beside sft"
            )
        if any(abs(weight) > LARGEST_REWARD for weight in self.rewards.values()):
            raise ValueError(f"a weight of rewards is greater than {LARGEST_REWARD:g}")
        if self.evidence_dropout + self.evidence_wrong > 1:
            raise ValueError("evidence_dropout and evidence_wrong are shares, and together at most 1")
        if not self.data:
            raise ValueError('a recipe needs data, such as ["drawn:seen?n=64"]')
        return self

    @property
    def section(self) -> str:
        """Which of `SECTIONS` the recipe has."""
        return "sft" if self.sft is not None else "grpo"

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that the section sets, with their values."""
        return self.sft or self.grpo or {}


def shipped() -> list[str]:
    """The names of the recipes that the package brings along."""
    names = [file.name for file in resources.files("anomalyr1.recipes").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = (), *, allow_code: bool = False) -> Recipe:
    """A shipped recipe or the one in a YAML file, changed by `overrides` such as "grpo.learning_rate=1e-6".

    The value of an override is YAML. `allow_code` lets the file name rewards of its own, which training
    imports and runs. Raises `InputError` naming the file and the nearest known name for what is not known,
    what is wrong with a value, and what `reach` says that a file may not decide alone.
    """
    where = f"recipe {name_or_path!r}"
    values = _values_of(_text_of(name_or_path), where)
    typed: dict[str, Any] = {name: {} for name in SECTIONS if name in values}
    for override in overrides:
        _apply_override(values, override)
        _apply_override(typed, override)
    recipe = _validated(values, where)
    sections = {recipe.section: recipe.settings, "lora": recipe.lora or {}}
    require_said(sections, recipe.rewards, typed, where, allow_code)
    return recipe


def read_recipe(path: Path) -> Recipe:
    """The recipe in the folder of a run: a record of what was done, by which nothing is done again.

    Raises `InputError` as `load_recipe` does, but for what a recipe may not decide.
    """
    where = f"recipe {str(path)!r}"
    return _validated(_values_of(read_text(path, YAML_LIMIT), where), where)


def _values_of(text: str, where: str) -> dict[str, Any]:
    values = parse_yaml(text, where)
    if not isinstance(values, dict):
        raise InputError(f"{where}: a recipe is a mapping of keys to values, found {type(values).__name__}")
    check_keys(values, Recipe.model_fields, where)
    return values


def _validated(values: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        place, _, fault = first_error(error).partition(": ")
        where = f"{where}, {place}" if place else where
        raise InputError(f"{where}: {fault.removeprefix('Value error, ')}") from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every value as YAML, for `load_recipe`."""
    import yaml

    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def check_keys(keys: Iterable[str], valid_keys: Iterable[str], where: str) -> None:
    """Raise `InputError` for the first of `keys` that is none of `valid_keys`, naming the nearest that is."""
    valid_names = list(valid_keys)
    for key in keys:
        if key in valid_names:
            continue
        nearest = nearest_name(str(key), valid_names)
        choices = ", ".join(valid_names) if len(valid_names) < 30 else "see its documentation"
        hint = f"did you mean {nearest!r}?" if nearest else f"known: {choices}"
        raise InputError(f"{where} has no key {key!r}; {hint}")


def check_settings(recipe: Recipe, valid_keys: Iterable[str]) -> None:
    """Check the keys of the recipe's section against TRL's own, `valid_keys`.

    Raises `InputError` for a key that is none of those, and for one that is decided elsewhere.
    """
    where = f"section {recipe.section} of the recipe"
    for key in recipe.settings:
        if key in OURS:
            raise InputError(
                f"{where} cannot set {key!r}: the run does, from the recipe's other keys and the command line"
            )
    check_keys(recipe.settings, valid_keys, where)


def differences(before: Recipe, after: Recipe) -> list[str]:
    """Where two recipes differ, a line a key: "grpo.beta: 0.04 -> 0.0"."""
    values_before, values_after = (dict(_flatten(recipe.model_dump())) for recipe in (before, after))
    return [
        f"{key}: {values_before.get(key)!r} -> {values_after.get(key)!r}"
        for key in sorted(values_before.keys() | values_after.keys())
        if values_before.get(key) != values_after.get(key)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested keys as dotted ones, with their values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text_of(name_or_path: str) -> str:
    """The YAML text of a shipped recipe or a file. Raises `InputError` where there is neither."""
    if name_or_path in shipped():
        return (resources.files("anomalyr1.recipes") / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    try:
        return read_text(Path(name_or_path).expanduser(), YAML_LIMIT)
    except InputError as error:
        nearest = nearest_name(name_or_path, shipped())
        choices = f"give a YAML file, or one of {', '.join(shipped())}"
        hint = f"did you mean {nearest!r}?" if nearest else choices
        raise InputError(f"no recipe {name_or_path!r} ({error}); {hint}") from error


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Set one dotted key in `values`. Raises `InputError` where it cannot be read or has no place."""
    # 1. Split it; the name of a reward may itself be a dotted path.
    dotted_key, equals, text = override.partition("=")
    keys = dotted_key.split(".", 1 if dotted_key.startswith("rewards.") else -1)
    if not equals or not all(keys):
        raise InputError(
            f"cannot read the override {override!r}; write it as section.key=value, "
            "e.g. grpo.learning_rate=1e-6"
        )
    if keys[0] == TRAIN:
        keys[0] = next((name for name in SECTIONS if name in values), TRAIN)
    if len(keys) == 1 and nearest_name(keys[0], [*Recipe.model_fields, TRAIN]) is None:
        raise InputError(
            f"override {override!r}: a recipe has no key {keys[0]!r}; did you mean '{TRAIN}.{keys[0]}'?"
        )
    check_keys(keys[:1], [*Recipe.model_fields, TRAIN], f"override {override!r}: a recipe")
    # 2. Go down to the mapping that holds the key; one that is not there yet begins empty.
    mapping = values
    for key in keys[:-1]:
        if mapping.get(key) is None:
            mapping[key] = {}
        if not isinstance(mapping[key], dict):
            raise InputError(
                f"override {override!r}: {key!r} is {mapping[key]!r}, which has no keys of its own"
            )
        mapping = mapping[key]
    # 3. Set it.
    mapping[keys[-1]] = parse_yaml(text, f"override {override!r}")
