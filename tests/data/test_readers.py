"""Readers: entries the same as json reads them, whatever the size of the pieces; errors name the place."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyr1 import data
from anomalyr1.data import readers
from anomalyr1.types import InputError
from support import layouts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=5), JSON, max_size=6),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.integers(1, 40),
)
def test_entries_are_what_json_reads(tmp_path_factory, value, indent, ascii_only, chunk):
    path = tmp_path_factory.mktemp("j") / "m.json"
    path.write_bytes(
        json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    )
    if any("\ud800" <= c <= "\udfff" for c in json.dumps(value, ensure_ascii=False)) and not ascii_only:
        return  # no UTF-8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "_CHUNK", chunk)
        read = list(readers.read_json_entries(path))
    assert {key: one for key, one, _ in read} == value
    assert all(json.loads(text) == one for _, one, text in read)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "expected a JSON object"),
        (b"[1]", "expected a JSON object"),
        (b'{"a": 1', "comma or a closing brace"),
        (b'{"a" 1}', "a key and a colon"),
        (b'{1: 1}', "a key and a colon"),
        (b'{"a": {"b": [1, 2}}', "near character 6"),
        (b'{"a": ' + b"[" * 100_000, "near character 6"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "near character 6"),
    ],
)  # fmt: skip
def test_broken_files_are_named(tmp_path, text, said):
    path = tmp_path / "m.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=said) as caught:
        list(readers.read_json_entries(path))
    assert "m.json" in str(caught.value)


def test_bytes_that_are_not_utf8_come_as_surrogates_and_a_byte_order_mark_goes(tmp_path):
    path = tmp_path / "m.json"
    path.write_bytes(b'\xef\xbb\xbf{"a\xff.png": "\xff"}')
    assert [(key, value) for key, value, _ in readers.read_json_entries(path)] == [("a\udcff.png", "\udcff")]
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xff"}\n\n{"b": 1}')
    assert [(number, one) for number, one, _ in readers.read_json_lines(path)] == [
        (1, {"a": "\udcff"}),
        (3, {"b": 1}),
    ]


def test_other_errors(tmp_path):
    path = tmp_path / "m"
    path.write_text("{}\n{]\n")
    with pytest.raises(InputError, match="line 2"):
        list(readers.read_json_lines(path))
    with pytest.raises(InputError, match="no JSON"):
        readers.read_json(path)
    path.write_text("a,b\n1,2\n")
    assert list(readers.read_csv(path, ("b",))) == [{"b": "2"}]
    with pytest.raises(InputError, match="lacks the columns c"):
        list(readers.read_csv(path, ("b", "c")))
    for read in (readers.read_json, readers.read_text, readers.list_folder):
        with pytest.raises(InputError, match="cannot read"):
            read(tmp_path / "nowhere")


def test_images_are_found_by_one_list_of_suffixes(tmp_path):
    """What `inspect` takes, the loaders take: .jfif too."""
    for name in ("good/a.jfif", "good/b.PNG", "scratch/d.jfif"):
        layouts.image(tmp_path / name)
    (tmp_path / "good/c.txt").write_text("no image")
    images = readers.find_images([tmp_path]).paths
    assert [path.name for path in images] == ["a.jfif", "b.PNG", "d.jfif"]
    assert [sample.image for sample in data.load(f"folder:{tmp_path}")] == images


def test_masks_and_results_are_no_images_to_inspect(tmp_path):
    for name in ("good/a.png", "bad/b.png", "masks/bad/b.png", "out/overlay.png"):
        layouts.image(tmp_path / name)
    images = readers.find_images([tmp_path / "good/a.png", tmp_path], tmp_path / "out")
    assert [path.name for path in images.paths] == ["a.png", "b.png"]
    assert images.masks_left_out == {tmp_path / "masks": 1}
    with pytest.raises(InputError, match=r"no such file.*gone.*nowhere"):
        readers.find_images([tmp_path / "gone"], references=[tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"holds no image; expected files ending in \.bmp"):
        readers.find_images([tmp_path / "out"], tmp_path / "out")


def test_what_cannot_be_opened_in_a_folder_is_counted(tmp_path):
    layouts.image(tmp_path / "good/a.png")
    for name in ("good/b.HEIC", "good/c.heif", "bad/d.avif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "bad/e.png").symlink_to(tmp_path / "gone.png")
    images = readers.find_images([tmp_path])
    assert [path.name for path in images.paths] == ["a.png"]
    assert images.unopenable == {
        tmp_path: {
            "HEIC or AVIF files (convert them to JPEG or PNG)": 3,
            "links that lead nowhere (restore what they name)": 1,
        }
    }
    with pytest.raises(InputError, match=r"holds no image, 1 HEIC or AVIF files \(convert"):
        (tmp_path / "bad/e.png").unlink()
        readers.find_images([tmp_path / "bad"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders on this system")
def test_a_pipe_in_a_folder_is_counted_not_opened(tmp_path):
    layouts.image(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    images = readers.find_images([tmp_path])
    assert [path.name for path in images.paths] == ["a.png"]
    assert images.unopenable == {tmp_path: {"pipes or devices (name ordinary files)": 1}}
