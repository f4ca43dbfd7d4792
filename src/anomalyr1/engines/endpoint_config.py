"""What must be known of a server before it can be asked: where it is, its model, how patient we are."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from anomalyr1.files import read_yaml
from anomalyr1.images.frames import FAMILIES
from anomalyr1.types import InputError, Record, SetupError, first_error, nearest_name

ENGINE_FIELDS = frozenset(
    (
        "model",
        "messages",
        "max_tokens",
        "temperature",
        "top_p",
        "seed",
        "n",
        "stream",
        "logprobs",
        "top_logprobs",
    )
)
"""Fields of a request that the engine sets itself, so that `extra` must not."""


class EndpointConfig(Record):
    """Where the model is, what it is, and how it is asked; `read` takes it from a YAML file."""

    url: str
    """The server's URL up to and including the version, e.g. "http://127.0.0.1:8000/v1"."""
    model: str = Field(min_length=1)
    """The model's name, as the server calls it."""
    family: str
    """One of `images.FAMILIES`: how the model resizes images and in which units it writes boxes."""
    max_pixels: int | None = None
    """The server's own pixel cap, or a smaller one; None = the family's default."""
    revision: str = ""
    """Which weights the server has, for the record; nobody checks it."""
    key_variable: str | None = None
    """Name of the environment variable that holds the key; never the key itself."""
    key_over_http: bool = False
    """Whether the key may go over http://, readable on its way, to another machine."""
    environment_proxy: bool = False
    """Whether HTTP_PROXY and the like of the environment are followed; a proxy sees images, and over http://
    the key."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests under way at the same time."""
    timeout_seconds: float = Field(default=120, gt=0)
    """The longest that one request may take, from connecting to the last byte."""
    deadline_seconds: float = Field(default=600, gt=0)
    """The longest that one question may take, all attempts and waits included."""
    attempts: int = Field(default=6, ge=1, le=100)
    """How often one question is sent; refused connections do not count, they are tried again until the
    deadline."""
    extra: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Further fields of every request, e.g. {"repetition_penalty": 1.0} for vLLM, which else follows the
    model folder's defaults."""

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http://HOST:PORT/v1 or https://HOST/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "a URL with a user, a password, a query or a fragment is refused, since it is recorded; "
                "see key_variable"
            )
        return url.rstrip("/")

    @field_validator("family")
    @classmethod
    def _known_family(cls, family: str) -> str:
        if family not in FAMILIES:
            raise ValueError(f"expected one of {', '.join(FAMILIES)}")
        return family

    @field_validator("extra")
    @classmethod
    def _no_engine_fields(
        cls, extra: dict[str, bool | int | float | str]
    ) -> dict[str, bool | int | float | str]:
        conflicts = sorted(ENGINE_FIELDS & set(extra))
        if conflicts:
            raise ValueError(f"{conflicts[0]!r} is set by the engine itself")
        return extra

    @model_validator(mode="after")
    def _key_stays_private(self) -> Self:
        is_plain = urlsplit(self.url).scheme == "http"
        if (
            self.key_variable is not None
            and is_plain
            and not self.key_over_http
            and not _is_loopback(self.url)
        ):
            raise ValueError(
                f"the key would go to {self.url} over http, readable on its way; use https, "
                "or write key_over_http: true where the network is yours"
            )
        return self

    @property
    def cap(self) -> int:
        """The pixel cap in force."""
        return self.max_pixels if self.max_pixels is not None else FAMILIES[self.family].max_pixels

    @classmethod
    def read(cls, path: str | Path) -> EndpointConfig:
        """The configuration in a YAML file.

        Raises `InputError` that names the field, and for an unknown one the nearest known.
        """
        data = read_yaml(path)
        if not isinstance(data, dict):
            raise InputError(
                f"{str(path)!r}: expected fields such as url, model and family; see docs/guide/engines.md"
            )
        for name in data:
            if name not in cls.model_fields:
                nearest = nearest_name(str(name), cls.model_fields)
                hint = f", did you mean {nearest!r}?" if nearest else ""
                raise InputError(
                    f"{str(path)!r}: unknown field {str(name)!r}{hint}; known: {', '.join(cls.model_fields)}"
                )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            fault = first_error(error).removeprefix(": Value error, ")
            raise InputError(f"{str(path)!r}: {fault}; see docs/guide/engines.md") from error

    def key(self) -> str:
        """The key, from the environment; empty when none is named.

        Raises `SetupError`, which does not show it, where the variable is empty or holds no key.
        """
        if self.key_variable is None:
            return ""
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise SetupError(
                f"the environment variable {self.key_variable!r} is empty; put the key of {self.url} into it"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise SetupError(
                f"the environment variable {self.key_variable!r} holds no key: "
                "blanks or letters that no header may have"
            )
        return key


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
