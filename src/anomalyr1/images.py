"""The one door for images, and the one place that knows the size the model saw.

`open_image` turns a file into 8-bit RGB or refuses it with an `ImageError`, always in this order:

1. limits, from the file's length and header, before a pixel is decoded: bytes, pixels, aspect ratio, exactly
   one frame (of a phone's JPEG with further pictures behind the first, format MPO, the first is taken, as
   every viewer does);
2. one full decode (a header that opens says nothing about the pixels behind it);
3. to 8-bit RGB. Grey of more than 8 bits is mapped linearly, the image's own smallest value to 0 and its
   largest to 255, so nothing is clipped and faint images stay visible; the price is that one hot pixel
   compresses the rest, and that two images of one camera may get different windows. Colour of 16 bits keeps
   its upper 8 bits; when its brightest value leaves the upper two bits empty (a 12-bit camera in a 16-bit
   file), it is refused instead. Transparency is composited on white. No ICC profile is applied;
4. EXIF orientation applied, all metadata dropped.

Not covered: damage that a decoder cannot notice (zeroed blocks inside JPEG data are grey), and decoding time
of a progressive JPEG with very many scans. Memory peaks at about 16 bytes a pixel, 1 GB at the default limit.

`fit`, `resize` and `Frame` hold the way between original pixels and what the model reads and writes.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from pydantic import Field

from anomalyr1.types import InputError, Record, SetupError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What may be opened, by content and not by extension; PPM stands for the binary PBM, PGM, PPM and PFM."""

Units = Literal["pixels", "thousandths"]

_ORIENTATION_TAG, _BITS_TAG, _PHOTOMETRIC_TAG, _PLANAR_TAG, _SAMPLE_FORMAT_TAG = 0x0112, 258, 262, 284, 339
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright (EXIF 2.32, tag 0x0112)."""

_COPY = "copy it again from its source, or save it again as 8-bit PNG or JPEG"
_LOGIN = "the download failed or needs a login; fetch the image itself"
_DAMAGED = "an image whose header is damaged, cut off or unsupported"
_CONTENTS = (
    (rb"PK\x03\x04", "a ZIP archive", "unpack it and give the image inside"),
    (rb"\x1f\x8b", "a gzip archive", "unpack it and give the image inside"),
    (rb"%PDF", "a PDF document", "export the page as PNG"),
    (rb"\x00\x00\x00\x0cjP", "a JPEG 2000 image", "convert it to PNG"),
    (rb"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` to get the image itself"),
    (rb"(?s)....ftyp", "a HEIC, AVIF or video file", "convert it to JPEG"),
    (rb"(?i)[\xef\xbb\xbf \t\r\n]*<(!doctype|html|head|\?xml|svg)", "a web page or other markup", _LOGIN),
    (rb"\xff\xd8|\x89PNG|RIFF|BM|II\*|MM\0\*|GIF8|P[1-6]", _DAMAGED, _COPY),
    (rb"", "something else", "convert it to PNG or JPEG"),
)
"""How a file begins that no allowed decoder takes, what it then is, and what to do; the topmost that fits."""


class ImageError(InputError):
    """An image that cannot be used; the message says which, what was expected, what came and what to do."""


class Limits(Record):
    """What an image may cost, checked before it is decoded."""

    max_pixels: int = Field(default=64_000_000, gt=0, le=178_956_970)
    """The most pixels, width times height; the upper bound is where Pillow's own bomb check ends."""
    max_bytes: int = Field(default=32 * 2**20, gt=0)
    """The greatest length of the file."""
    max_aspect: float = Field(default=200, ge=1)
    """The greatest ratio of the longer to the shorter side; 200 is what the models' own resizing takes."""


DEFAULT_LIMITS = Limits()
THREADS = 4
"""How many images are decoded or resized at a time."""


@dataclass(frozen=True)
class LoadedImage:
    """An image ready for use, and what was done to it on the way in."""

    path: Path
    rgb: Image.Image
    """The picture in mode RGB: upright, without metadata."""
    format: str
    """Pillow's name of the file format, from the content."""
    mode: str
    """Pillow's name of the pixel format as stored."""
    orientation: int
    """The EXIF orientation, 1..8, already applied."""
    window: tuple[float, float] | None
    """The stored values that became 0 and 255 (reversed where 0 is white); None where 8 bits were stored."""
    sha256: str = ""
    """The SHA-256 of the file; empty where the image came from no file."""

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the upright image in pixels."""
        return self.rgb.size


class _Stored(NamedTuple):
    """What the header says and decoding forgets."""

    orientation: int  # EXIF, 1..8; 1 where only the decoded image can tell
    raw_mode: str  # Pillow's word for how samples lie in the file; "" when unknown
    white_is_zero: bool
    unsigned_32: bool


def open_image(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> LoadedImage:
    """Open the image in a local file as upright 8-bit RGB.

    Raises `ImageError` for anything that is not one whole, sane image (see the module's text), and
    `SetupError` when some other library switched on Pillow's LOAD_TRUNCATED_IMAGES, which fills missing
    pixels with grey.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise SetupError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, so damaged images would pass as good ones; "
            "set it back to False"
        )
    path = Path(path)
    data = _read(path, limits)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(path, image, limits)
            return replace(_decode(path, image), sha256=hashlib.sha256(data).hexdigest())
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        _, content, remedy = next(row for row in _CONTENTS if re.match(row[0], data[:512]))
        raise _refusal(path, f"an image ({', '.join(FORMATS)})", content, remedy) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        expected = f"at most {limits.max_pixels:,} pixels"
        raise _refusal(path, expected, f"more ({error})", "scale it down") from error
    except Exception as error:  # a decoder raises anything on damaged data, and warnings under -W error
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise _refusal(path, "a whole image", f"one that cannot be decoded ({reason})", _COPY) from error


def _refusal(path: Path, expected: str, actual: str, remedy: str) -> ImageError:
    """The error to raise; the name is escaped, since whoever made the file chose it."""
    return ImageError(f"{str(path)!r}: expected {expected}, got {actual}; {remedy}")


def _read(path: Path, limits: Limits) -> bytes:
    """The bytes of a regular file within the limit."""
    try:
        info = path.stat()
        data = b""
        if stat.S_ISREG(info.st_mode):
            with path.open("rb") as file:
                # Memory for what is there, not for the limit; a file may grow while it is read.
                data = file.read(min(info.st_size, limits.max_bytes) + 1)
                data += file.read(limits.max_bytes + 1 - len(data)) if len(data) > info.st_size else b""
    except (OSError, ValueError) as error:
        why = repr(str(getattr(error, "strerror", None) or error))
        raise _refusal(path, "a readable local file", why, "check the path and its permissions") from error
    if not stat.S_ISREG(info.st_mode):
        kind = "a folder" if stat.S_ISDIR(info.st_mode) else "a device or pipe"
        raise _refusal(path, "an image file", kind, "name a regular file")
    if not data:
        raise _refusal(path, "an image", "an empty file", "copy it again from its source")
    if len(data) > limits.max_bytes:
        expected, actual = f"at most {limits.max_bytes:,} bytes", f"{max(info.st_size, len(data)):,}"
        remedy = "save it smaller (crop, scale down, compress) or raise the limit max_bytes"
        raise _refusal(path, expected, actual, remedy)
    return data


def _check_header(path: Path, image: Image.Image, limits: Limits) -> None:
    """Refuse by what the header says, before decoding."""
    w, h = image.size
    if min(w, h) < 1:
        expected, actual, remedy = "at least 1 x 1 pixels", "none", _COPY
    elif w * h > limits.max_pixels:
        expected, actual = f"at most {limits.max_pixels:,} pixels", f"{w * h:,}"
        remedy = "crop it, scale it down or raise the limit max_pixels"
    elif max(w, h) > limits.max_aspect * min(w, h):
        expected, actual = f"an aspect ratio of at most {limits.max_aspect:g}", f"{max(w, h) / min(w, h):.4g}"
        remedy = "cut it into shorter pieces"
    elif getattr(image, "is_animated", False) and image.format != "MPO":
        expected = "exactly one frame"
        actual = f"an animation, or several pages or pictures in one {image.format} file"
        remedy = "save the frame you mean as a file of its own"
    else:
        return
    raise _refusal(path, expected, f"{actual} ({w} x {h})", remedy)


def _decode(path: Path, image: ImageFile.ImageFile) -> LoadedImage:
    """Decode fully and convert; `open_image` makes an `ImageError` of whatever this raises."""
    stored = _header_facts(image)
    mode = image.mode
    image.load()
    rgb, window = _to_rgb(image, stored)
    # Pillow turns TIFF upright while decoding and PNG may state its orientation behind the pixels: what
    # remains to be done shows only now.
    remaining = _orientation(image)
    if remaining in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[remaining])
    rgb.info = {}
    orientation = remaining if remaining != 1 else stored.orientation
    return LoadedImage(path, rgb, str(image.format), mode, orientation, window)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 when absent or none of the eight defined values (cameras write 0 for "unknown")."""
    value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) and value in _TRANSPOSE else 1


def _header_facts(image: ImageFile.ImageFile) -> _Stored:
    """What to keep before decoding. Raises `ValueError` for layouts that Pillow decodes wrongly or slowly."""
    args: Any = image.tile[0].args if image.tile else ()
    args = args if isinstance(args, tuple) else (args,)
    raw_mode = next((argument for argument in args if isinstance(argument, str)), "")
    if image.format == "PPM" and image.tile[0].codec_name != "raw":
        raise ValueError(
            "text samples, or a largest value that is not 255 (65535 for grey), "
            "which take seconds a megapixel"
        )
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(_PLANAR_TAG) == 2 and max(tags.get(_BITS_TAG, (1,))) > 8:
        raise ValueError("16-bit colour in separate planes, which would be read as noise")
    return _Stored(
        # PNG reads its pixels to look for EXIF, and needs it only afterwards.
        1 if image.format == "PNG" else _orientation(image),
        raw_mode,
        white_is_zero=tags.get(_PHOTOMETRIC_TAG) == 0,
        unsigned_32=tags.get(_BITS_TAG) == (32,) and tags.get(_SAMPLE_FORMAT_TAG, (1,)) == (1,),
    )


def _to_rgb(image: Image.Image, stored: _Stored) -> tuple[Image.Image, tuple[float, float] | None]:
    """8-bit RGB, and the window where more bits were stored; raises `ValueError` for what is unclear."""
    deep_colour = ";16" in stored.raw_mode and image.mode in {"RGB", "RGBA", "CMYK"}
    deep_grey = image.mode in {"I", "F"} or image.mode.startswith("I;16")
    if "transparency" in image.info and (deep_colour or deep_grey or stored.raw_mode in {"L;2", "L;4"}):
        raise ValueError("one value declared transparent in samples of 2, 4 or 16 bits")
    if deep_grey:
        return _deep_grey(image, stored)
    if deep_colour and (brightest := int(np.asarray(image.convert("RGB")).max())) < 64:
        limit = (brightest + 1) * 256
        raise ValueError(f"16-bit colour that stays below {limit} of 65536; stretch it to the full range")
    window = (0.0, 65535.0) if deep_colour else None
    if not image.has_transparency_data:
        return image.convert("RGB"), window
    # LA, La and PA convert to RGB by dropping alpha, so all take the way through RGBA.
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    if rgba.getchannel("A").getbbox() is None:
        raise ValueError("every pixel is transparent")
    rgb = Image.new("RGB", rgba.size, "white")
    rgb.paste(rgba, mask=rgba)
    return rgb, window


def _deep_grey(image: Image.Image, stored: _Stored) -> tuple[Image.Image, tuple[float, float]]:
    """Grey of 16 or 32 bits, integer or float, mapped from its smallest to its largest value; and these."""
    values: NDArray[Any] = np.asarray(image)  # (H, W)
    if image.mode == "I" and stored.unsigned_32:
        values = values.view(np.uint32)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("pixel values that are NaN or infinite")
    if low == high:
        low, high = min(low, 0.0), max(high, 65535.0)
    black, white = (high, low) if stored.white_is_zero else (low, high)
    grey = np.empty(values.shape, dtype=np.uint8)
    for top in range(0, len(values), 256):  # in strips, because the arithmetic takes 8 bytes a pixel
        strip = values[top : top + 256].astype(np.float64)
        grey[top : top + 256] = np.rint((strip - black) * (255 / (white - black)))
    return Image.fromarray(grey).convert("RGB"), (black, white)


@dataclass(frozen=True)
class Family:
    """What a family of models does with sizes and coordinates."""

    name: str
    """The model type in Hugging Face configurations."""
    factor: int
    """Both sides of a resized image are multiples of it; `factor ** 2` pixels become one token."""
    units: Units
    """What the model writes for a coordinate: pixels of the resized image, or thousandths of its side."""
    min_pixels: int
    """Images of fewer pixels are enlarged to it."""

    @property
    def max_pixels(self) -> int:
        """The default pixel cap, of 1,280 tokens."""
        return 1280 * self.factor**2


FAMILIES = {
    "qwen2_5_vl": Family("qwen2_5_vl", factor=28, units="pixels", min_pixels=56 * 56),
    "qwen3_vl": Family("qwen3_vl", factor=32, units="thousandths", min_pixels=256 * 256),
}
"""The families by model type; `min_pixels` as in the published preprocessor_config.json of
Qwen2.5-VL-3B-Instruct and Qwen3-VL-4B-Instruct."""

_MAX_QWEN_ASPECT, _MAX_STEPS, _HUGE = 200, 32, sys.float_info.max


def fit(size_wh: tuple[int, int], family: Family, max_pixels: int | None = None) -> tuple[int, int]:
    """Width and height in pixels at which the model sees an image of `size_wh`.

    That is the fixed point of the processor's own resizing rule, of which one step is not always enough for
    a narrow image. Without `max_pixels` the family's default holds. Raises `ImageError` for an aspect ratio
    above 200 (also after rounding to the grid), and when no size lies between `family.min_pixels` and
    `max_pixels`.
    """
    cap = family.max_pixels if max_pixels is None else max_pixels
    size = size_wh
    for _ in range(_MAX_STEPS):
        if min(size) < 1 or max(size) > _MAX_QWEN_ASPECT * min(size):
            raise ImageError(
                f"expected sides with a ratio of at most {_MAX_QWEN_ASPECT}, got {size_wh[0]} x "
                f"{size_wh[1]}, for the model {size[0]} x {size[1]}; cut the image into shorter pieces"
            )
        if (step := _resize_step(size, family.factor, family.min_pixels, cap)) == size:
            return size
        size = step
    raise ImageError(
        f"expected a size for {size_wh[0]} x {size_wh[1]} in tiles of {family.factor} pixels between "
        f"{family.min_pixels:,} and {cap:,} pixels, got none; "
        f"raise max_pixels to at least {4 * family.min_pixels:,}"
    )


def largest_cap_that_fits(
    sizes_wh: Sequence[tuple[int, int]], family: Family, room_tokens: int, max_pixels: int
) -> int | None:
    """The largest pixel cap at which images of these sizes take at most `room_tokens` tokens together.

    It is a multiple of a token's pixels and at most `max_pixels`; None = there is none. Every such cap is
    tried, since under some of them a narrow image has no size.
    """
    pixels_a_token = family.factor**2
    for cap in range(max_pixels // pixels_a_token * pixels_a_token, family.min_pixels - 1, -pixels_a_token):
        try:
            fitted_wh = [fit(size_wh, family, cap) for size_wh in sizes_wh]
        except ImageError:  # no size of this aspect ratio lies under this cap
            continue
        if sum(w * h for w, h in fitted_wh) <= room_tokens * pixels_a_token:
            return cap
    return None


def _resize_step(size_wh: tuple[int, int], factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """One step of Qwen-VL's smart-resize: sides to multiples of `factor`, area into bounds, aspect kept."""
    w, h = size_wh
    grid_w, grid_h = (round(side / factor) * factor for side in size_wh)
    if grid_w * grid_h > max_pixels:
        shrink = math.sqrt(w * h / max_pixels)
        grid_w, grid_h = (max(factor, math.floor(side / shrink / factor) * factor) for side in size_wh)
    elif grid_w * grid_h < min_pixels:
        grow = math.sqrt(min_pixels / (w * h))
        grid_w, grid_h = (math.ceil(side * grow / factor) * factor for side in size_wh)
    return grid_w, grid_h


@dataclass(frozen=True)
class Frame:
    """The way between original pixels and what a model writes; both xyxy, half-open, from the top left."""

    original_wh: tuple[int, int]
    """Width and height of the original image in pixels."""
    model_wh: tuple[int, int]
    """Width and height in pixels at which the model saw the image."""
    units: Units

    @classmethod
    def of(cls, size_wh: tuple[int, int], family: Family, max_pixels: int | None = None) -> Frame:
        """The frame of an image of this size that is resized by us; raises `ImageError` as `fit` does."""
        return cls(size_wh, fit(size_wh, family, max_pixels), family.units)

    @property
    def extent_wh(self) -> tuple[int, int]:
        """The right and the bottom edge of the image in the model's units."""
        return self.model_wh if self.units == "pixels" else (1000, 1000)

    def to_model(self, xyxy: Sequence[float]) -> tuple[int, ...]:
        """The four integers that a model should write for a box in original pixels: x1 < x2 and y1 < y2.

        A side of at least one unit is rounded, so each coordinate is at most half a unit off. A thinner side
        may round to nothing, which is no box; it then becomes one unit wide, by the edge that has less far to
        go, which is off by at most one unit minus half the side's width. Nothing is clipped. Raises
        `InputError` unless the box is finite and in order.
        """
        x1, y1, x2, y2 = (float(value) for value in xyxy)
        if not (-math.inf < x1 < x2 < math.inf and -math.inf < y1 < y2 < math.inf):
            raise InputError(
                f"expected a finite box with x1 < x2 and y1 < y2, got {tuple(xyxy)}; correct the annotation"
            )
        (w, h), (extent_w, extent_h) = self.original_wh, self.extent_wh
        left, right = _round_side(x1 * extent_w / w, x2 * extent_w / w)
        top, bottom = _round_side(y1 * extent_h / h, y2 * extent_h / h)
        return left, top, right, bottom

    def to_original(self, xyxy: Sequence[float]) -> tuple[float, ...]:
        """Four finite numbers in the model's units as original pixels: finite, not ordered, not clipped."""
        w, h = self.original_wh
        extent_w, extent_h = self.extent_wh
        scales = (w / extent_w, h / extent_h) * 2
        return tuple(
            min(max(float(value) * scale, -_HUGE), _HUGE) for value, scale in zip(xyxy, scales, strict=True)
        )


def _round_side(low: float, high: float) -> tuple[int, int]:
    """Both ends of a side to integers that are at least one apart."""
    # Halves go up: round() sends 0.5 and 2.5 to even numbers and would make sides of one unit vanish.
    start, end = math.floor(low + 0.5), math.floor(high + 0.5)
    if start < end:
        return start, end
    # The nearer edge moves; for a side inside the image that is never across the image's edge.
    return (end - 1, end) if low - (end - 1) < (end + 1) - high else (end, end + 1)


def resize(image: Image.Image, family: Family, max_pixels: int | None = None) -> tuple[Image.Image, Frame]:
    """The image at the size of `fit`, by the processor's own filter, and its frame; raises as `fit` does."""
    import torch

    frame = Frame.of(image.size, family, max_pixels)
    pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, -1)  # (H, W, C)
    resized = torch.nn.functional.interpolate(
        pixels.permute(2, 0, 1)[None], frame.model_wh[::-1], mode="bicubic", antialias=True
    )  # (1, C, h, w)
    picture = resized[0].permute(1, 2, 0).squeeze(-1).contiguous()  # (h, w, C), or (h, w) of one channel
    return Image.fromarray(picture.numpy()), frame
