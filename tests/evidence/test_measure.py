"""Distances -> scores and places; what is ignored or too small is no place."""

import numpy as np
import pytest

from anomalyr1.boxes import decode_mask, encode_mask
from anomalyr1.evidence import measure
from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.learning import Settings
from anomalyr1.evidence.measure import Yardstick
from support.parts import draw_part, write_parts

SPOT_XYXY = (32, 16, 48, 32)
SETTINGS = Settings(short_side=96, max_patches=500)
YARDSTICK = Yardstick(usual=0.1, most=0.2, coherence=0.01)


def grid_with_spots():
    """Two places: a large one and one of a single patch."""
    grid = np.full((24, 32), 0.05, np.float32)
    grid[4:10, 4:12] = 0.8
    grid[18, 25] = 0.9
    return grid


def test_the_score_is_the_mean_of_the_strangest_patches():
    assert measure.score_of(grid_with_spots()) == pytest.approx((0.9 + 7 * 0.8) / 8)


def test_places_have_boxes_at_the_size_of_the_picture_the_strangest_ahead():
    small, large = measure.regions_of(grid_with_spots(), YARDSTICK, (320, 240))
    assert small.ratio > large.ratio > 1
    assert large.box.xyxy == pytest.approx((40, 40, 120, 100), abs=6)
    assert large.outline is not None and large.share == decode_mask(large.outline).mean()


def test_what_good_parts_show_too_is_no_place():
    assert measure.regions_of(np.full((24, 32), 0.15, np.float32), YARDSTICK, (320, 240)) == ()


def test_a_place_of_fewer_pixels_than_the_smallest_is_none():
    places = measure.regions_of(grid_with_spots(), YARDSTICK, (320, 240), smallest=1000)
    assert [place.box.xyxy == pytest.approx((40, 40, 120, 100), abs=6) for place in places] == [True]
    assert len(measure.regions_of(grid_with_spots(), YARDSTICK, (320, 240), smallest=10)) == 2


def test_what_is_ignored_does_not_count(tmp_path):
    x1, _, x2, y2 = SPOT_XYXY
    ignored = np.zeros((96, 96), bool)
    ignored[: y2 + 24, x1 - 24 : x2 + 24] = True
    good, bad = write_parts(tmp_path, 8), draw_part(99, defect=True)
    blind = Bank.learn(good, SETTINGS.model_copy(update={"ignore": encode_mask(ignored, "map")}))
    seeing = Bank.learn(good, SETTINGS)
    assert any(measure_place(seeing, bad)) and not any(measure_place(blind, bad))
    file = tmp_path / "blind.bank"
    blind.write(file)
    assert Bank.read(file).measure(bad).evidence == blind.measure(bad).evidence


def measure_place(bank, image):
    """Whether each place lies at the spot."""
    x1, y1, x2, y2 = SPOT_XYXY
    boxes = [region.box for region in bank.measure(image).evidence.regions]
    return [box.x1 < x2 and x1 < box.x2 and box.y1 < y2 and y1 < box.y2 for box in boxes]
