"""The one door for images.

`open_image` turns a file into 8-bit RGB or refuses it with an `ImageError`, always in this order:

1. an ordinary file, read to the limit of bytes;
2. how it is built, before a decoder sees it: no more segments, scans, chunks, metadata or padding than would
   take seconds;
3. limits, from the header, before a pixel is decoded: pixels, aspect ratio, exactly one frame (of a phone's
   JPEG with further pictures behind its own, format MPO, that one is taken, as every viewer does);
4. one full decode (a header that opens says nothing about the pixels behind it);
5. to 8-bit RGB. Grey of more than 8 bits is mapped linearly, the image's own smallest value to 0 and its
   largest to 255, so nothing is clipped and faint images stay visible; the price is that one hot pixel
   compresses the rest, and that two images of one camera may get different windows. Colour of 16 bits keeps
   its upper 8 bits; when its brightest value leaves the upper two bits empty (a 12-bit camera in a 16-bit
   file), it is refused instead. Transparency is composited on white. No ICC profile is applied;
6. EXIF orientation applied, all metadata dropped.

Steps 2 to 6 run in another process (`decoder_process`), under a limit of memory and of processor time: 4
to 12 bytes a pixel are in work there, for 64 million pixels of all threads together, and the picture that
comes back takes 4 more.

Not covered: damage that a decoder cannot notice (zeroed blocks inside JPEG data are grey).
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import Field

from anomalyr1.files import open_regular, sha256_of_file
from anomalyr1.images.decoder_process import PROCESSES, Ceilings, decode_elsewhere
from anomalyr1.images.file_structure import Refusal
from anomalyr1.types import InputError, Record


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
    max_seconds: float = Field(default=20, gt=0)
    """The most processor time that decoding takes; by the clock, six times as much."""


DEFAULT_LIMITS = Limits()
THREADS = PROCESSES
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


class Room:
    """How many pixels images that are kept together may have."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._free = pixels
        self._lock = threading.Lock()

    def take(self, pixels: int) -> None:
        """Raises `ImageError` when there is not so much room left."""
        with self._lock:
            self._free -= pixels
            if self._free < 0:
                raise ImageError(f"these images have more than {self._pixels:,} pixels together; open fewer")


def open_image(path: str | Path, limits: Limits = DEFAULT_LIMITS, room: Room | None = None) -> LoadedImage:
    """Open the image in a local file as upright 8-bit RGB.

    Its pixels are taken from `room`. Raises `ImageError` for anything that is not one whole, sane image (see
    the module's text), or has no room, and `SetupError` where no process can be started to decode it.
    """
    path = Path(path)
    ceilings = Ceilings(limits.max_pixels, limits.max_aspect, limits.max_seconds)
    try:
        data = _read(path, limits.max_bytes)
        facts, rgb = decode_elsewhere(data, ceilings, room.take if room else lambda pixels: None)
    except Refusal as refusal:
        # The name is escaped, since whoever made the file chose it.
        message = f"{str(path)!r}: expected {refusal.expected}, got {refusal.actual}; {refusal.remedy}"
        raise ImageError(message) from refusal
    window = tuple(facts["window"]) if facts["window"] else None
    digest = hashlib.sha256(data).hexdigest()
    return LoadedImage(path, rgb, facts["format"], facts["mode"], facts["orientation"], window, digest)


def digest_of(path: Path) -> str:
    """The SHA-256 of an image file. Raises `OSError` where it cannot be read, or is too long for an image."""
    return sha256_of_file(path, DEFAULT_LIMITS.max_bytes)


def _read(path: Path, max_bytes: int) -> bytes:
    """The bytes of an ordinary file within the limit."""
    try:
        with open_regular(path) as file:
            # Memory for what is there, not for the limit; a file may grow while it is read.
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            data = file.read(min(length, max_bytes) + 1)
            if len(data) > length:
                data += file.read(max_bytes + 1 - len(data))
    except IsADirectoryError as error:
        raise Refusal("an image file", "a folder", "name a file") from error
    except OSError as error:
        why = repr(str(error.strerror or error))
        raise Refusal("a readable local file", why, "check the path and its permissions") from error
    if not data:
        raise Refusal("an image", "an empty file", "copy it again from its source")
    if len(data) > max_bytes:
        remedy = "save it smaller (crop, scale down, compress) or raise the limit max_bytes"
        raise Refusal(f"at most {max_bytes:,} bytes", "more", remedy)
    return data
