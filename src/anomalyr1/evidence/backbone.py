"""Backbones by name: pretrained networks, a picture -> features of its patches.

The default comes with its package, so that a bank never needs a network. Models of the hub and folders go
through the same door as policies (`policy.safety`); a dotted path is code, and runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import cast

from anomalyr1.evidence.dinov2 import Dinov2
from anomalyr1.evidence.efficientnet import EfficientNetLite0
from anomalyr1.evidence.features import Backbone as Backbone
from anomalyr1.evidence.features import Features as Features
from anomalyr1.types import InputError

DEFAULT = "efficientnet-lite0"
BACKBONES: dict[str, Callable[[], Backbone]] = {
    DEFAULT: EfficientNetLite0,
    "dinov2-small": lambda: Dinov2.load("facebook/dinov2-small", "dinov2-small"),
}
"""What a file may name; anything else a person has to."""


def load_backbone(name: str = DEFAULT) -> Backbone:
    """The backbone of a name in `BACKBONES`, of a folder or hub name of a DINOv2, or "package.module:name".

    A dotted path is imported, which runs it: a `Backbone`, or a class of which one is made. Raises
    `InputError` for a name that is none and for a folder that is refused, `SetupError` where the weights
    cannot be had.
    """
    return _load(name)


@cache
def _load(name: str) -> Backbone:
    if name in BACKBONES:
        return BACKBONES[name]()
    if ":" in name and "/" not in name and "\\" not in name:
        return _import_backbone(name)
    if "/" not in name and not name.startswith((".", "~")):
        raise InputError(
            f"unknown backbone {name!r}; choose {' or '.join(BACKBONES)}, the folder of a DINOv2 "
            f"(./{name}), or your own as package.module:name"
        )
    return Dinov2.load(name, name)


def _import_backbone(path: str) -> Backbone:
    module_name, _, attribute = path.partition(":")
    try:
        thing = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, ValueError, SyntaxError, AttributeError) as error:
        raise InputError(
            f"backbone {path!r} cannot be imported ({error}); install it or correct the path"
        ) from error
    backbone = thing() if isinstance(thing, type) else thing
    lacking = [label for label in ("name", "digest", "factor", "features") if not hasattr(backbone, label)]
    if lacking:
        raise InputError(
            f"backbone {path!r} has no {', '.join(lacking)}; see anomalyr1.evidence.features.Backbone"
        )
    return cast(Backbone, backbone)
