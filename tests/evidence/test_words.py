"""Evidence in words, and read back."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyr1.boxes import place
from anomalyr1.evidence import words
from anomalyr1.images.frames import FAMILIES, Frame
from anomalyr1.types import Box, Evidence, Region


def random_evidence(rng, size_wh):
    regions = []
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 5])):
        xs = sorted(rng.uniform(0, size_wh[0]) for _ in range(2))
        ys = sorted(rng.uniform(0, size_wh[1]) for _ in range(2))
        if xs[1] - xs[0] < 1 or ys[1] - ys[0] < 1:
            continue
        box = Box(x1=xs[0], y1=ys[0], x2=xs[1], y2=ys[1])
        regions.append(Region(box=box, ratio=rng.uniform(1, 40), share=rng.random() ** 4))
    return Evidence(
        score=rng.random(),
        ratio=max([region.ratio for region in regions], default=rng.random()),
        calibrated=rng.random() < 0.7,
        same_kind=rng.random() < 0.8,
        learned=rng.choice([1, 2, 8, 200]),
        regions=tuple(regions),
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_10_000_are_read_as_they_were_written(family):
    rng = random.Random(family)
    for _ in range(10_000 // len(FAMILIES) + 1):
        size_wh = (rng.randint(60, 4000), rng.randint(60, 4000))
        frame = Frame.of(size_wh, FAMILIES[family])
        evidence = random_evidence(rng, size_wh)
        prompt = f"Inspect:\n{words.write(evidence, frame)}\nIs there any defect in the object?"
        saying = words.read(prompt, frame)
        assert (saying.learned, saying.calibrated) == (evidence.learned, evidence.calibrated)
        assert saying.same_kind == evidence.same_kind
        assert saying.ratio == pytest.approx(evidence.ratio, abs=0.051)
        assert len(saying.places) == len(evidence.regions)
        unit = [side / extent for side, extent in zip(size_wh, frame.extent_wh, strict=True)] * 2
        for said, region in zip(saying.places, evidence.regions, strict=True):
            assert said.place == place(region.box, size_wh)
            assert said.ratio == pytest.approx(region.ratio, abs=0.051)
            assert said.share == pytest.approx(region.share, abs=0.00051)
            for corner, right, step in zip(said.box.xyxy, region.box.xyxy, unit, strict=True):
                assert abs(corner - right) <= 1.01 * step  # as in `Frame`, which never lets a side vanish


FRAME = Frame.of((640, 480), FAMILIES["qwen2_5_vl"])
CORE = Evidence(score=0.3, ratio=0.72, calibrated=True, learned=8)


def test_the_wording():
    assert words.write(CORE, FRAME) == (
        "Measured against 8 good parts: no place differs more than good parts do (strongest: 0.7 times)."
    )
    region = Region(box=Box(x1=0, y1=330, x2=64, y2=470), ratio=6.2, share=0.004)
    alone = CORE.model_copy(update={"regions": (region,), "ratio": 6.2, "calibrated": False, "learned": 1})
    assert words.describe(alone.model_copy(update={"same_kind": False}), (640, 480)) == (
        "Measured against 1 good part, estimated from so few: 1 place differs more than good parts do.\n"
        "1. bottom left, 6.2 times what good parts show, 0.4 % of the image.\n"
        f"{words.OTHER_KIND}"
    )


@settings(max_examples=200, deadline=None)
@given(st.text() | st.from_regex(re.compile(r"Measured against \d+ good parts?: .*\n1\. .*")))
def test_any_text_can_be_read(text):
    words.read(text, FRAME)


def test_a_box_without_extent_is_no_place():
    text = words.write(
        CORE.model_copy(update={"regions": (Region(box=Box(x1=9, y1=9, x2=90, y2=90), ratio=2, share=0.1),)}),
        FRAME,
    )
    assert len(words.read(text, FRAME).places) == 1
    far = "[1, 1, 999999999, 999999999]"  # beyond what a box may be, once it is mapped
    for hostile in ("[90, 9, 9, 90]", "[9, 9, 9, 9]", "[9, 9, 90]", "[999999999999, 9, 90, 90]", far):
        assert words.read(re.sub(r"\[.*?\]", hostile, text), FRAME).places == ()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_largest_corners_that_are_read_lie_in_the_largest_picture(family):
    for size_wh in ((65_535, 700), (700, 65_535), (60, 60)):
        frame = Frame.of(size_wh, FAMILIES[family])
        region = Region(box=Box(x1=0, y1=0, x2=size_wh[0], y2=size_wh[1]), ratio=2, share=0.004)
        text = words.write(CORE.model_copy(update={"regions": (region,)}), frame)
        assert len(words.read(text, frame).places) == 1
        text = re.sub(r"\[.*?\]", "[-99999, -99999, 99999, 99999]", text)
        assert len(words.read(text, frame).places) == 1
