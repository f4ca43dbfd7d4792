"""The one door for images, and the one place that knows the size the model saw.

`open_image` turns a file into 8-bit RGB or refuses it with an `ImageError`. What it does, always in this
order:

1. limits, from the file's length and header, before a pixel is decoded: bytes, pixels, aspect ratio, exactly one frame (of a phone's JPEG
   with further pictures behind the first, format MPO, the first is taken, as every viewer does);
2. one full decode (a header that opens says nothing about the pixels behind it);
3. to 8-bit RGB. Grey of more than 8 bits is mapped linearly, the image's own smallest value to 0 and its largest to 255, so nothing
   is clipped and faint images stay visible; the price is that one hot pixel compresses the rest, and that two images of one camera
   may get different windows (`LoadedImage.window` says which). Colour of 16 bits keeps its upper 8 bits; when its brightest value
   leaves the upper two bits empty (a 12-bit camera in a 16-bit file), it is refused instead. Transparency is composited on white.
   CMYK is converted without its ICC profile, as are all other profiles;
4. EXIF orientation applied, all metadata dropped.

Not covered: damage that a decoder cannot notice (zeroed blocks inside JPEG data are grey), and decoding time
of a progressive JPEG with very many scans. Memory peaks at about 16 bytes a pixel, 1 GB at the default limit.

`fit`, `resize` and `Frame` hold the way between original pixels and what the model reads and writes.
"""

from __future__ import annotations

import hashlib
import io
import math
import stat
import struct
import sys
import zlib
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

_PILLOW_FAILS_WITH = (
    *(
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        ArithmeticError,
        EOFError,
        AssertionError,
        RuntimeError,
    ),
    *(ImportError, MemoryError, BufferError, struct.error, zlib.error, Image.DecompressionBombError, Warning),
)
"""Everything a decoder was seen or is known to raise on damaged data; `Warning` for when Python runs with -W
error."""

_ORIENTATION_TAG, _BITS_TAG, _PHOTOMETRIC_TAG, _PLANAR_TAG, _SAMPLE_FORMAT_TAG = 0x0112, 258, 262, 284, 339
_T = Image.Transpose
_TRANSPOSE = dict(
    enumerate(
        (
            _T.FLIP_LEFT_RIGHT,
            _T.ROTATE_180,
            _T.FLIP_TOP_BOTTOM,
            _T.TRANSPOSE,
            _T.ROTATE_270,
            _T.TRANSVERSE,
            _T.ROTATE_90,
        ),
        start=2,
    )
)
"""EXIF orientation -> what makes the picture upright (EXIF 2.32, tag 0x0112)."""

_COPY = "copy it again from its source, or save it again as 8-bit PNG or JPEG"
_SIGNATURES = (
    (b"PK\x03\x04", "a ZIP archive", "unpack it and give the image inside"),
    (b"\x1f\x8b", "a gzip archive", "unpack it and give the image inside"),
    (b"%PDF", "a PDF document", "export the page as PNG"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000 image", "convert it to PNG"),
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` to get the image itself"),
)
_IMAGE_SIGNATURES = (
    b"\xff\xd8",
    b"\x89PNG",
    b"RIFF",
    b"BM",
    b"II*",
    b"MM\0*",
    b"GIF8",
    *(b"P%d" % n for n in range(1, 7)),
)
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<svg")


class ImageError(InputError):
    """An image that cannot be used; the message names the file (where there is one), what was expected, what came and what to do."""


class Limits(Record):
    """What an image may cost, checked before it is decoded."""

    max_pixels: int = Field(default=64_000_000, gt=0, le=178_956_970)
    """Width times height; the upper bound is where Pillow's own bomb check ends."""
    max_bytes: int = Field(default=32 * 2**20, gt=0)
    """Length of the file."""
    max_aspect: float = Field(default=200, ge=1)
    """Longer side over shorter side; 200 is what the models' own resizing takes."""


DEFAULT_LIMITS = Limits()
THREADS = 4  # images decoded or resized at a time


@dataclass(frozen=True)
class LoadedImage:
    """An image ready for use, and what was done to it on the way in."""

    path: Path
    rgb: Image.Image  # mode RGB, upright, without metadata
    format: str  # Pillow's name of the file format, from the content
    mode: str  # Pillow's name of the pixel format as stored
    orientation: int  # EXIF orientation 1..8, already applied
    window: tuple[float, float] | None
    """The stored values mapped to 0 and 255 (reversed where 0 is white), where more than 8 bits were
    stored."""
    sha256: str = ""  # of the file; empty where the image came from no file

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the upright image in pixels."""
        return self.rgb.size


class _Stored(NamedTuple):
    """What the header says and decoding forgets."""

    orientation: int
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
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, so damaged images would pass as good ones; set it back to False"
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
        raise ImageError(_not_an_image(path, data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{str(path)!r}: expected at most {limits.max_pixels:,} pixels, got more ({error}); scale it down"
        ) from error
    except _PILLOW_FAILS_WITH as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise ImageError(
            f"{str(path)!r}: expected a whole image, got one that cannot be decoded ({reason}); {_COPY}"
        ) from error


def _read(path: Path, limits: Limits) -> bytes:
    """Read the bytes of a regular file within the limit."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            kind = "a folder" if stat.S_ISDIR(info.st_mode) else "a device or pipe"
            raise ImageError(f"{str(path)!r}: expected an image file, got {kind}; name a regular file")
        with path.open("rb") as file:
            data = file.read(
                min(info.st_size, limits.max_bytes) + 1
            )  # memory for what is there, not for the limit
            data += file.read(limits.max_bytes + 1 - len(data)) if len(data) > info.st_size else b""
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ImageError(
            f"{str(path)!r}: expected a readable local file, got {str(why)!r}; check the path and its permissions"
        ) from error
    if not data:
        raise ImageError(
            f"{str(path)!r}: expected an image, got an empty file; copy it again from its source"
        )
    if len(data) > limits.max_bytes:
        raise ImageError(
            f"{str(path)!r}: expected at most {limits.max_bytes:,} bytes, got {max(info.st_size, len(data)):,}; "
            "save it smaller (crop, scale down, compress) or raise the limit max_bytes"
        )
    return data


def _not_an_image(path: Path, data: bytes) -> str:
    """Say what the content is that none of the allowed decoders takes."""
    what, fix = "something else", "convert it to PNG or JPEG"
    if data[4:8] == b"ftyp":
        what, fix = "a HEIC, AVIF or video file", "convert it to JPEG"
    elif data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_MARKUP):
        what, fix = (
            "a web page or other markup",
            "the download failed or needs a login; fetch the image itself",
        )
    elif data.startswith(_IMAGE_SIGNATURES):
        what, fix = "an image whose header is damaged, cut off or unsupported", _COPY
    for signature, name, advice in _SIGNATURES:
        if data.startswith(signature):
            what, fix = name, advice
    return f"{str(path)!r}: expected an image ({', '.join(FORMATS)}), got {what}; {fix}"


def _check_header(path: Path, image: Image.Image, limits: Limits) -> None:
    """Refuse by what the header says, before decoding."""
    w, h = image.size
    if min(w, h) < 1:
        expected, got, fix = "at least 1 x 1 pixels", "none", _COPY
    elif w * h > limits.max_pixels:
        expected, got = f"at most {limits.max_pixels:,} pixels", f"{w * h:,}"
        fix = "crop it, scale it down or raise the limit max_pixels"
    elif max(w, h) > limits.max_aspect * min(w, h):
        expected, got = f"an aspect ratio of at most {limits.max_aspect:g}", f"{max(w, h) / min(w, h):.4g}"
        fix = "cut it into shorter pieces"
    elif getattr(image, "is_animated", False) and image.format != "MPO":
        expected, got = (
            "exactly one frame",
            f"an animation, or several pages or pictures in one {image.format} file",
        )
        fix = "save the frame you mean as a file of its own"
    else:
        return
    raise ImageError(f"{str(path)!r}: expected {expected}, got {got} ({w} x {h}); {fix}")


def _decode(path: Path, image: ImageFile.ImageFile) -> LoadedImage:
    """Decode fully and convert. Whatever this raises, `open_image` makes typed."""
    stored = _header_facts(image)
    mode = image.mode
    image.load()
    rgb, window = _to_rgb(image, stored)
    # Pillow turns TIFF upright while decoding and PNG may state its orientation behind the pixels: what is
    # left to do shows only now.
    left = _orientation(image)
    if left in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[left])
    rgb.info = {}
    orientation = left if left != 1 else stored.orientation
    return LoadedImage(path, rgb, str(image.format), mode, orientation, window)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 when absent or not one of the eight defined values (cameras write 0 for "unknown")."""
    value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) and value in _TRANSPOSE else 1


def _header_facts(image: ImageFile.ImageFile) -> _Stored:
    """What to keep before decoding. Raises `ValueError` for layouts that Pillow decodes wrongly or slowly."""
    args: Any = image.tile[0].args if image.tile else ""
    raw_mode = next(
        (part for part in (args if isinstance(args, tuple) else (args,)) if isinstance(part, str)), ""
    )
    if image.format == "PPM" and image.tile[0].codec_name != "raw":
        raise ValueError(
            "text samples, or a largest value that is not 255 (65535 for grey), which take seconds a megapixel"
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
    """Convert a decoded image to 8-bit RGB, with the window where more bits were stored. Raises `ValueError` for what is unclear."""
    deep_colour = ";16" in stored.raw_mode and image.mode in {"RGB", "RGBA", "CMYK"}
    deep_grey = image.mode in {"I", "F"} or image.mode.startswith("I;16")
    if "transparency" in image.info and (deep_colour or deep_grey or stored.raw_mode in {"L;2", "L;4"}):
        raise ValueError("one value declared transparent in samples of 2, 4 or 16 bits")
    if deep_grey:
        return _deep_grey(image, stored)
    if deep_colour and (brightest := int(np.asarray(image.convert("RGB")).max())) < 64:
        raise ValueError(
            f"16-bit colour that stays below {(brightest + 1) * 256} of 65536; stretch it to the full range"
        )
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
    """Grey of 16 or 32 bits, integer or float, mapped by the window from its smallest to its largest value."""
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

    name: str  # the model type in Hugging Face configurations
    factor: int  # both sides of a resized image are multiples of it; factor**2 pixels become one token
    units: Units  # what the model writes for a coordinate: pixels of the resized image, or thousandths of its side
    min_pixels: int  # smaller images are enlarged to it

    @property
    def max_pixels(self) -> int:
        """The default cap: 1,280 tokens."""
        return 1280 * self.factor**2


FAMILIES = {
    "qwen2_5_vl": Family("qwen2_5_vl", factor=28, units="pixels", min_pixels=56 * 56),
    "qwen3_vl": Family("qwen3_vl", factor=32, units="thousandths", min_pixels=256 * 256),
}
"""By model type; `min_pixels` as in the published preprocessor_config.json of Qwen2.5-VL-3B-Instruct and
Qwen3-VL-4B-Instruct."""

_MAX_QWEN_ASPECT, _MAX_STEPS, _HUGE = 200, 32, sys.float_info.max


def fit(size_wh: tuple[int, int], family: Family, max_pixels: int | None = None) -> tuple[int, int]:
    """Width and height at which the model sees an image of `size_wh`: the fixed point of the processor's own resizing rule.

    One step of that rule is not always enough for a narrow image. Without `max_pixels` the family's default
    holds. Raises `ImageError` for an aspect ratio above 200 (also after rounding to the grid), and when no
    size lies between `family.min_pixels` and `max_pixels`.
    """
    cap = family.max_pixels if max_pixels is None else max_pixels
    size = size_wh
    for _ in range(_MAX_STEPS):
        if min(size) < 1 or max(size) > _MAX_QWEN_ASPECT * min(size):
            raise ImageError(
                f"expected sides with a ratio of at most {_MAX_QWEN_ASPECT}, got {size_wh[0]} x {size_wh[1]}, "
                f"for the model {size[0]} x {size[1]}; cut the image into shorter pieces"
            )
        if (step := _resize_step(size, family.factor, family.min_pixels, cap)) == size:
            return size
        size = step
    raise ImageError(
        f"expected a size for {size_wh[0]} x {size_wh[1]} in tiles of {family.factor} pixels between {family.min_pixels:,} and {cap:,} "
        f"pixels, got none; raise max_pixels to at least {4 * family.min_pixels:,}"
    )


def _resize_step(size_wh: tuple[int, int], factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """One application of Qwen-VL's smart-resize: sides to multiples of `factor`, area into bounds, aspect roughly kept."""
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
    """The way between pixels of the original image and the coordinates a model writes; both half-open xyxy, origin at the top left."""

    original_wh: tuple[int, int]
    model_wh: tuple[int, int]  # at which the model saw the image
    units: Units

    @classmethod
    def of(cls, size_wh: tuple[int, int], family: Family, max_pixels: int | None = None) -> Frame:
        """The frame of an image of this size when it is resized by us for a model of the family.

        Raises `ImageError` where `fit` does.
        """
        return cls(size_wh, fit(size_wh, family, max_pixels), family.units)

    @property
    def _extent_wh(self) -> tuple[int, int]:
        """The right and bottom edge of the image in the model's units."""
        return self.model_wh if self.units == "pixels" else (1000, 1000)

    def to_model(self, xyxy: Sequence[float]) -> tuple[int, ...]:
        """Give the integers that a model should write for a box in original pixels; always x1 < x2 and y1 < y2.

        A side of at least one unit is rounded, so each coordinate is at most half a unit off (as
        `to_original` reads it back). A thinner side may round to nothing, which cannot be read back as a box;
        it then becomes one unit wide, by the edge that has less far to go, which is off by at most one unit
        minus half the side's width. Raises `InputError` unless the box is finite and in order. Boxes are not
        clipped.
        """
        x1, y1, x2, y2 = (float(value) for value in xyxy)
        if not (-math.inf < x1 < x2 < math.inf and -math.inf < y1 < y2 < math.inf):
            raise InputError(
                f"expected a finite box with x1 < x2 and y1 < y2, got {tuple(xyxy)}; correct the annotation"
            )
        (w, h), (extent_w, extent_h) = self.original_wh, self._extent_wh
        left, right = _round_side(x1 * extent_w / w, x2 * extent_w / w)
        top, bottom = _round_side(y1 * extent_h / h, y2 * extent_h / h)
        return left, top, right, bottom

    def to_original(self, xyxy: Sequence[float]) -> tuple[float, ...]:
        """Four finite numbers in the model's units as original pixels: not ordered, not clipped to the image, always finite."""
        w, h = self.original_wh
        extent_w, extent_h = self._extent_wh
        scales = (w / extent_w, h / extent_h) * 2
        return tuple(
            min(max(float(value) * scale, -_HUGE), _HUGE) for value, scale in zip(xyxy, scales, strict=True)
        )


def _round_side(low: float, high: float) -> tuple[int, int]:
    """Both ends to integers, halves up: Python's round() sends 0.5 and 2.5 to even numbers and would make sides of one unit vanish."""
    a, b = math.floor(low + 0.5), math.floor(high + 0.5)
    if a < b:
        return a, b
    # The nearer edge moves; for a side inside the image that is never across the image's edge.
    return (a - 1, a) if low - (a - 1) < (a + 1) - high else (a, a + 1)


def resize(image: Image.Image, family: Family, max_pixels: int | None = None) -> tuple[Image.Image, Frame]:
    """The image at the size that `fit` gives, by the processor's own filter, and the frame that maps boxes back; raises as `fit` does."""
    import torch

    w, h = fit(image.size, family, max_pixels)
    pixels = torch.from_numpy(np.array(image)).view(1, image.height, image.width, -1).permute(0, 3, 1, 2)
    small = (
        torch.nn.functional.interpolate(pixels, (h, w), mode="bicubic", antialias=True)[0]
        .permute(1, 2, 0)
        .squeeze(-1)
    )
    return Image.fromarray(small.contiguous().numpy()), Frame(image.size, (w, h), family.units)
