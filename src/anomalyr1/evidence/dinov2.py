"""DINOv2 (Oquab et al. 2023) through transformers: a checked folder or a hub model, safetensors only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from anomalyr1.evidence.features import Features, input_size
from anomalyr1.policy.folders import digest_of, find_model
from anomalyr1.policy.library import quiet, typed_errors
from anomalyr1.policy.rules import DINOV2
from anomalyr1.types import InputError, SetupError

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import Dinov2Model

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours of ImageNet, as the model was trained."""
LAYERS = (0.55, 0.7)
"""Between which parts of its depth outputs are taken: 7 and 8 of 12 layers, 22 to 28 of 40. The last layers
know what a thing is, those in the middle what it looks like (SubspaceAD takes the same share)."""


class Dinov2:
    """A DINOv2 of any size."""

    def __init__(self, model: Dinov2Model, name: str, digest: str) -> None:
        depth = model.config.num_hidden_layers
        first_layer, last_layer = (max(1, round(share * depth)) for share in LAYERS)
        self.name = name
        self.digest = digest
        self.factor = int(model.config.patch_size)
        self.layers = range(first_layer, last_layer + 1)
        """The layers whose outputs are taken, counted from 1."""
        self._embeddings = model.embeddings.eval()
        self._encoder = model.encoder.layer[:last_layer].eval()  # what comes later is not computed

    @classmethod
    def load(cls, model: str, name: str) -> Dinov2:
        """The model in a folder or of a hub name; `name` is how it is asked for.

        Raises `InputError` for a folder that is refused or no complete DINOv2, `SetupError` when the model
        cannot be had.
        """
        from transformers import Dinov2Model

        try:
            folder, _, _ = find_model(model, None, DINOV2)
        except SetupError as error:
            raise SetupError(f"{error}. Or use the default backbone, which needs no download") from error
        with quiet(), typed_errors(folder):
            loaded, info = Dinov2Model.from_pretrained(
                folder,
                use_safetensors=True,
                output_loading_info=True,
                attn_implementation="sdpa",
                trust_remote_code=False,
                local_files_only=True,
            )
        if info["missing_keys"]:
            missing = ", ".join(sorted(info["missing_keys"])[:5])
            raise InputError(f"{model}: the weights lack {missing}; download the model again")
        return cls(loaded.float().requires_grad_(False), name, digest_of(folder))

    def features(self, rgb: Image.Image, short_side: int) -> Features:
        """The features of a picture (RGB), scaled so that its shorter side has about so many pixels.

        The mean of the layers' outputs, each of length 1.
        """
        import torch
        from torch.nn import functional

        pixels, (width, height) = self.pixels(rgb, short_side)
        with torch.inference_mode():
            outputs = self.outputs(pixels)  # (layers, 1 + h * w, D), the picture as a whole first
            mean = functional.normalize(functional.normalize(outputs, dim=-1).mean(0), dim=-1)
        return Features(mean[1:], (width, height), mean[0])

    def pixels(self, rgb: Image.Image, short_side: int) -> tuple[torch.Tensor, tuple[int, int]]:
        """(1, 3, H, W) what the model is shown of a picture, and width and height in patches."""
        import torch
        from PIL import Image

        width, height = input_size(rgb.size, short_side, self.factor)
        array = np.asarray(rgb.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 255
        normal = (array - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)  # (H, W, 3)
        pixels = torch.from_numpy(normal).permute(2, 0, 1)[None]
        return pixels, (width // self.factor, height // self.factor)

    def outputs(self, pixels: torch.Tensor) -> Any:
        """(layers, 1 + h * w, D) the outputs of `layers` for (1, 3, H, W)."""
        import torch

        hidden = self._embeddings(pixels)
        outputs = []
        for number, layer in enumerate(self._encoder, start=1):
            hidden = layer(hidden)
            if number in self.layers:
                outputs.append(hidden[0])
        return torch.stack(outputs)
