"""The way between original and model pixels. All test data is drawn here."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalyr1.images import frames
from anomalyr1.images.door import ImageError
from anomalyr1.images.frames import FAMILIES, Frame, fit, resize
from anomalyr1.types import InputError
from support.pictures import drawn

FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


def qwen(size_wh, family, cap):
    """The processor's own rule, as (w, h)."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    w, h = size_wh
    h, w = smart_resize(h, w, family.factor, family.min_pixels, cap)
    return w, h


def sizes(count: int):
    rng = np.random.default_rng(3)
    for _ in range(count):
        long = int(rng.integers(1, 9000))
        size = (long, max(1, round(long / float(rng.choice([1, 2, 20, 200]) ** rng.random()))))
        yield size if rng.random() < 0.5 else size[::-1]


@FAMILY
@pytest.mark.parametrize("tokens", [None, 64, 256, 16_384])
def test_fit_is_the_fixed_point_of_the_processors_own_rule(family, tokens):
    cap = family.max_pixels if tokens is None else max(tokens * family.factor**2, 2 * family.min_pixels)
    refused = changed = 0
    for size in sizes(1500):
        first = qwen(size, family, cap)
        try:
            fitted = fit(size, family, None if tokens is None else cap)
        except ImageError:
            assert max(first) > 200 * min(first), "refused only where the processor refuses our resized image"
            refused += 1
            continue
        assert qwen(fitted, family, cap) == fitted
        assert all(side % family.factor == 0 for side in fitted)
        assert family.min_pixels <= math.prod(fitted) <= cap
        changed += first != fitted
        assert first == fitted or qwen(first, family, cap) != first, "one step is kept where it holds"
    assert refused < 60
    if tokens == 64 and family.factor == 28:
        assert changed > 0, "control: one step alone is not a fixed point for some narrow images"


@FAMILY
def test_fit_table(family):
    f = family.factor
    assert fit((f * 20, f * 10), family) == (f * 20, f * 10)  # already right
    assert math.prod(fit((4000, 3000), family)) <= family.max_pixels  # shrunk to the default cap
    assert math.prod(fit((1, 1), family)) == family.min_pixels  # enlarged
    for size, cap, words in [
        ((20, 5000), None, "ratio of at most 200"),
        ((5000, 0), None, "ratio"),
        ((f * 220, f * 5 // 4), 2**24, "for the model"),  # 176 as it is, 220 on the grid
        ((300, 200), f * f, "raise max_pixels"),
    ]:
        with pytest.raises(ImageError, match=words):
            fit(size, family, cap)


@pytest.mark.parametrize("size", [(1, 1), (517, 333), (2000, 31), (64, 1999), (1600, 1200)])
@FAMILY
def test_the_processor_finds_nothing_left_to_resize(size, family):
    from transformers import Qwen2VLImageProcessor

    image, frame = resize(drawn(size), family)
    processor = Qwen2VLImageProcessor(
        patch_size=family.factor // 2,
        size={"shortest_edge": family.min_pixels, "longest_edge": family.max_pixels},
    )
    assert processor.resample == Image.Resampling.BICUBIC
    out = processor(images=[image], return_tensors="np")
    own = processor(images=[drawn(size)], return_tensors="np")
    if (
        out["pixel_values"].shape == own["pixel_values"].shape
    ):  # the same picture as if the processor had resized it
        assert np.abs(out["pixel_values"] - own["pixel_values"]).max() < 1e-5  # a grey level is 0.015
    _, rows, columns = (int(n) for n in out["image_grid_thw"][0])
    assert (columns * family.factor // 2, rows * family.factor // 2) == image.size == frame.model_wh
    assert frame.original_wh == size


def brute_force_cap(sizes_wh, family, room_tokens, max_pixels):
    """Every multiple of a token's pixels, the smallest first; the last one that fits."""
    tile, best = family.factor**2, None
    for cap in range(tile, max_pixels + 1, tile):
        if cap < family.min_pixels:
            continue
        try:
            tokens = sum(w * h // tile for w, h in (fit(size_wh, family, cap) for size_wh in sizes_wh))
        except ImageError:
            continue
        if tokens <= room_tokens:
            best = cap
    return best


SIDES = st.one_of(st.integers(1, 9000), st.integers(1, 60))


@given(
    st.lists(st.tuples(SIDES, SIDES), max_size=4),
    st.sampled_from(sorted(FAMILIES)),
    st.integers(-5, 400),
    st.integers(1, 200 * 28**2),
)
@settings(max_examples=300, deadline=None)
def test_the_largest_cap_that_fits_is_that_of_brute_force(sizes_wh, name, room_tokens, max_pixels):
    family = FAMILIES[name]
    expected = brute_force_cap(sizes_wh, family, room_tokens, max_pixels)
    assert frames.largest_cap_that_fits(sizes_wh, family, room_tokens, max_pixels) == expected


@pytest.mark.parametrize(
    ("sizes_wh", "room_tokens", "tokens"),
    [
        ([(1000, 1000)], 100, 120),  # 120 tokens is the last cap under which this square takes 10 x 10 tokens
        ([(1000, 1000), (28, 28)], 104, 120),  # a small picture takes 4 and leaves the room to the large one
        ([(1000, 1000)] * 2, 100, 63),  # half of the room each: 7 x 7 tokens
        ([(1000, 1000)], 3, None),  # less than the least that the family takes
        ([], -1, None),  # the text alone is too long
    ],
)
def test_caps_that_fit(sizes_wh, room_tokens, tokens):
    cap = frames.largest_cap_that_fits(sizes_wh, FAMILIES["qwen2_5_vl"], room_tokens, 1280 * 784)
    assert cap == (None if tokens is None else tokens * 784)


@st.composite
def framed_boxes(draw):
    """A frame, and a box in its image from far less than one unit wide to all of it."""
    family = FAMILIES[draw(st.sampled_from(sorted(FAMILIES)))]
    w = draw(st.integers(1, 9000))
    h = draw(st.integers(max(1, w // 150), min(9000, w * 150)))
    cap = draw(st.integers(2, 4096)) * max(family.min_pixels, family.factor**2)
    try:
        frame = Frame((w, h), fit((w, h), family, cap), family.units)
    except ImageError:
        frame = Frame((w, h), fit((w, w), family, cap), family.units)
    ends = [
        sorted(draw(st.tuples(st.floats(0, side), st.floats(0, side)).filter(lambda p: p[0] != p[1])))
        for side in (w, h)
    ]
    return frame, (ends[0][0], ends[1][0], ends[0][1], ends[1][1])


def units_of(frame: Frame):
    """Original pixels per unit the model can write."""
    model = frame.model_wh if frame.units == "pixels" else (1000, 1000)
    return frame.original_wh[0] / model[0], frame.original_wh[1] / model[1]


@given(framed_boxes())
@settings(max_examples=1500, deadline=None)
def test_round_trip_is_within_half_a_unit(case):
    frame, box = case
    written = frame.to_model(box)
    back = frame.to_original(written)
    assert all(type(number) is int for number in written)
    assert written[0] < written[2]
    assert written[1] < written[3]
    assert frame.to_model(back) == written, "what was read back is written the same"
    for axis, unit in enumerate(units_of(frame)):
        width = (box[axis + 2] - box[axis]) / unit
        errors = sorted(abs(back[i] - box[i]) / unit for i in (axis, axis + 2))
        assert errors[0] <= 0.5 + 1e-6
        assert errors[1] <= (0.5 if width >= 1 else 1 - width / 2) + 1e-6
        assert min(written[axis], 0) == 0
        assert written[axis + 2] <= (frame.model_wh if frame.units == "pixels" else (1000, 1000))[axis]


@given(framed_boxes(), st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_finite_numbers_map_to_finite_numbers(case, numbers):
    assert all(map(math.isfinite, case[0].to_original(numbers)))


FRAME = Frame((2000, 1000), (1000, 500), "pixels")
ROWS = [
    # box in original pixels, what the model should write
    ((0, 0, 2000, 1000), (0, 0, 1000, 500)),  # all of it
    ((100, 200, 300, 400), (50, 100, 150, 200)),  # exact
    ((1, 1, 3, 3), (1, 1, 2, 2)),  # halves go up at both ends: one unit stays one unit
    ((3, 3, 5, 5), (2, 2, 3, 3)),  # also where Python's round() sends 1.5 and 2.5 to the same 2
    ((10.2, 10.2, 10.8, 10.8), (5, 5, 6, 6)),  # thinner than a unit: the upper edge has less far to go
    ((9.2, 9.2, 10, 10), (4, 4, 5, 5)),  # here the lower edge has
    ((0, 0, 0.5, 0.5), (0, 0, 1, 1)),  # not below 0
    ((1999.5, 999.5, 2000, 1000), (999, 499, 1000, 500)),  # not beyond the edge
]


@pytest.mark.parametrize(("box", "written"), ROWS)
def test_to_model_table(box, written):
    assert round(1.5) == round(2.5), "control: why rounding is our own"
    assert FRAME.to_model(box) == written


def test_frame_units():
    assert Frame((2000, 1000), (1024, 512), "thousandths").to_model((0, 0, 1000, 1000)) == (0, 0, 500, 1000)
    assert Frame((2000, 1000), (1024, 512), "thousandths").to_original((0, 0, 500, 1000)) == (
        0,
        0,
        1000,
        1000,
    )
    assert FRAME.to_original((-3, 700, 1, 2)) == (-6, 1400, 2, 4), "neither clipped nor ordered"
    assert FAMILIES["qwen2_5_vl"].units == "pixels"
    assert FAMILIES["qwen3_vl"].units == "thousandths"


@pytest.mark.parametrize("box", [(5, 0, 5, 1), (5, 0, 4, 1), (0, 0, math.inf, 1), (math.nan, 0, 1, 1)])
def test_to_model_refuses_what_is_no_box(box):
    with pytest.raises(InputError, match="correct the annotation"):
        FRAME.to_model(box)


def test_frame_control_without_mapping_a_perfect_box_misses():
    """What the frame is for: a box written in model pixels and read as original pixels."""
    from anomalyr1.boxes import iou

    gold = np.array([[800, 600, 1000, 900]], float)
    frame = Frame((1024, 1024), fit((1024, 1024), FAMILIES["qwen2_5_vl"], 256 * 784), "pixels")
    written = frame.to_model(gold[0])
    assert iou(gold, [written])[0, 0] < 0.2
    assert iou(gold, [frame.to_original(written)])[0, 0] > 0.98
