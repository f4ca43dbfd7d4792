"""Each kind of leak is found where it was planted, and not elsewhere."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from anomalyr1.data import leaks
from anomalyr1.drawn import draw as procedural
from anomalyr1.images.door import ImageError
from anomalyr1.types import InputError, Sample
from support.pictures import picture


@pytest.fixture
def make(tmp_path):
    def one(name, image, **more):
        path = tmp_path / f"{name.replace('/', '_')}.png"
        path.write_bytes(image) if isinstance(image, bytes) else image.save(path)
        return Sample(id=name, image=path, **more)

    return one


def found(train, test):
    return [(leak.kind, leak.train, leak.test) for leak in leaks.find(train, test)]


def test_a_clean_pair_has_no_leak(make):
    assert (
        found(
            [make(f"a{i}", picture(i)) for i in range(8)], [make(f"b{i}", picture(50 + i)) for i in range(8)]
        )
        == []
    )
    assert found([], [make("x", picture(1))]) == found([make("x", picture(1))], []) == []


def test_the_same_file_is_exact_and_not_perceptual_too(make):
    assert found(
        [make("a", picture(0)), make("b", picture(1))], [make("c", picture(1)), make("d", picture(2))]
    ) == [("exact", "b", "c")]


def saved(image, **how):
    buffer = io.BytesIO()
    image.save(buffer, **how)
    return buffer.getvalue()


COPIES = {
    "jpeg": lambda image: saved(image, format="JPEG", quality=60),
    "half": lambda image: image.resize((80, 80)),
    "brighter": lambda image: image.point(lambda value: min(255, round(value * 1.05 + 4))),
    "another format": lambda image: saved(image, format="BMP"),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_perceptual_duplicates(make, copy):
    assert found([make("a", picture(0)), make("b", picture(1))], [make("c", COPIES[copy](picture(1)))]) == [
        ("perceptual", "b", "c")
    ]


def test_the_threshold_is_what_finds_copies(make):
    train, test = [make("a", picture(0))], [make("b", COPIES["jpeg"](picture(0)))]
    assert leaks.find(train, test, max_distance=-1) == ()
    assert leaks.find(train, test)[0].detail.endswith("of 256 bits differ")


def test_drawn_parts_of_one_category_are_not_taken_for_copies(make):
    parts = [make(str(seed), Image.fromarray(procedural.draw(seed, "washer").image)) for seed in range(24)]
    assert found(parts[:12], parts[12:]) == []


NEIGHBOURS = [
    (
        "01_200828110014_585000_090_crop_2",
        "01_200902053521_585000_090_crop_2",
        True,
    ),  # one place of a ball screw over time
    ("01_200828110014_585000_090_crop_2", "01_200902053521_635000_090_crop_2", False),  # another place
    (
        "01_200828110014_585000_090_crop_2",
        "01_200828110014_585000_090_crop_1",
        True,
    ),  # two cuts of one photograph
    ("01_209928110014_585000_090", "01_200902053521_585000_090", False),  # month 99: no time
    ("line/IMG_20260101_120000.jpg", "line/IMG_20260101_120031.jpg", True),  # half a minute apart
    ("line/IMG_20260101_120000.jpg", "line/IMG_20260101_120201.jpg", False),
    ("run3/frame_0001.png", "run3/frame_0412.png", True),  # one film
    ("run3/frame_0001.png", "run4/frame_0001.png", False),
    ("FRAME12", "FRAME13", True),
    ("board_crop-1", "board_crop-22", True),
    ("timeframe_1", "timeframe_2", False),  # part of a word
    (
        "bottle/test/broken_large/000.png",
        "bottle/test/broken_large/001.png",
        False,
    ),  # numbered parts, not frames
    ("blowhole_exp1_num_108719", "blowhole_exp2_num_108719", False),
    ("20085291", "20085292", False),
]


@pytest.mark.parametrize(("one", "other", "same"), NEIGHBOURS)
def test_neighbours_in_a_series(make, one, other, same):
    assert (("neighbour", one, other) in found([make(one, picture(0))], [make(other, picture(1))])) is same


def test_the_nearest_neighbour_is_named(make):
    train = [make(f"frame_{i}", picture(i)) for i in (1, 5, 9)]
    (leak,) = leaks.find(train, [make("frame_6", picture(99))])
    assert (leak.train, leak.detail) == ("frame_5", "series frame_<number>, 1 apart")


def test_reference_images(make):
    good, other = make("good", picture(0)), make("other", picture(1))
    a = make("a", picture(2), references=(good.image,))
    b = make("b", picture(3), references=(other.image,))
    c = make("c", picture(4), references=(make("copy of good", picture(0)).image,))
    assert found([a], [b]) == []
    assert found([a], [c]) == [("shared_reference", "a", "c")]  # by content, not by name
    assert found([good], [a]) == [("reference", "good", "a")]
    assert found([a], [good]) == [("reference", "a", "good")]


def test_missing_files_are_listed_and_broken_ones_named(make, tmp_path):
    gone = [Sample(id=str(i), image=tmp_path / f"gone{i}.png") for i in range(30)]
    with pytest.raises(
        InputError, match=r"30 image files are missing.*gone0\.png.*gone19\.png' and 10 more;"
    ):
        leaks.find(gone, [make("x", picture(0))])
    with pytest.raises(ImageError, match=r"y\.png"):
        leaks.find([make("x", picture(0))], [make("y", b"no image")])


def test_nearest_is_right_and_fast():
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 2**63, (n, 4), np.uint64) for n in (5000, 5000))
    test[7] = train[4321] ^ np.uint64(5)
    started = time.perf_counter()
    index, distance = leaks.nearest(train, test)
    assert time.perf_counter() - started < 120  # 0.4 s; pair by pair takes many minutes
    assert (index[7], distance[7]) == (4321, 8)  # two bits in each of four words
    apart = [bin(int(a) ^ int(b)).count("1") for a, b in zip(train[index[0]], test[0], strict=True)]
    assert distance[0] == sum(apart)


def test_counts(make):
    twice = leaks.find([make("a", picture(0))], [make("b", picture(0)), make("c", picture(0))])
    assert leaks.counts(twice) == {"exact": 2}
