"""From the bytes of an image file to upright 8-bit RGB; runs in the processes that decode.

Always in this order: how the file is built, what its header says, one full decode, conversion, orientation.
Only Pillow is imported (numpy where samples have more than 8 bits), so that a process starts quickly.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import (  # the decoders of `FORMATS`, instead of all that Pillow has
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from anomalyr1.images.file_structure import REMEDY, Refusal, refuse_costly, webp_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLUGINS = (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What may be opened, by content and not by extension; PPM stands for the binary PBM, PGM, PPM and PFM."""

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


class Decoded(NamedTuple):
    """A decoded image, and what the file said about it; the fields are those of `door.LoadedImage`."""

    rgb: Image.Image
    format: str
    mode: str
    orientation: int
    window: tuple[float, float] | None


class _Stored(NamedTuple):
    """What the header says and decoding forgets."""

    orientation: int  # EXIF, 1..8; 1 where only the decoded image can tell
    raw_mode: str  # Pillow's word for how samples lie in the file; "" when unknown
    white_is_zero: bool
    unsigned_32: bool


@contextlib.contextmanager
def opened(data: bytes, max_pixels: int, max_aspect: float) -> Iterator[ImageFile.ImageFile]:
    """An image whose header is within the limits, not yet decoded.

    Whatever goes wrong inside becomes a `Refusal`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header that Pillow finds odd; what it makes of it counts
            refuse_costly(data)
            if any(size_wh := webp_size(data)):
                _check_size(size_wh, max_pixels, max_aspect)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_header(image, max_pixels, max_aspect)
                yield image
    except Refusal:
        raise
    except UnidentifiedImageError as error:
        _, content, remedy = next(row for row in _CONTENTS if re.match(row[0], data[:512]))
        raise Refusal(f"an image ({', '.join(FORMATS)})", content, remedy) from error
    except Image.DecompressionBombError as error:
        raise Refusal(f"at most {max_pixels:,} pixels", f"more ({error})", "scale it down") from error
    except MemoryError as error:
        raise Refusal("a file that decodes in the memory of its pixels", "more", REMEDY) from error
    except Exception as error:  # a decoder raises anything on damaged data
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise Refusal("a whole image", f"one that cannot be decoded ({reason})", _COPY) from error


def _check_header(image: Image.Image, max_pixels: int, max_aspect: float) -> None:
    """Refuse by what the header says, before decoding."""
    _check_size(image.size, max_pixels, max_aspect)
    if getattr(image, "is_animated", False) and image.format != "MPO":
        actual = f"an animation, or several pages or pictures in one {image.format} file"
        raise Refusal("exactly one frame", actual, "save the frame you mean as a file of its own")


def _check_size(size_wh: tuple[int, int], max_pixels: int, max_aspect: float) -> None:
    w, h = size_wh
    if min(w, h) < 1:
        expected, actual, remedy = "at least 1 x 1 pixels", "none", _COPY
    elif w * h > max_pixels:
        expected, actual = f"at most {max_pixels:,} pixels", f"{w * h:,}"
        remedy = "crop it, scale it down or raise the limit max_pixels"
    elif max(w, h) > max_aspect * min(w, h):
        expected, actual = f"an aspect ratio of at most {max_aspect:g}", f"{max(w, h) / min(w, h):.4g}"
        remedy = "cut it into shorter pieces"
    else:
        return
    raise Refusal(expected, f"{actual} ({w} x {h})", remedy)


def decode(image: ImageFile.ImageFile) -> Decoded:
    """Decode fully and convert; to be called within `opened`."""
    stored = _header_facts(image)
    mode = image.mode
    _free_webp_decoder_early(image)
    image.load()
    rgb, window = _to_rgb(image, stored)
    # Pillow turns TIFF upright while decoding and PNG may state its orientation behind the pixels: what
    # remains to be done shows only now.
    remaining = _orientation(image)
    if remaining in _TRANSPOSE:
        rgb = rgb.transpose(_TRANSPOSE[remaining])
    orientation = remaining if remaining != 1 else stored.orientation
    return Decoded(rgb, str(image.format), mode, orientation, window)


def _free_webp_decoder_early(image: Any) -> None:
    """Let the decoder of a WebP, 8 bytes a pixel, go as soon as it has decoded, where Pillow lets us."""
    if image.format == "WEBP" and hasattr(image, "_get_next") and hasattr(image, "_decoder"):

        def decode_last() -> Any:
            del image._get_next  # the method of its class again, and no circle that keeps the pixels
            frame = image._get_next()
            image._decoder = None
            return frame

        image._get_next = decode_last


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
    if deep_colour and (brightest := _brightest(image)) < 64:
        limit = (brightest + 1) * 256
        raise ValueError(f"16-bit colour that stays below {limit} of 65536; stretch it to the full range")
    window = (0.0, 65535.0) if deep_colour else None
    if not image.has_transparency_data:
        return _as_rgb(image), window
    # LA, La and PA convert to RGB by dropping alpha, so all take the way through RGBA.
    straight = image.convert("LA") if image.mode == "La" else image
    rgba = straight if straight.mode == "RGBA" else straight.convert("RGBA")
    if rgba.getchannel("A").getbbox() is None:
        raise ValueError("every pixel is transparent")
    rgb = Image.new("RGB", rgba.size, "white")
    rgb.paste(rgba, mask=rgba)
    return rgb, window


def _brightest(image: Image.Image) -> int:
    histogram = _as_rgb(image).histogram()
    return max(place % 256 for place, count in enumerate(histogram) if count)


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image, stored: _Stored) -> tuple[Image.Image, tuple[float, float]]:
    """Grey of 16 or 32 bits, integer or float, mapped from its smallest to its largest value; and these."""
    import numpy as np

    values: NDArray[Any] = np.asarray(image)  # (H, W)
    if image.mode == "I" and stored.unsigned_32:
        values = values.view(np.uint32)
    return stretch_grey(values, stored.white_is_zero)


def stretch_grey(
    values: NDArray[Any], white_is_zero: bool = False
) -> tuple[Image.Image, tuple[float, float]]:
    """(H, W) values as RGB, their smallest as 0 and their largest as 255 or the other way round; and these.

    Raises `ValueError` for values that are not finite.
    """
    import numpy as np

    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("pixel values that are NaN or infinite")
    if low == high:
        low, high = min(low, 0.0), max(high, 65535.0)
    black, white = (high, low) if white_is_zero else (low, high)
    grey = np.empty(values.shape, dtype=np.uint8)
    for top in range(0, len(values), 256):  # in strips, because the arithmetic takes 8 bytes a pixel
        strip = values[top : top + 256].astype(np.float64)
        grey[top : top + 256] = np.rint((strip - black) * (255 / (white - black)))
    return Image.fromarray(grey).convert("RGB"), (black, white)
