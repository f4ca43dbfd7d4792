"""NPZ files (`numpy.savez`), array by array: what an array declares is checked before any of it is read.

A few bytes of a zip can declare, or unpack to, terabytes; an array of objects could run code.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from anomalyr1.files import open_regular
from anomalyr1.types import InputError, quoted

MOST_BYTES = 2**29
"""The largest array: 64 million numbers of 8 bytes."""
_FAILS_WITH = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)
"""What zipfile and numpy raise on damaged, encrypted or hostile data."""


class NpzFile:
    """An open NPZ file; arrays are read when they are asked for.

    Raises `InputError` for another file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._archive = zipfile.ZipFile(cast("IO[bytes]", open_regular(path)))
        except _FAILS_WITH as error:
            raise InputError(
                f"{str(path)!r} cannot be read ({error}); give an NPZ file of numpy.savez, which holds more "
                "than one array by name"
            ) from error
        self._members = {member.filename.removesuffix(".npy"): member for member in self._archive.infolist()}

    @property
    def names(self) -> list[str]:
        """The names of the arrays."""
        return list(self._members)

    def read(self, name: str) -> NDArray[Any]:
        """An array of numbers or of text.

        Raises `InputError` that names file and array for one of another kind, one of more than `MOST_BYTES`,
        and one whose header does not fit its length. `KeyError`: there is none of this name.
        """
        member = self._members[name]
        where = f"array {quoted(name)} of {str(self._path)!r}"
        try:
            # 1. What the header declares.
            with self._archive.open(member) as file:
                shape, dtype = _read_header(file)
                header = file.tell()
            if dtype.kind not in "fiubU":
                raise InputError(f"{where} is {dtype} of shape {shape}, expected numbers or text")
            length = math.prod(shape) * dtype.itemsize
            if not 0 <= length <= MOST_BYTES or min(shape, default=0) < 0:
                raise InputError(f"{where} declares {length:,} bytes; at most {MOST_BYTES:,} are read")
            if header + length != member.file_size:
                raise InputError(
                    f"{where} declares {length:,} bytes and has {member.file_size - header:,}; write it again"
                )
            # 2. The array.
            with self._archive.open(member) as file:
                array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        except InputError:
            raise
        except _FAILS_WITH as error:
            raise InputError(f"{where} cannot be read ({error}); write it again") from error
        return array


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type as the header of an array in numpy's format says, versions 1 and 2."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype
