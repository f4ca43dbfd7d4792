"""NPZ files: arrays as numpy reads them; what declares or unpacks to more than it may is refused unread."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from anomalyr1.evaluation import other_detectors
from anomalyr1.evaluation.npz_files import MOST_BYTES, NpzFile
from anomalyr1.types import InputError


def header(text, version=b"\x01\x00"):
    body = text.encode("latin1")
    body += b" " * (-(len(body) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(body).to_bytes(2, "little") + body


def declared(shape, dtype):
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}")


def write(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


BOMBS = {
    "7 TB in 200 bytes": (declared((1_000_000, 1_000_000), "<f8"), "declares 8,000,000,000,000 bytes"),
    "a large map": (declared((20_000, 20_000), "<f8"), "declares 3,200,000,000 bytes"),
    "a long text": (declared((1,), "<U500000000"), "declares 2,000,000,000 bytes"),
    "huge numbers": (declared((2**62, 2**62), "<f8"), "declares"),
    "less than declared": (declared((1000, 1000), "<f8") + bytes(8), "declares 8,000,000 bytes and has 8"),
    "more than declared": (declared((1, 1), "<f8") + bytes(2**22), "declares 8 bytes and has 4,194,304"),
    "negative": (declared((-1, -8), "<f8") + bytes(64), "declares|cannot be read"),
    "objects": (declared((1,), "|O") + b"cos\nsystem\n", "is object"),
    "records": (declared((1,), "V8") + bytes(8), "expected numbers or text"),
    "nested brackets": (header("(" * 5000), "cannot be read"),
    "code": (header("__import__('os').getcwd()"), "cannot be read"),
    "another version": (header("{}", b"\x09\x09"), "cannot be read"),
    "no array": (b"hello", "cannot be read"),
    "empty": (b"", "cannot be read"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_nothing(tmp_path, name):
    content, message = BOMBS[name]
    path = write(tmp_path / "m.npz", {"a.npy": content})
    tracemalloc.start()
    with pytest.raises(InputError, match=message):
        NpzFile(path).read("a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25
    with pytest.raises(InputError, match=message):
        other_detectors.Maps(path)["a"]


def test_without_the_check_the_bomb_is_allocated(tmp_path):
    """The control."""
    path = write(tmp_path / "m.npz", {"a.npy": BOMBS["7 TB in 200 bytes"][0]})
    with pytest.raises(MemoryError):
        np.load(path)["a"]


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"PK\x03\x04" + bytes(50), b"\x93NUMPY"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"m\.npz"):
        NpzFile(tmp_path / "m.npz").read("a")


@pytest.mark.parametrize(
    "array", [np.ones((2, 3)), np.asfortranarray(np.eye(3)), np.array(["a", "bc"]), np.zeros((0, 4), bool)]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_of_numpy(tmp_path, array, save):
    save(tmp_path / "m.npz", first=array, second=np.arange(3))
    arrays = NpzFile(tmp_path / "m.npz")
    assert arrays.names == ["first", "second"]
    assert (arrays.read("first") == array).all() and arrays.read("first").dtype == array.dtype
    with pytest.raises(KeyError):
        arrays.read("third")
    assert array.nbytes < MOST_BYTES


def test_a_damaged_array_is_named(tmp_path):
    packed = io.BytesIO()
    np.savez(packed, a=np.random.default_rng(0).random((9, 9)))
    data = bytearray(packed.getvalue())
    data[300] ^= 1
    (tmp_path / "m.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"array 'a' .* cannot be read"):
        NpzFile(tmp_path / "m.npz").read("a")
