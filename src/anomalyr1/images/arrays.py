"""Pixels in memory, as a camera gives them, as an image of the kind that `images.open_image` opens."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from anomalyr1.images.door import DEFAULT_LIMITS, ImageError, LoadedImage
from anomalyr1.types import InputError

Pixels = NDArray[Any] | Image.Image
"""(H, W) or (H, W, 1) grey of 8 or 16 bits, (H, W, 3) RGB of 8 bits; or such an image of Pillow's."""


def load_pixels(pixels: Pixels) -> LoadedImage:
    """An array or Pillow image as upright 8-bit RGB, under a path "image-DIGEST" at which no file lies.

    Colour is RGB: of a picture that OpenCV opened (BGR) give `array[..., ::-1]`. Grey of 16 bits is mapped as
    in files, its smallest value to 0 and its largest to 255. `sha256` is of type, shape and values. Raises
    `ImageError` for another type or shape, and for what would be refused as a file.
    """
    array = _array_of(pixels) if isinstance(pixels, Image.Image) else np.asarray(pixels)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    is_grey, is_colour = array.ndim == 2, array.ndim == 3 and array.shape[2] == 3
    if not (is_grey and array.dtype in (np.uint8, np.uint16)) and not (is_colour and array.dtype == np.uint8):
        raise ImageError(
            "expected pixels of uint8, grey (H, W) or RGB (H, W, 3), or of uint16, grey (H, W), got "
            f"{array.dtype} of shape {array.shape}; {_remedy(array)}"
        )
    h, w = array.shape[:2]
    limits = DEFAULT_LIMITS
    if min(h, w) < 1 or h * w > limits.max_pixels or max(h, w) > limits.max_aspect * min(h, w):
        raise ImageError(
            f"expected 1 to {limits.max_pixels:,} pixels with sides of a ratio up to {limits.max_aspect:g}, "
            f"got {w} x {h}; crop it or scale it down"
        )
    digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()
    if array.dtype == np.uint16:
        from anomalyr1.images.decoding import stretch_grey  # with all decoders: only where it is needed

        mode, (rgb, window) = "I;16", stretch_grey(array)
    else:
        mode, rgb, window = "RGB" if is_colour else "L", Image.fromarray(array).convert("RGB"), None
    return LoadedImage(Path(f"image-{digest[:12]}"), rgb, "array", mode, 1, window, digest)


def require_pictures(references: object) -> None:
    """Raise `InputError` where a picture stands in place of a list of pictures.

    A path would be taken apart into letters, and an array into its rows, as so many tiny pictures.
    """
    is_array = isinstance(references, np.ndarray) and references.ndim < 4
    if is_array or isinstance(references, str | Path | Image.Image):
        raise InputError(
            f"references is a picture ({type(references).__name__}), expected a list of pictures; write "
            "references=[picture]"
        )


def _remedy(array: NDArray[Any]) -> str:
    """How pixels that are refused become such as are taken."""
    if array.ndim == 3 and array.shape[2] == 4:
        return "drop the fourth channel: pixels[..., :3] of RGBA, pixels[..., 2::-1] of BGRA"
    if array.ndim == 3 and array.shape[0] in (1, 3):
        return "channels stand behind height and width: pixels.transpose(1, 2, 0)"
    if array.ndim not in (2, 3):
        return "give a picture at a time, as its pixels or the path of its file"
    return "convert them, e.g. (255 * pixels).astype('uint8') of floats from 0 to 1"


def _array_of(image: Image.Image) -> NDArray[Any]:
    """The upright pixels of a Pillow image that is grey or RGB. Raises `ImageError` for any other."""
    if image.mode not in ("L", "RGB", "I;16") or getattr(image, "is_animated", False):
        raise ImageError(
            f"expected one image of mode L, I;16 or RGB, got mode {image.mode} and "
            f"{getattr(image, 'n_frames', 1)} frames; convert it, e.g. image.convert('RGB')"
        )
    try:
        return np.asarray(ImageOps.exif_transpose(image))
    except Exception as error:  # a decoder raises anything on damaged data
        raise ImageError(f"the image cannot be decoded ({error}); open its file again") from error
