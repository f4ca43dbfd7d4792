"""Policy and evidence: who decides, and what happens where they disagree."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from anomalyr1 import answers
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.learning import Settings
from anomalyr1.images.door import digest_of
from anomalyr1.inspection.decisions import FROM_EVIDENCE, decide_beside, describe_score
from anomalyr1.inspection.good_parts import GoodParts, map_name
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.inspection.thresholds import Calibration, Threshold
from anomalyr1.inspection.verdicts import Opinion
from anomalyr1.types import Box, Evidence, InputError, Region
from support import recordings
from support.parts import draw_part, write_parts

SIZE_WH = (96, 96)
SETTINGS = Settings(short_side=96, max_patches=500)
SPOT_XY = (40, 24)
BOX = Box(x1=60, y1=40, x2=80, y2=56, label="stain")
AWAY = Box(x1=1, y1=1, x2=9, y2=9, label="stain")
GOOD = Evidence(
    score=0.2, ratio=0.7, threshold=0.3, false_alarm_rate=0.1, calibrated=True, learned=8, held_out=29
)
STRANGE = GOOD.model_copy(
    update={"score": 0.5, "ratio": 3.0, "regions": (Region(box=BOX, ratio=3.0, share=0.02),)}
)
SAYS = {
    "good": Opinion("good", "Even.", (), 0.1, "policy"),
    "defect": Opinion("defect", "A stain.", (BOX,), 0.9, "policy"),
    "unsure": Opinion("unsure", "Unsure because of something.", None, 0.5, "policy"),
}


@pytest.mark.parametrize(
    ("decider", "policy", "evidence", "verdict"),
    [
        ("both", "good", GOOD, "good"),
        ("both", "defect", STRANGE, "defect"),
        ("both", "good", STRANGE, "unsure"),  # they disagree
        ("both", "defect", GOOD, "unsure"),
        ("both", "unsure", GOOD, "unsure"),
        ("both", "unsure", STRANGE, "unsure"),
        ("evidence", "good", STRANGE, "defect"),  # whatever the policy says
        ("evidence", "defect", GOOD, "good"),
        ("evidence", "unsure", GOOD, "good"),
        ("policy", "good", STRANGE, "good"),  # evidence is shown only
        ("policy", "defect", GOOD, "defect"),
    ],
)
def test_who_decides(decider, policy, evidence, verdict):
    opinion, _ = decide_beside(SAYS[policy], evidence, decider, SIZE_WH, is_learned=False)
    assert opinion.verdict == verdict
    assert "Measured against 8 good parts" in opinion.reason


@pytest.mark.parametrize("policy", ["good", "defect", "unsure"])
@pytest.mark.parametrize("evidence", [GOOD, STRANGE])
@pytest.mark.parametrize("lack", [{"calibrated": False, "learned": 2}, {"threshold": None}])
def test_few_good_parts_never_decide_alone(policy, evidence, lack):
    few = evidence.model_copy(update=lack)
    opinion, _ = decide_beside(SAYS[policy], few, "evidence", SIZE_WH, is_learned=False)
    agree = policy == ("defect" if evidence is STRANGE else "good")
    assert opinion.verdict == (policy if agree else "unsure")


@pytest.mark.parametrize("decider", ["both", "evidence"])
@pytest.mark.parametrize("policy", ["good", "defect"])
def test_another_kind_and_a_learned_image_are_unsure(decider, policy):
    evidence = GOOD if policy == "good" else STRANGE
    other = evidence.model_copy(update={"same_kind": False})
    opinion, _ = decide_beside(SAYS[policy], other, decider, SIZE_WH, is_learned=False)
    assert opinion.verdict == "unsure" and "another kind of part" in opinion.reason
    opinion, _ = decide_beside(SAYS[policy], evidence, decider, SIZE_WH, is_learned=True)
    assert opinion.verdict == "unsure" and "learned as a good part" in opinion.reason
    opinion, _ = decide_beside(SAYS[policy], evidence, decider, SIZE_WH, is_learned=False)
    assert opinion.verdict == policy  # control


def test_what_disagrees_is_named_and_counted():
    opinion, counts = decide_beside(SAYS["good"], STRANGE, "both", SIZE_WH, is_learned=False)
    assert "the policy says good, but measured against 8 good parts: 1 place differs" in opinion.reason
    assert {name for name, count in counts.items() if count} == {"policy_contradicts_evidence"}
    away = SAYS["defect"]._replace(boxes=(BOX, AWAY))
    _, counts = decide_beside(away, STRANGE, "both", SIZE_WH, is_learned=False)
    assert counts["boxes_not_measured"] == 1
    _, counts = decide_beside(away, GOOD, "both", SIZE_WH, is_learned=False)
    assert counts["boxes_not_measured"] == 2


def test_a_disagreement_names_what_disagrees():
    whole = GOOD.model_copy(update={"score": 0.5})  # strange as a whole, no place stands out
    opinion, _ = decide_beside(SAYS["good"], whole, "both", SIZE_WH, is_learned=False)
    assert "the policy says good, but as a whole the part is stranger than 29 good" in opinion.reason
    place = STRANGE.model_copy(
        update={"score": 0.2}
    )  # a place stands out, and the score is that of good parts
    opinion, _ = decide_beside(SAYS["defect"], place, "both", SIZE_WH, is_learned=False)
    assert "the policy says defect, but as a whole the part is no stranger than 29 good" in opinion.reason


@pytest.mark.parametrize(
    ("held_out", "learned", "kind"),
    [
        (29, 8, "29 good parts that were held out"),
        (1, 8, "1 good part that was held out"),
        (0, 8, "8 good parts"),
    ],
)
def test_what_a_score_is_compared_with(held_out, learned, kind):
    evidence = GOOD.model_copy(update={"held_out": held_out, "learned": learned})
    assert f"no stranger than {kind} (score" in describe_score(evidence)


def test_where_the_evidence_decides_boxes_and_score_are_its():
    opinion, _ = decide_beside(SAYS["good"], STRANGE, "evidence", SIZE_WH, is_learned=False)
    assert opinion.boxes == (BOX,)
    assert (opinion.score, opinion.score_from) == (0.5, FROM_EVIDENCE)
    assert opinion.reason.splitlines()[0].startswith("As a whole the part is stranger than 29 good parts")


# With an inspector.

SAYS_GOOD = (
    answers.write("The surface is even, no defect. So the answer is B.", "B"),
    answers.write("There is no defect.", [], recordings.FRAME),
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("good"), 12)


@pytest.fixture(scope="module")
def bank(good):
    return Bank.learn(good, SETTINGS)


@pytest.fixture
def parts(tmp_path):
    """A bad part, a good part, and one of plain grey; the policy says of all that they are good."""
    draw_part(99, defect=True).save(tmp_path / "bad.png")
    draw_part(105).save(tmp_path / "good.png")
    Image.new("RGB", SIZE_WH, (120, 120, 120)).save(tmp_path / "plain.png")
    paths = [tmp_path / name for name in ("bad.png", "good.png", "plain.png")]
    recordings.record(tmp_path / "recorded.jsonl", {path.as_posix(): SAYS_GOOD for path in paths})
    return paths


def inspect(parts, out, **options):
    engine = ReplayEngine(parts[0].parent / "recorded.jsonl")
    inspector = Inspector(engine, good_parts=GoodParts(**options))
    return inspector, inspector.run([recordings.sample(path) for path in parts], out)


@pytest.mark.parametrize(
    ("decider", "verdict"), [("both", "unsure"), ("evidence", "defect"), ("policy", "good")]
)
def test_a_bad_part_that_the_policy_calls_good(parts, bank, tmp_path, decider, verdict):
    _, (bad, good, plain) = inspect(parts, tmp_path / "i.jsonl", bank=bank, decide=decider)
    assert (bad.verdict, good.verdict, plain.verdict) == (verdict, "good", "unsure")
    assert bad.evidence.is_strange and not good.evidence.is_strange
    if decider == "evidence":
        (mask, *_), (box, *_) = bad.masks, bad.boxes
        assert mask.source == "map" and mask.size_wh == SIZE_WH
        x, y = SPOT_XY
        assert box.x1 < x < box.x2 and box.y1 < y < box.y2


def test_a_learned_image_is_unsure(parts, bank, good, tmp_path):
    learned = Path(next(part.name for part in bank.parts if not part.held_out))
    recordings.record(tmp_path / "learned.jsonl", {learned.as_posix(): SAYS_GOOD})
    inspector = Inspector(
        ReplayEngine(tmp_path / "learned.jsonl"), good_parts=GoodParts(bank, decide="evidence")
    )
    (inspection,) = inspector.run([recordings.sample(learned)], tmp_path / "i.jsonl")
    assert inspection.verdict == "unsure" and "learned as a good part" in inspection.reason


def test_another_bank_is_another_run(parts, bank, good, tmp_path):
    inspect(parts, tmp_path / "i.jsonl", bank=bank)
    inspect(parts, tmp_path / "i.jsonl", bank=bank)  # control: it goes on
    with pytest.raises(InputError, match="evidence"):
        inspect(parts, tmp_path / "i.jsonl", bank=Bank.learn(good[:6], SETTINGS))
    with pytest.raises(InputError, match="evidence"):
        inspect(parts, tmp_path / "i.jsonl", bank=bank, decide="policy")


def test_maps_are_written_and_the_prompt_says_what_was_measured(parts, bank, tmp_path, monkeypatch):
    prompts = []
    complete = ReplayEngine.complete
    monkeypatch.setattr(
        ReplayEngine,
        "complete",
        lambda engine, asked, *rest: prompts.extend(asked) or complete(engine, asked, *rest),
    )
    for tell in (False, True):
        prompts.clear()
        inspector, _ = inspect(
            parts, tmp_path / f"{tell}.jsonl", bank=bank, tell=tell, maps=tmp_path / "maps"
        )
        texts = [str(prompt.messages) for prompt in prompts]
        assert all(("Measured against 8 good parts" in text) == tell for text in texts)
        assert ("+evidence@" in inspector.fingerprint().style) == tell
    with Image.open(tmp_path / "maps" / map_name(digest_of(parts[0]))) as heat:
        assert heat.mode == "L" and heat.size == SIZE_WH
        assert heat.getpixel(SPOT_XY) > 200 and heat.getpixel((90, 90)) < 60


@pytest.mark.parametrize(
    ("cut", "verdict", "relation"), [(0.9, "good", "below"), (0.001, "defect", "not below")]
)
def test_a_threshold_takes_the_place_of_the_bank_s_and_the_reason_says_so(
    parts, bank, tmp_path, cut, verdict, relation
):
    inspector, (bad, good, _) = inspect(parts, tmp_path / "i.jsonl", bank=bank, decide="evidence")
    assert (bad.verdict, good.verdict) == ("defect", "good")  # control: by the bank's
    threshold = Threshold.model_construct(
        threshold=cut,
        low=cut,
        high=cut,
        calibration=Calibration(method="platt", slope=1, intercept=0),
        defect=0,
        run=inspector.fingerprint(),
    )
    for inspection in (bad, good):
        opinion, _ = decide_beside(SAYS["good"], inspection.evidence, "evidence", SIZE_WH, is_learned=False)
        judged, reason = inspector.good_parts.judge(threshold, opinion, inspection.evidence)
        assert judged == verdict
        assert f"lies {relation} the threshold {cut:g}." in reason and "As a whole" not in reason
        assert "Measured against 8 good parts" in reason


def test_a_picture_that_nobody_judges_is_not_measured(parts, bank, tmp_path):
    _, (bad, _, plain) = inspect(parts, tmp_path / "i.jsonl", bank=bank, maps=tmp_path / "maps")
    assert bad.evidence and plain.evidence is None
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {
        map_name(digest_of(path)) for path in parts[:2]
    }


def test_who_decides_is_asked_only_where_there_are_good_parts(monkeypatch):
    def load(*_):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("anomalyr1.engines.loading.load_engine", load)
    for options in ({"decide": "evidence"}, {"decide": "both"}, {"tell": True}):
        with pytest.raises(InputError, match=r"--bank FILE or --good"):
            Inspector.load(**options)
    with pytest.raises(AssertionError):  # control
        Inspector.load(tell=False)


def test_an_unknown_decider_is_refused():
    with pytest.raises(InputError, match="both, evidence, policy"):
        GoodParts(decide="chance")


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (0.6, "more like 20 defective parts than like 8 good ones (score 0.600, defective above 0.500)"),
        (0.4, "more like 8 good parts than like 20 defective ones (score 0.400, defective above 0.500)"),
    ],
)
def test_a_score_that_defective_parts_taught_is_said_to_be_one(score, words):
    taught = GOOD.model_copy(update={"score": score, "threshold": 0.5, "held_out": 0, "defects": 20})
    assert words in describe_score(taught)
    assert "stranger than 29 good parts" in describe_score(taught.model_copy(update={"held_out": 29}))
