"""Recipes: one YAML file says what is trained, on what, and how; dotted overrides change single values.

    model: nano
    data: ["drawn:seen?n=64"]
    rewards: {roam: 1.0, accuracy: 1.0}
    grpo: {num_generations: 8, learning_rate: 5e-7}

`sft` or `grpo` goes to TRL's `SFTConfig` or `GRPOConfig` as it stands; every key is checked, and an unknown
one is refused with the nearest known. In overrides `train.` means the section that the recipe has:
`train.learning_rate=1e-6`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from anomalyr1.types import InputError, Record

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
    """In a sentence, with the hardware that it needs."""
    model: str = "nano"
    """"nano", a folder, or a model of the hub."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    """None = bfloat16 on CUDA where `lora` is given, else float32: see `settings.dtype_of`."""
    max_pixels: int | None = Field(default=None, gt=0)
    """The largest image that the model is shown, in pixels; None = the model's and the package's own cap."""
    data: tuple[str, ...] = ()
    """What is learned from, as for `anomalyr1 data check`."""
    held_out: tuple[str, ...] = ()
    """What is asked now and then, and never learned from."""
    prompt: str = "ours"
    """A prompt style, or the path of a prompt file."""
    questions: Literal["all", "own", "inspect"] = "all"
    """What is asked about a sample: its own questions, the two of `inspect` (verdict and boxes), or all."""
    turned: bool = False
    """Whether each image is learned from in its seven other orientations, too, of which verdict and boxes
    alone are asked."""
    rewards: dict[str, float] = Field(default_factory=dict)
    """Weights by the name or dotted path of a reward; for GRPO."""
    zero_variance: Literal["keep", "skip", "resample"] = "keep"
    """What becomes of a group whose completions all earn the same; see `grpo.SharedPrefixGRPOTrainer`."""
    sft: dict[str, Any] | None = None
    grpo: dict[str, Any] | None = None
    lora: dict[str, Any] | None = None
    """For peft's `LoraConfig`; None = all weights are trained."""
    freeze: Literal["vision"] | None = None
    seed: int = Field(default=42, ge=0)

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
        if not self.data:
            raise ValueError('a recipe needs data, such as ["drawn:seen?n=64"]')
        return self

    @property
    def section(self) -> str:
        """Which of `SECTIONS` the recipe has."""
        return "sft" if self.sft is not None else "grpo"

    @property
    def settings(self) -> dict[str, Any]:
        """What the section says."""
        return self.sft or self.grpo or {}


def shipped() -> list[str]:
    """The names of the recipes that the package brings along."""
    return sorted(
        one.name.removesuffix(".yaml")
        for one in files("anomalyr1.recipes").iterdir()
        if one.name.endswith(".yaml")
    )


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe or the one in a YAML file, with `overrides` such as "grpo.learning_rate=1e-6" (the value is YAML).

    Raises `InputError` naming the file and the nearest known name for what is not known, and what is wrong
    with a value.
    """
    text = _text_of(name_or_path)
    values = _parsed(text, name_or_path)
    if not isinstance(values, dict):
        raise InputError(
            f"{name_or_path!r}: a recipe is a mapping of keys to values, found {type(values).__name__}"
        )
    check_keys(values, Recipe.model_fields, f"recipe {name_or_path!r}")
    for override in overrides:
        _override(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"recipe {name_or_path!r}{f', {place}' if place else ''}: {first['msg'].removeprefix('Value error, ')}"
        ) from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe with every value as YAML, for `load_recipe`."""
    import yaml

    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def check_keys(values: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `InputError` for the first of `values` that is not `known`, naming the nearest that is."""
    names = list(known)
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"known: {', '.join(names) if len(names) < 30 else 'see its documentation'}"
            )
            raise InputError(f"{where} has no key {key!r}; {hint}")


def check_settings(recipe: Recipe, known: Iterable[str]) -> None:
    """Raise `InputError` for a key of the recipe's section that is none of `known`, TRL's own, or that is decided elsewhere."""
    where = f"section {recipe.section} of the recipe"
    for key in recipe.settings:
        if key in OURS:
            raise InputError(
                f"{where} cannot set {key!r}: the run does, from the recipe's other keys and the command line"
            )
    check_keys(recipe.settings, known, where)


def differences(one: Recipe, other: Recipe) -> list[str]:
    """Where two recipes differ, a line a key: "grpo.beta: 0.04 -> 0.0"."""
    first, second = (dict(_flat(recipe.model_dump())) for recipe in (one, other))
    keys = sorted(first.keys() | second.keys())
    return [
        f"{key}: {first.get(key)!r} -> {second.get(key)!r}"
        for key in keys
        if first.get(key) != second.get(key)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text_of(name_or_path: str) -> str:
    if name_or_path in shipped():
        return (files("anomalyr1.recipes") / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_path).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        near = difflib.get_close_matches(name_or_path, shipped(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"give a YAML file, or one of {', '.join(shipped())}"
        raise InputError(f"no recipe {name_or_path!r} ({error}); {hint}") from error


def _override(values: dict[str, Any], override: str) -> None:
    """Set one dotted key."""
    dotted, equals, text = override.partition("=")
    keys = dotted.split(
        ".", 1 if dotted.startswith("rewards.") else -1
    )  # a reward's name may be a dotted path
    if not equals or not all(keys):
        raise InputError(
            f"cannot read the override {override!r}; write it as section.key=value, e.g. grpo.learning_rate=1e-6"
        )
    if keys[0] == TRAIN:
        keys[0] = next((name for name in SECTIONS if name in values), TRAIN)
    check_keys(keys[:1], [*Recipe.model_fields, TRAIN], f"override {override!r}: a recipe")
    place = values
    for key in keys[:-1]:
        if place.get(key) is None:
            place[key] = {}
        if not isinstance(place[key], dict):
            raise InputError(
                f"override {override!r}: {key!r} is {place[key]!r}, which has no keys of its own"
            )
        place = place[key]
    place[keys[-1]] = _parsed(text, f"override {override!r}")


def _parsed(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.load(text, _loader())
    except yaml.YAMLError as error:
        mark, problem = (
            getattr(error, "problem_mark", None),
            getattr(error, "problem", None) or str(error).splitlines()[0],
        )
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise InputError(f"{where}: not valid YAML ({place}{problem}); mend it there") from error


def _loader() -> Any:
    """Safe YAML in which, as in YAML 1.2, 5e-7 is a number and `no` a word, and a key stands once."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml is not typed
        yaml_implicit_resolvers: ClassVar = {
            first: [(tag, word) for tag, word in known if tag != "tag:yaml.org,2002:bool"]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} stands twice", node.start_mark
            )
        found: dict[Any, Any] = yaml.SafeLoader.construct_mapping(loader, node, deep=True)
        return found

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF")
    )
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
    )
    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    return Loader
