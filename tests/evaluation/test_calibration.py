import csv
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binom

from anomalyr1 import records
from anomalyr1.evaluation import calibration
from anomalyr1.evaluation.calibration import LabelledScores, choose_threshold, fit, parts_needed, upper_bound
from anomalyr1.files import sha256_of_file
from anomalyr1.inspection.thresholds import Threshold, logit, read_labels, sigmoid
from anomalyr1.types import Fingerprint, InputError, Inspection

RUN = Fingerprint(model="m", family="qwen2_5_vl", style="ours", max_pixels=10**6, engine="local")


def drawn(good=400, defect=400, slope=1.0, intercept=0.0, seed=0):
    """Scores whose true probability of a defect is sigmoid(slope * logit(score) + intercept)."""
    generator = np.random.default_rng(seed)
    scores = generator.uniform(0.001, 0.999, 20 * (good + defect))
    truths = generator.uniform(size=len(scores)) < sigmoid(slope * logit(scores) + intercept)
    places = np.sort(np.concatenate([np.flatnonzero(truths)[:defect], np.flatnonzero(~truths)[:good]]))
    return scores[places], truths[places]


def labelled(scores, truths):
    return LabelledScores(np.array(scores, dtype=float), np.array(truths, dtype=bool), {})


def made(scores, truths, miss=1.0, alarm=1.0, **more):
    return calibration.calibrate(labelled(scores, truths), RUN, miss, alarm, **more)


# Calibration.


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.4, 0.0), (2.0, 1.0), (0.5, -1.5)])
def test_platt_finds_what_made_the_labels(slope, intercept):
    generator = np.random.default_rng(1)
    scores = generator.uniform(0.001, 0.999, 20_000)
    truths = generator.uniform(size=20_000) < sigmoid(slope * logit(scores) + intercept)
    found = fit(scores, truths)
    assert found.slope == pytest.approx(slope, abs=0.05)
    assert found.intercept == pytest.approx(intercept, abs=0.05)


def test_temperature_has_no_intercept():
    scores, truths = drawn(slope=0.4)
    found = fit(scores, truths, "temperature")
    assert found.intercept == 0
    assert found.slope == pytest.approx(0.4, abs=0.1)


def test_overconfident_scores_are_mended():
    scores, truths = drawn(slope=0.3, intercept=0.5)
    figures = made(scores, truths).figures
    assert figures.error_after < figures.error_before / 2
    assert figures.brier_after < figures.brier_before


def test_right_scores_stay_right():
    scores, truths = drawn()
    figures = made(scores, truths).figures
    assert figures.error_after < 0.06


def test_error_after_is_cross_validated():
    """Scores that say nothing: a fit looks good on its own parts (the control), not on parts it has not
    seen.
    """
    generator = np.random.default_rng(5)
    gaps = []
    for _ in range(40):
        scores, truths = generator.uniform(size=12), np.arange(12) < 6
        own = fit(scores, truths)(scores)
        other = calibration.cross_validated(scores, truths, "platt")
        gaps.append(((other - truths) ** 2).mean() - ((own - truths) ** 2).mean())
    assert np.mean(gaps) > 0.01  # 0 where each part is calibrated by a fit that has seen it


def test_separated_and_extreme_scores_stay_finite():
    threshold = made([0.0, 0.0, 1e-300, 1.0, 1.0], [0, 0, 0, 1, 1])
    assert 0 < threshold.calibration.slope < 10
    assert threshold.figures.auroc == 1
    assert json.loads(threshold.model_dump_json())


def test_another_defect_rate_moves_the_probability_by_its_odds():
    scores, truths = drawn(slope=0.5)
    half, rare = made(scores, truths), made(scores, truths, defect_rate=0.01)
    at = np.array([0.2, 0.9])
    odds = [p / (1 - p) for p in (half.calibration(at), rare.calibration(at))]
    assert odds[1] / odds[0] == pytest.approx([0.01 / 0.99] * 2)
    assert rare.threshold > half.threshold  # the rarer a defect, the more false alarms cost


# The threshold.


def cost(scores, truths, threshold, miss, alarm):
    return miss * (scores[truths] < threshold).mean() + alarm * (scores[~truths] >= threshold).mean()


@given(st.integers(0, 10_000), st.floats(0.1, 100), st.integers(2, 12), st.integers(2, 12))
def test_no_threshold_costs_less(seed, miss, good, defect):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 8, good + defect) / 7  # many ties
    truths = np.arange(good + defect) < defect
    best, low, high = choose_threshold(scores, truths, miss, 1.0, seed)
    least = min(cost(scores, truths, t, miss, 1.0) for t in (*np.unique(scores), 0.0, 2.0))
    assert cost(scores, truths, best, miss, 1.0) == pytest.approx(least)
    assert low <= best <= high


@pytest.mark.parametrize(
    ("scores", "truths", "miss", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1, 0.5),  # the middle of the gap
        ([0.1, 0.4, 0.3, 0.9], [0, 0, 1, 1], 50, 0.2),  # a miss is dear: rather a false alarm
        ([0.1, 0.4, 0.3, 0.9], [0, 0, 1, 1], 0.01, 0.7),  # a false alarm is dear: rather a miss
    ],
)
def test_costs_move_the_threshold(scores, truths, miss, expected):
    best, *_ = choose_threshold(np.array(scores), np.array(truths, dtype=bool), miss, 1.0)
    assert best == pytest.approx(expected, abs=0.06)  # half-way in log-odds


def test_the_interval_covers_the_true_threshold():
    """Costs 1 to 1 and right probabilities: the true threshold is 0.5. 95 % of 40 intervals would be 38."""
    covered, widths = 0, []
    for seed in range(40):
        scores, truths = drawn(60, 60, seed=seed)
        _, low, high = choose_threshold(scores, truths, 1.0, 1.0, seed)
        covered += low <= 0.5 <= high
        widths.append(high - low)
    assert covered >= 33
    assert np.mean(widths) < 0.7
    scores, truths = drawn(4000, 4000)
    _, low, high = choose_threshold(scores, truths, 1.0, 1.0)
    assert high - low < np.mean(widths) / 2  # more parts, less doubt


def test_same_seed_same_interval():
    scores, truths = drawn(50, 50)
    assert choose_threshold(scores, truths, 1, 1, 3) == choose_threshold(scores, truths, 1, 1, 3)


@pytest.mark.parametrize(
    ("scores", "truths", "message"),
    [
        ([0.1, 0.9], [0, 1], "1 good and 1 defective parts"),
        ([], [], "0 good and 0 defective"),
        ([0.9, 0.8, 0.1, 0.2], [0, 0, 1, 1], r"AUROC 0\.00"),  # labels swapped
        ([0.5] * 4, [0, 0, 1, 1], r"AUROC 0\.50"),
    ],
)
def test_what_cannot_be_calibrated(scores, truths, message):
    with pytest.raises(InputError, match=message):
        made(scores, truths)


# What may be claimed.


@pytest.mark.parametrize(
    ("events", "rate", "needed"),
    [
        (0, 0.01, 299),  # the rule of three says 300
        (0, 0.001, 2995),
        (1, 0.01, 473),
        (2, 0.05, 124),
        (0, 0.5, 5),
    ],
)
def test_parts_needed(events, rate, needed):
    assert parts_needed(events, rate) == needed
    assert (
        binom.cdf(events, needed, rate) <= 0.05 < binom.cdf(events, needed - 1, rate)
    )  # by the definition itself


def test_upper_bound():
    assert upper_bound(0, 300) == pytest.approx(0.00994, abs=1e-4)
    assert upper_bound(3, 3) == 1
    assert upper_bound(0, 0) == 1


def test_missing_parts_are_what_is_needed_beyond_what_is_there():
    assert made([0.1] * 100 + [0.9] * 5, [0] * 100 + [1] * 5).figures.good_parts_missing == 199
    assert made([0.1] * 400 + [0.9] * 5, [0] * 400 + [1] * 5).figures.good_parts_missing == 0


# The verdict.


def some_threshold(low, high):
    return made([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]).model_copy(
        update={"low": low, "high": high, "threshold": (low + high) / 2}
    )


@pytest.mark.parametrize(
    ("verdict", "score", "expected", "reason"),
    [
        ("good", 0.1, "good", "why"),
        ("good", 0.3, "unsure", "lies between the bounds 0.3 and 0.6"),
        ("good", 0.59, "unsure", "lies between"),
        ("good", 0.6, "defect", "Defect because the score 0.6 .*although the answer says good"),
        ("defect", 0.6, "defect", "^why$"),
        ("defect", 0.4, "unsure", "lies between"),
        (
            "defect",
            0.1,
            "unsure",
            "below the threshold 0.3, but the answer says defect",
        ),  # a doubt is never good
        ("unsure", 0.1, "unsure", "^why$"),
        ("unsure", 0.9, "unsure", "^why$"),
        ("good", None, "unsure", "no score"),
        ("defect", None, "unsure", "no score"),
    ],
)
def test_judge(verdict, score, expected, reason):
    found, why = some_threshold(0.3, 0.6).judge(verdict, "why", score)
    assert found == expected
    assert re.search(reason, why)


def test_a_threshold_serves_only_the_scores_it_was_made_for():
    threshold = some_threshold(0.3, 0.6)
    threshold.require_same(RUN.model_copy(update={"seed": 5, "masks": "sam2", "versions": {"torch": "9"}}))
    for change in (
        {"model": "other"},
        {"max_pixels": 5},
        {"style": "mmad"},
        {"given": "knowledge@1"},
        {"engine": "endpoint"},
    ):
        with pytest.raises(InputError, match=f"{next(iter(change))} was .* and is now"):
            threshold.require_same(RUN.model_copy(update=change))


def test_file(tmp_path):
    threshold = some_threshold(0.3, 0.6)
    threshold.write(tmp_path / "threshold.json")
    assert Threshold.read(tmp_path / "threshold.json") == threshold
    (tmp_path / "half.json").write_text((tmp_path / "threshold.json").read_text()[:200])
    for name, message in (
        ("half.json", "half.json' is no JSON"),
        ("none.json", "cannot read .*none.json"),
    ):
        with pytest.raises(InputError, match=message):
            Threshold.read(tmp_path / name)


@pytest.mark.parametrize(
    ("score", "only_boxes_lack", "expected"),
    [(0.6, True, "defect"), (0.59, True, "unsure"), (0.1, True, "unsure"), (None, True, "unsure")]
    + [(score, False, "unsure") for score in (0.1, 0.5, 0.99, None)],  # the control: never "good"
)
def test_what_is_unsure_stays_so_but_for_a_defect_without_boxes(score, only_boxes_lack, expected):
    got, why = some_threshold(0.3, 0.6).judge("unsure", "Unsure because x.\nA crack.", score, only_boxes_lack)
    assert got == expected
    assert got == "unsure" or (why.startswith("Defect because the score 0.6") and why.endswith("\nA crack."))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 1e300}, "low"),
        ({"low": 0.7}, "lower bound 0.7 lies above the upper bound 0.6"),
        ({"high": -0.1}, "high"),
        ({"defect_rate": 7}, "defect_rate"),
        ({"cost_miss": -1}, "cost_miss"),
    ],
)
def test_a_file_out_of_range_is_refused(tmp_path, change, message):
    path = tmp_path / "threshold.json"
    path.write_text(json.dumps(some_threshold(0.3, 0.6).model_dump(mode="json") | change))
    with pytest.raises(InputError, match=f"no threshold file .*{message}"):
        Threshold.read(path)


# Labels, and the command.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "expected a column of images .*, got 'a, b'"),
        ("", "got none"),
        ("sample_id,label\nx,maybe\n", r"neither good nor defect: 'maybe' \(line 2\)"),
        ("sample_id,label\nx,good\nx,defect\n", "line 3 of .*has a label already"),
        ("sample_id,label\nx\n", "line 2"),
    ],
)
def test_labels_that_are_refused(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / "labels.csv")


def test_labels_of_a_plant(tmp_path):
    (tmp_path / "labels.csv").write_text("filename;label\na.png;OK\nb.png;NG\nc.png;\n", encoding="utf-8-sig")
    assert read_labels(tmp_path / "labels.csv") == {"a.png": False, "b.png": True}


def inspections_file(tmp_path, n=60):
    scores, truths = drawn(n, n, slope=0.7)
    with records.Writer(tmp_path / "inspections.jsonl", RUN) as writer:
        for i, score in enumerate(scores):
            writer.append(Inspection(sample_id=f"{i}.png", verdict="unsure", score=float(score), reason="x"))
        writer.append(Inspection(sample_id="none.png", verdict="unsure", reason="x"))
        writer.append(Inspection(sample_id="failed.png", verdict="unsure", reason="x", error="broken"))
        writer.append(Inspection(sample_id="unlabelled.png", verdict="unsure", reason="x", score=0.4))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows(
            [("sample_id", "label"), *((f"{i}.png", "Defect" if t else "good") for i, t in enumerate(truths))]
        )
        rows.writerows([("none.png", "good"), ("failed.png", "defect"), ("gone.png", "good")])
    return tmp_path / "inspections.jsonl", tmp_path / "labels.csv"


def test_command(tmp_path, call):
    inspections, labels = inspections_file(tmp_path)
    out = tmp_path / "threshold.json"
    arguments = (
        "calibrate",
        inspections,
        "--labels",
        labels,
        "--cost-miss",
        50,
        "--cost-false-alarm",
        1,
        "--out",
        out,
    )
    code, said, err = call(*arguments, "--defect-rate", 0.02)
    assert (code, err) == (0, "")
    threshold = Threshold.read(out)
    assert (threshold.good, threshold.defect, threshold.defect_rate) == (60, 60, 0.02)
    assert threshold.left_out == {
        "inspections without a label": 1,
        "labels without an inspection": 1,
        "failed inspections": 1,
        "inspections without a score": 1,
    }
    assert threshold.run == RUN
    for piece in (
        "60 good and 60 defective",
        "left out: 1 inspections without a label",
        "AUROC",
        "95 %",
        "more good parts",
        "calibration error",
    ):
        assert piece in said, piece
    assert "warning" not in said
    few, lines = tmp_path / "few.csv", labels.read_text().splitlines(keepends=True)
    scores = {one.sample_id: one.score or 0 for one in records.read(inspections)[1]}
    defects = sorted(
        (line for line in lines if "Defect" in line), key=lambda line: scores[line.split(",")[0]]
    )
    few.write_text("".join([line for line in lines if "efect" not in line] + defects[-2:]))
    folder = inspections.parent  # of a run, as good as its file
    code, said, err = call(*arguments[:1], folder, "--labels", few, *arguments[4:-1], tmp_path / "few.json")
    assert (code, err) == (0, "")
    assert "warning: only 2 defective parts: fewer than 10 say almost nothing" in said
    (tmp_path / "moved.csv").write_text("sample_id,label\n/parts/0.png,good\n")
    code, _, err = call(
        "calibrate",
        inspections,
        "--labels",
        tmp_path / "moved.csv",
        "--cost-miss",
        50,
        "--cost-false-alarm",
        1,
    )
    assert code == 1
    assert "the first inspection is named '0.png', the first label '/parts/0.png'" in err
    code, _, err = call(
        "calibrate",
        inspections,
        "--labels",
        tmp_path / "gone.csv",
        "--cost-miss",
        50,
        "--cost-false-alarm",
        1,
    )
    assert code == 1
    assert "gone.csv" in err


@pytest.mark.parametrize("costs", [(0, 1), (1, -1), ("nan", 1)])
def test_costs_that_are_refused(tmp_path, call, costs):
    inspections, labels = inspections_file(tmp_path, 3)
    code, _, err = call(
        "calibrate", inspections, "--labels", labels, "--cost-miss", costs[0], "--cost-false-alarm", costs[1]
    )
    assert code == 1
    assert "cost" in err


def test_names_in_a_table_may_be_the_ends_of_paths(tmp_path):
    with records.Writer(tmp_path / "inspections.jsonl", RUN) as writer:
        for name in ("lot/ok/1.png", "lot/ng/2.png", "lot/ok/3.png", "lot/ng/3.png"):
            writer.append(Inspection(sample_id=name, verdict="unsure", score=0.4, reason="x"))

    def gathered(*rows):
        (tmp_path / "labels.csv").write_text("\n".join(("filename;label", *rows)))
        return calibration.gather_files(tmp_path / "inspections.jsonl", tmp_path / "labels.csv")[0]

    found = gathered("1.png;ok", "2.png;ng", "ng\\3.png;ng", "gone.png;ok")
    assert found.defect.tolist() == [False, True, True]
    assert found.left_out == {"inspections without a label": 1, "labels without an inspection": 1}
    for rows in (("3.png;ok",), ("1.png;ok", "ok/1.png;ng"), ("1.png;ok", "lot/ok/1.png;ng")):
        with pytest.raises(InputError, match=r"the label '.*1?3?\.png' is not clear"):
            gathered(*rows)
    with pytest.raises(InputError, match="no inspection has a label"):  # a part of a name is no end of a path
        gathered("png;ok", "0/1.png;ok")


def test_a_data_set_is_known_by_its_images_wherever_it_lies(tmp_path):
    run = tmp_path / "inspections.jsonl"
    with records.Writer(run, RUN) as writer:
        for number, kind in enumerate(("good", "ng") * 2):
            path = tmp_path / "parts" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (number, 90, 120)).save(path)
            was = Inspection(sample_id=f"then/{number}.png", verdict="unsure", score=number / 10, reason="x")
            writer.append(was.model_copy(update={"image_sha256": sha256_of_file(path)}))
    found = calibration.gather_files(run, f"folder:{tmp_path / 'parts'}")[0]
    assert (found.scores.tolist(), found.defect.tolist()) == ([0, 0.1, 0.2, 0.3], [False, True] * 2)
    assert found.left_out == {}
    for path in (tmp_path / "parts").rglob("*.png"):  # the control: other images
        Image.new("RGB", (40, 30), (200, 90, int(path.stem))).save(path)
    with pytest.raises(InputError, match="none of 4 inspections belongs to one of 4 samples"):
        calibration.gather_files(run, f"folder:{tmp_path / 'parts'}")
