"""Pixels in memory: the same picture as from a file, and typed refusals."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalyr1 import answers
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.images.arrays import load_pixels, require_pictures
from anomalyr1.images.door import ImageError, open_image
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.types import Box, InputError
from support import recordings
from support.pictures import picture

RGB = np.asarray(picture(0, 96))
DEEP = (np.arange(96 * 64, dtype=np.uint16) * 9 + 300).reshape(64, 96)


DEFECT = (
    answers.write("A dark stain. So the answer is A.", "A"),
    answers.write("The stain is in the center.", [Box(x1=60, y1=40, x2=80, y2=54)], recordings.FRAME),
)


class Seeing(ReplayEngine):
    """Replays, and keeps what it was shown."""

    def complete(self, prompts, images, sampling=None):
        self.images = images
        return super().complete(prompts, images)


@pytest.mark.parametrize(
    "array",
    [RGB, RGB[..., 0], RGB[..., :1], DEEP, np.full((40, 40), 900, np.uint16), RGB[::2, ::-1]],
    ids=["rgb", "grey", "one channel", "16 bits", "16 bits, constant", "a view"],
)
def test_an_array_is_what_its_file_is(array, tmp_path):
    Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array).save(tmp_path / "a.png")
    of_file, of_array = open_image(tmp_path / "a.png"), load_pixels(array)
    assert np.array_equal(np.asarray(of_array.rgb), np.asarray(of_file.rgb))
    assert (of_array.window, of_array.mode, of_array.size_wh) == (
        of_file.window,
        of_file.mode,
        of_file.size_wh,
    )
    assert len(of_array.sha256) == 64 and of_array.path.name == f"image-{of_array.sha256[:12]}"
    assert load_pixels(array.copy()).sha256 == of_array.sha256 != load_pixels(array // 2).sha256


def test_an_image_of_pillow_is_what_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1).crop((0, 0, 96, 64)).save(tmp_path / "turned.jpg", exif=exif)
    of_file, of_pillow = open_image(tmp_path / "turned.jpg"), load_pixels(Image.open(tmp_path / "turned.jpg"))
    assert of_pillow.size_wh == of_file.size_wh == (64, 96)
    assert np.array_equal(np.asarray(of_pillow.rgb), np.asarray(of_file.rgb))
    assert load_pixels(Image.fromarray(RGB)).sha256 == load_pixels(RGB).sha256


def cut_off():
    whole = io.BytesIO()
    picture(2).save(whole, "PNG")
    return Image.open(io.BytesIO(whole.getvalue()[:400]))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (RGB / 255, r"float64 of shape \(96, 96, 3\)"),
        (RGB.astype(np.float32), "float32"),
        (RGB.astype(np.uint16), "uint16"),  # colour of 16 bits
        (RGB.astype(np.int64), "int64"),
        (RGB[..., 0] > 3, "bool"),
        (np.zeros((8, 8, 4), np.uint8), r"shape \(8, 8, 4\); drop the fourth .* 2::-1\] of BGRA"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\); .*transpose\(1, 2, 0\)"),  # channels first
        (RGB[None], r"shape \(1, 96, 96, 3\); give a picture at a time"),
        (b"bytes of a file", "a picture at a time, as its pixels or the path of its file"),
        (np.zeros((0, 8), np.uint8), "got 8 x 0"),
        (np.zeros((1, 201), np.uint8), "got 201 x 1"),
        (np.broadcast_to(np.uint8(0), (8001, 8001)), "got 8001 x 8001"),
        (Image.new("RGBA", (8, 8)), "mode RGBA"),
        (Image.new("P", (8, 8)), "mode P"),
        (Image.new("F", (8, 8)), "mode F"),
        (cut_off(), "cannot be decoded"),
    ],
)
def test_what_is_no_picture(pixels, message):
    with pytest.raises(ImageError, match=message):
        load_pixels(pixels)


def test_the_inspector_takes_what_a_camera_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = open_image(recordings.draw(tmp_path / "part.png")).rgb
    name = load_pixels(image).path.as_posix()
    completions = dict.fromkeys((name, "b", "shot 7", (tmp_path / "part.png").as_posix()), DEFECT)
    engine = Seeing(recordings.record(tmp_path / "recorded.jsonl", completions))
    inspector = Inspector(engine, masks="box")
    of_file = inspector(tmp_path / "part.png")
    for inspection in (inspector(image), inspector(np.asarray(image), sample_id="b")):
        assert inspection.sample_id in (name, "b") and inspection.error is None
        assert (inspection.verdict, inspection.boxes, inspection.masks) == (
            of_file.verdict, of_file.boxes, of_file.masks,
        )  # fmt: skip
        assert inspection.image_sha256 == load_pixels(image).sha256
    named = inspector(
        np.asarray(image), references=[np.asarray(image)[::-1], tmp_path / "part.png"], sample_id="shot 7"
    )
    assert named.sample_id == "shot 7" and len(engine.images) == 3
    with pytest.raises(ImageError, match="float64"):
        inspector(np.zeros((8, 8)))


@pytest.mark.parametrize(
    "references", [RGB, RGB[..., 0], Image.new("RGB", (8, 8)), "part.png", Path("part.png")]
)
def test_a_reference_outside_a_list_is_refused(references, tmp_path, monkeypatch):
    """Its rows would be so many tiny references, and the letters of a path so many files."""
    monkeypatch.chdir(tmp_path)
    recordings.draw(tmp_path / "part.png")
    inspector = Inspector(Seeing(recordings.record(tmp_path / "recorded.jsonl", {"part.png": DEFECT})))
    with pytest.raises(InputError, match=r"write references=\[picture\]"):
        inspector("part.png", references=references)
    assert inspector("part.png", references=[references]).error is None  # control: in a list it is taken
    require_pictures(RGB[None])  # an array of several pictures is taken, too
