"""The verdict is fail-safe, failures become records, a killed run resumes to the same files, and the answer
depends on the picture.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalyr1 import answers, prompts, records
from anomalyr1.cli.inspect import inspect_samples
from anomalyr1.drawn import draw as procedural
from anomalyr1.engines.engine import Completion, Sampling
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.evaluation import calibration
from anomalyr1.images.door import open_image
from anomalyr1.images.frames import resize
from anomalyr1.inspection import inspector as inspector_module
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.inspection.masks import Sam2
from anomalyr1.inspection.samples import samples_of_images
from anomalyr1.inspection.verdicts import FAST, REASONED, decide
from anomalyr1.policy.folders import NANO_FOLDER
from anomalyr1.types import Answer, Box, InputError, Inspection, Reply, SetupError
from support import recordings, tiny
from support.places import ROOT

BOX = Box(x1=60, y1=40, x2=80, y2=54, label="stain")
DEFECT = (
    answers.write("A dark stain. So the answer is A.", "A"),
    answers.write("The stain is in the center.", [BOX], recordings.FRAME),
)
GOOD = (
    answers.write("The surface is even, no defect. So the answer is B.", "B"),
    answers.write("There is no defect.", [], recordings.FRAME),
)


def said(choice="A", status="strict", **more):
    return Answer(status=status, choice=choice, **more)


def drew(*boxes, status="strict", **more):
    return Answer(status=status, boxes=boxes, **more)


@pytest.mark.parametrize(
    ("verdict", "grounding", "cut_off", "expected", "reason"),
    [
        (said("A"), drew(BOX), False, "defect", ""),
        (said("B", reasoning="It is intact."), drew(), False, "good", "It is intact."),
        (said("B", reasoning="It is intact."), drew(reasoning="No spot."), False, "good", "It is intact."),
        (said("A", "lenient"), drew(BOX, status="lenient"), False, "defect", ""),  # a careful reader reads it
        (said("A", conclusion="A", says_defect=True), drew(BOX, says_defect=True), False, "defect", ""),
        # everything in doubt is unsure, and says why
        (said("A"), drew(), False, "unsure", "says defect, but no box was drawn"),
        (said("B"), drew(BOX), False, "unsure", "says good, but a box was drawn"),
        (said("B"), drew(BOX, BOX), False, "unsure", "says good, but 2 boxes were drawn"),
        (said("B", conclusion="A"), drew(), False, "unsure", "the reasoning concludes A but the answer is B"),
        (
            said("B", says_defect=True),
            drew(),
            False,
            "unsure",
            "the reasoning finds a defect, but the answer says good",
        ),
        (
            said("B"),
            drew(says_defect=True),
            False,
            "unsure",
            "the place finds a defect, but no box was drawn",
        ),
        (said(None, "unparseable"), drew(), False, "unsure", "verdict could not be read"),
        (said(None), drew(), False, "unsure", "verdict could not be read"),
        (said("C"), drew(), False, "unsure", "verdict could not be read"),
        (said("B"), Answer(status="strict"), False, "unsure", "boxes could not be read"),
        (said("B"), drew(status="unparseable"), False, "unsure", "boxes could not be read"),
        (said("B"), drew(), True, "unsure", "cut off"),
        (said("B", conclusion="A", reasoning="A crack."), drew(), False, "unsure", "B.\nA crack."),
    ],
)
def test_decide(verdict, grounding, cut_off, expected, reason):
    got, why = decide(verdict, grounding, cut_off, recordings.SIZE_WH)
    assert got == expected
    assert reason in why
    assert why or got != "unsure"


@pytest.mark.parametrize(
    ("place", "boxes", "expected"),
    [
        ("center", (BOX,), "defect"),
        (
            "center right",
            (BOX,),
            "defect",
        ),  # BOX reaches from the center into it; its centre is in the center
        ("top left", (BOX,), "unsure"),
        ("bottom center", (BOX,), "unsure"),
        ("top left", (BOX, Box(x1=1, y1=1, x2=9, y2=9)), "defect"),  # one of them is there
        (None, (BOX,), "defect"),
    ],
)
def test_the_boxes_must_lie_where_the_reasoning_sees_the_defect(place, boxes, expected):
    places = {"place": place}
    for verdict, grounding, about in (
        (said("A", **places), drew(*boxes), ""),
        (said("A"), drew(*boxes, **places), " about the place"),
    ):
        got, why = decide(verdict, grounding, False, recordings.SIZE_WH)
        assert got == expected
        assert (
            got == "defect"
            or f"the reasoning{about} puts the defect in the {place}, but no box touches it" in why
        )
        silent = [answer.model_copy(update={"place": None}) for answer in (verdict, grounding)]
        assert decide(*silent, False, recordings.SIZE_WH)[0] == "defect"  # the control: no place is said


@pytest.fixture
def folder(tmp_path):
    """Four images, a recording of them, and the samples."""
    completions = {}
    for name, texts, spot in (
        ("1.png", DEFECT, (60, 40)),
        ("2.png", GOOD, None),
        ("3.png", ("I cannot say.", ""), None),
        ("4.png", GOOD, None),
    ):
        completions[recordings.draw(tmp_path / name, spot).as_posix()] = texts
    recordings.record(tmp_path / "recorded.jsonl", completions)
    return tmp_path


def samples_of(folder):
    return [recordings.sample(path) for path in sorted(folder.glob("*.png"))]


def replayed(folder, **options):
    return Inspector(ReplayEngine(folder / "recorded.jsonl"), masks="box", **options)


def test_a_run_end_to_end(folder):
    seen = []
    results = replayed(folder, batch=3).run(
        samples_of(folder), folder / "out" / "i.jsonl", lambda done, one: seen.append((done, one))
    )
    assert [one.verdict for one in results] == ["defect", "good", "unsure", "good"]
    assert results[0].boxes == (BOX,)
    assert [mask.size_wh for mask in results[0].masks] == [recordings.SIZE_WH]
    assert "dark stain" in results[0].reason
    assert results[1].boxes == () and results[1].masks == ()
    assert results[2].masks is None and results[2].counts["unparseable"] >= 1
    assert all(one.score is None for one in results)
    assert records.read(folder / "out" / "i.jsonl")[1] == results
    assert seen == list(enumerate(results, start=1))


def test_the_function_form_inspects_one_image(folder):
    inspection = replayed(folder)(
        folder / "1.png", knowledge="Plates are even.", references=[folder / "2.png"]
    )
    assert (inspection.sample_id, inspection.verdict) == ((folder / "1.png").as_posix(), "defect")


def test_what_is_done_is_not_asked_again(folder):
    out = folder / "i.jsonl"
    first = replayed(folder).run(samples_of(folder)[:2], out)
    recordings.record(
        folder / "rest.jsonl", {(folder / name).as_posix(): GOOD for name in ("3.png", "4.png")}
    )
    rest = Inspector(
        ReplayEngine(folder / "rest.jsonl"), masks="box", batch=2
    )  # it could not answer for the first two
    assert rest.run(samples_of(folder), out)[:2] == first
    assert [one.error for one in records.read(out)[1]] == [None] * 4


def test_other_knowledge_is_not_resumed(folder):
    out = folder / "i.jsonl"
    replayed(folder).run(samples_of(folder), out, context=digest("even"))
    with pytest.raises(InputError, match="given was"):
        replayed(folder).run(samples_of(folder), out, context=digest("rough"))
    assert digest("") == "" and digest("a") != digest("", [Path("a")])


def digest(knowledge, references=()):
    """What the samples of a run share, as its fingerprint has it."""
    return samples_of_images(["part.png"], references, knowledge)[1]


def test_samples_of_images_share_references_and_knowledge():
    samples, _ = samples_of_images([Path("a/1.png"), "2.png"], ["good.png"], "Plates are even.")
    assert [sample.id for sample in samples] == ["a/1.png", "2.png"]
    assert {(sample.references, sample.knowledge) for sample in samples} == {
        ((Path("good.png"),), "Plates are even.")
    }


def test_an_image_that_changed_under_its_name_is_not_passed_off_as_inspected(folder):
    out = folder / "i.jsonl"
    first = replayed(folder).run(samples_of(folder), out)
    assert replayed(folder).run(samples_of(folder), out) == first  # control: nothing changed
    changed = samples_of(folder)[1].image
    recordings.draw(changed, (20, 20))
    with pytest.raises(InputError, match=f"other images under these names: '{changed.as_posix()}'"):
        replayed(folder).run(samples_of(folder), out)


class Overwriting(ReplayEngine):
    """Replays while a camera writes the next picture under the same name."""

    def complete(self, prompts, images, sampling=None):
        for path in images:
            recordings.draw(path, (20, 20))
        return super().complete(prompts, images)


def test_the_digest_is_that_of_the_picture_that_was_inspected(folder):
    sample = samples_of(folder)[0]
    before = hashlib.sha256(sample.image.read_bytes()).hexdigest()
    (one,) = Inspector(Overwriting(folder / "recorded.jsonl"), masks="box").inspect([sample])
    assert one.image_sha256 == before
    assert (
        hashlib.sha256(sample.image.read_bytes()).hexdigest() != before
    )  # control: the file is another one by now


@pytest.mark.parametrize(
    ("verdict", "grounding", "expected"),
    [
        ("B", "[]", "unsure"),
        ("The metal shows a deep scratch on the left.\nB", "[]", "unsure"),
        ("The metal shows a deep scratch on the left. Answer: B", "[]", "unsure"),
        ("<answer>B</answer> Wait, there is a scratch on the left.", "[]", "unsure"),
        (
            "<think>ok</think><answer>B</answer> Wait, there is a crack; the answer is A.",
            "<think>ok</think><answer>[]</answer>",
            "unsure",
        ),
        ("B", "There is a scratch on the left side of the part, so I would mark it: []", "unsure"),
    ],
)
def test_text_around_the_answer_that_finds_a_defect_is_never_good(verdict, grounding, expected):
    assert (
        decide(
            answers.parse(verdict, prompts.VERDICT_OPTIONS),
            answers.parse(grounding, (), recordings.FRAME),
            False,
            recordings.SIZE_WH,
        )[0]
        == expected
    )


def test_failures_become_records_and_neighbours_are_inspected(folder):
    (folder / "2.png").write_bytes(b"no image")
    recordings.draw(folder / "5.png")  # its completions were never recorded
    results = replayed(folder, batch=8).run(samples_of(folder), folder / "i.jsonl")
    assert [one.verdict for one in results] == ["defect", "unsure", "unsure", "good", "unsure"]
    assert [one.error is not None for one in results] == [False, True, False, False, True]
    assert "2.png" in results[1].error
    assert results[1].boxes is None


class Broken:
    """An engine that fails as it is told."""

    name = "broken"

    def __init__(self, error):
        self.error = error

    def fingerprint(self, sampling):
        return recordings.FINGERPRINT

    def complete(self, prompts, images, sampling):
        raise self.error


@pytest.mark.parametrize(
    ("error", "recorded"),
    [
        (RuntimeError("out of memory"), True),
        (MemoryError(), True),
        (OSError("gone"), True),
        (InputError("too long"), True),
        (SetupError("no weights"), False),  # nothing could be inspected: stop
        (KeyError("bug"), True),
        (ZeroDivisionError("window"), True),
        (AssertionError(), True),
        (KeyboardInterrupt(), False),
    ],
)
def test_which_failures_are_recorded(folder, error, recorded):
    inspector = Inspector(Broken(error), masks="box")
    if recorded:
        results = inspector.run(samples_of(folder)[:2], folder / "i.jsonl")
        assert {one.verdict for one in results} == {"unsure"} and all(one.error for one in results)
        kind = "" if isinstance(error, InputError) else type(error).__name__
        assert all(one.error.startswith(kind) for one in results)
        assert [one.counts for one in results] == [{f"unexpected_{kind}": 1} if kind else {}] * 2
    else:
        with pytest.raises(type(error)):
            inspector.run(samples_of(folder), folder / "i.jsonl")


class Odd(ReplayEngine):
    """Replays, and fails in its own way at the samples that it is told, by their number."""

    def __init__(self, path, errors):
        super().__init__(path)
        self.errors = errors

    def complete(self, prompts, images, sampling=None):
        for prompt in prompts:
            if error := self.errors.get(int(Path(prompt.sample_id).stem)):
                raise error
        return super().complete(prompts, images)


@pytest.mark.parametrize(
    ("errors", "batch", "stops"),
    [
        ({0: KeyError(), 1: KeyError(), 2: KeyError()}, 4, True),
        ({0: KeyError(), 1: KeyError(), 2: KeyError()}, 1, True),  # over batches
        ({0: KeyError(), 1: TypeError(), 2: KeyError()}, 4, False),  # not alike
        ({1: KeyError(), 2: KeyError(), 3: KeyError()}, 4, False),  # the first one is fine
        (dict.fromkeys(range(5), InputError("no")), 4, False),  # what an input explains
    ],
)
def test_only_a_broken_model_stops_a_run(tmp_path, errors, batch, stops):
    samples = [recordings.sample(recordings.draw(tmp_path / f"{number}.png")) for number in range(5)]
    recorded = recordings.record(tmp_path / "r.jsonl", {sample.id: GOOD for sample in samples})
    inspector = Inspector(Odd(recorded, errors), masks="box", batch=batch)
    if stops:
        with pytest.raises(SetupError, match=r"the first 3 samples all failed in one way \(KeyError"):
            inspector.run(samples, tmp_path / "i.jsonl")
        return
    results = inspector.run(samples, tmp_path / "i.jsonl")
    assert [one.error is not None for one in results] == [number in errors for number in range(5)]


def test_a_resumed_run_takes_the_threads_of_the_one_before(tmp_path, monkeypatch):
    """Sums in another order end in other bits, so the number of threads is part of the fingerprint."""
    monkeypatch.setattr("anomalyr1.engines.local.SMALL", 0)  # else a single thread computes
    import torch

    from anomalyr1.engines.local import LocalEngine
    from anomalyr1.policy.load import load_policy

    engine = LocalEngine(load_policy(str(tiny.folder_of())))
    inspector = Inspector(engine, masks="box", sampling=Sampling(max_new_tokens=2), batch=1)
    samples = [recordings.sample(recordings.draw(tmp_path / f"{number}.png")) for number in range(2)]
    torch.set_num_threads(2)
    inspector.run(samples[:1], tmp_path / "i.jsonl")
    torch.set_num_threads(1)
    with pytest.raises(InputError, match="'threads': '2'"):  # the control: as it is, it is another run
        records.Writer(tmp_path / "i.jsonl", inspector.fingerprint())
    inspector.run(samples, tmp_path / "i.jsonl")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    for hostile in ("0", "-1", "x", "0001", "9999", "٣"):
        text = (tmp_path / "i.jsonl").read_text().replace('"threads": "2"', f'"threads": "{hostile}"', 1)
        (tmp_path / "hostile.jsonl").write_text(text)
        with pytest.raises(InputError, match="made by another run"):
            inspector.run(samples, tmp_path / "hostile.jsonl")
        assert torch.get_num_threads() == 1


def test_sam2_is_part_of_the_fingerprint(tmp_path):
    recorded = recordings.record(tmp_path / "r.jsonl", {})
    inspector = Inspector(ReplayEngine(recorded), masks="sam2")
    assert inspector.fingerprint().versions["sam2"] == "not known"
    inspector.sam2 = Sam2(types.SimpleNamespace(eval=lambda: None), None, "maker/sam2@0123")
    assert inspector.fingerprint().versions["sam2"] == "maker/sam2@0123"
    assert "sam2" not in Inspector(ReplayEngine(recorded), masks="box").fingerprint().versions


def test_real_images_run_to_a_page(tmp_path, shared, monkeypatch):
    """Grey, colour and template pairs, replayed with the true boxes."""
    monkeypatch.setattr(sys, "argv", ["anomalyr1", "inspect"])
    samples, completions = [], {}
    for name in ("magnetic_tile", "bsdata", "deeppcb"):
        rows = [
            json.loads(line)
            for line in (shared / "data" / name / "index.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for row in [row for row in rows if row["anomaly"]][:3] + [row for row in rows if not row["anomaly"]][
            :2
        ]:
            folder = shared / "data" / name
            path = folder / row["image"]
            samples.append(
                recordings.sample(path, references=[folder / row["template"]] if "template" in row else [])
            )
            frame = resize(open_image(path).rgb, recordings.FAMILY, recordings.FINGERPRINT.max_pixels)[1]
            labels = row.get("defects") or [row.get("defect") or ""] * len(row["boxes"])
            boxes = [
                Box(x1=x1, y1=y1, x2=x2, y2=y2, label=label)
                for (x1, y1, x2, y2), label in zip(row["boxes"], labels, strict=True)
            ]
            reasoning = "There is a defect." if boxes else "There is no defect."
            completions[samples[-1].id] = (
                answers.write(reasoning, "A" if boxes else "B"),
                answers.write(reasoning, boxes, frame),
            )
    recordings.record(tmp_path / "recorded.jsonl", completions)
    results = inspect_samples(
        Inspector(ReplayEngine(tmp_path / "recorded.jsonl")), samples, tmp_path / "out", "", as_json=False
    )
    assert [one.error for one in results] == [None] * len(samples)
    assert [one.verdict for one in results] == [
        "defect" if ">A<" in texts[0] else "good" for texts in completions.values()
    ]
    assert (tmp_path / "out" / "index.html").stat().st_size > 100_000


class Scored(ReplayEngine):
    """Replays, with a probability of a defect for each completion of the yes/no question, in turn."""

    def __init__(self, path, scores):
        super().__init__(path)
        self.scores = list(scores)

    def complete(self, prompts, images, sampling=None):
        spoken = super().complete(prompts, images)
        asked = [prompt.question.options for prompt in prompts]
        scores = [
            {"A": p, "B": 1 - p} if options and (p := self.scores.pop(0)) is not None else None
            for options in asked
        ]
        return [
            Completion(c.text, c.answer, c.frame, 0, 0, c.finish, own)
            for c, own in zip(spoken, scores, strict=True)
        ]


@pytest.mark.parametrize(
    ("texts", "p", "expected", "reason"),
    [
        (DEFECT, 0.97, "defect", "dark stain"),
        (GOOD, 0.03, "good", "even"),
        (DEFECT, 0.5, "defect", "dark stain"),
        (DEFECT, 0.31, "unsure", "the answer says defect, but the probability of a defect is 0.31"),
        (GOOD, 0.62, "unsure", "the answer says good, but the probability of a defect is 0.62"),
        (GOOD, None, "good", "even"),  # an engine without scores
    ],
)
def test_the_score_is_recorded_and_must_not_contradict_the_answer(tmp_path, texts, p, expected, reason):
    sample = recordings.sample(recordings.draw(tmp_path / "1.png"))
    path = recordings.record(tmp_path / "recorded.jsonl", {sample.id: texts})
    (one,) = Inspector(Scored(path, [p]), masks="box").inspect([sample])
    assert (one.verdict, one.score, one.score_from) == (expected, p, "" if p is None else REASONED)
    assert reason in one.reason and one.votes is None
    assert one.replies[0].option_scores == (None if p is None else {"A": p, "B": 1 - p})
    (again,) = Inspector(ReplayEngine(write_down(tmp_path / "again.jsonl", one)), masks="box").inspect(
        [sample]
    )
    assert again == one  # a replay keeps the scores


def write_down(path, *inspections):
    with records.Writer(path, recordings.FINGERPRINT) as writer:
        for one in inspections:
            writer.append(one)
    return path


def voted(tmp_path, samples, scores):
    """The inspection of one image by recorded samples of (verdict, grounding)."""
    sample = recordings.sample(recordings.draw(tmp_path / "1.png"))
    asked = prompts.inspection_questions(sample.id)
    replies = [
        Reply(question_id=question.id, completion=texts[kind], answer=Answer(status="unparseable"))
        for kind, question in enumerate(asked)
        for texts in samples
    ]
    path = write_down(
        tmp_path / "r.jsonl",
        Inspection(sample_id=sample.id, verdict="unsure", reason="recorded", replies=tuple(replies)),
    )
    inspector = Inspector(
        Scored(path, scores), masks="box", sampling=Sampling(temperature=1.0), votes=len(samples)
    )
    return inspector.inspect([sample])[0]


MOVED = (
    DEFECT[0],
    answers.write("The stain is in the center.", [Box(x1=64, y1=40, x2=84, y2=54)], recordings.FRAME),
)


def test_votes(tmp_path):
    one = voted(tmp_path, [DEFECT, MOVED, GOOD, DEFECT], [0.9, 0.8, 0.2, None])
    assert one.verdict == "defect" and one.boxes == (BOX,)  # of the sample most like the others
    assert one.votes.verdicts == {"defect": 3, "good": 1} and one.votes.agreement == 0.75
    assert one.votes.box_stability == pytest.approx(
        (1 + 2 * 16 / 24 + 3 * 0) / 6
    )  # pairs with GOOD's empty boxes count 0
    assert one.score == pytest.approx(1.9 / 3) and one.score_from == f"mean of 3 of 4 samples: {REASONED}"
    assert one.reason.startswith("3 of 4 samples say defect.\nA dark stain.")
    assert len(one.replies) == 8


@pytest.mark.parametrize(
    ("samples", "scores", "reason"),
    [
        ([DEFECT, GOOD], [0.9, 0.3], "of 2 samples too few agree on a verdict (1 defect, 1 good)"),
        ([DEFECT, GOOD, ("", "")], [0.9, 0.3, None], "(1 defect, 1 good, 1 unsure)"),
        (
            [GOOD, GOOD, DEFECT],
            [0.45, 0.48, 0.99],
            "the answer says good, but the probability of a defect is 0.64",
        ),
    ],
)
def test_votes_that_do_not_make_a_verdict(tmp_path, samples, scores, reason):
    one = voted(tmp_path, samples, scores)
    assert one.verdict == "unsure" and reason in one.reason


def test_samples_that_would_all_be_the_same_are_refused(folder):
    with pytest.raises(InputError, match="3 greedy completions are all the same"):
        replayed(folder, votes=3)
    with pytest.raises(InputError, match="2 fast scores are all the same"):
        replayed(folder, votes=2, sampling=Sampling(fast=True))
    with pytest.raises(InputError, match="votes or for fast"):
        Inspector.load("nano", votes=2, fast=True)
    with pytest.raises(InputError, match="at least 1"):
        replayed(folder, votes=0)
    several = replayed(folder, votes=3, sampling=Sampling(temperature=1.0)).fingerprint()
    assert several.sampling.endswith(", 3 samples") and several != replayed(folder).fingerprint()


def test_fast_has_a_score_and_no_boxes(tmp_path):
    sample = recordings.sample(recordings.draw(tmp_path / "1.png"))
    path = recordings.record(tmp_path / "r.jsonl", {sample.id: ("<think></think><answer>B</answer>", "")})
    (one,) = Inspector(Scored(path, [0.2]), masks="box", sampling=Sampling(fast=True)).inspect([sample])
    assert (one.verdict, one.score, one.score_from) == ("good", 0.2, FAST)
    assert one.boxes is None and one.masks is None and len(one.replies) == 1
    assert "Without reasoning" in one.reason


class CutOff(ReplayEngine):
    """Replays, and says that every completion was cut off at its limit."""

    def complete(self, prompts, images, sampling=None):
        return [
            Completion(c.text, c.answer, c.frame, 0, 0, "length") for c in super().complete(prompts, images)
        ]


def test_a_completion_that_was_cut_off_is_unsure(folder):
    results = Inspector(CutOff(folder / "recorded.jsonl"), masks="box").run(
        samples_of(folder), folder / "i.jsonl"
    )
    assert {one.verdict for one in results} == {"unsure"}
    assert results[0].counts["cut_off"] == 2


def swapped(inspector, first, second):
    """The inspections of two files before and after their contents are swapped."""
    before = [inspector(first), inspector(second)]
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    return before, [inspector(first), inspector(second)]


def what(inspection):
    return inspection.model_dump(exclude={"sample_id", "replies"}), [
        reply.completion for reply in inspection.replies
    ]


def test_swapping_two_images_swaps_what_a_model_says(tmp_path):
    import torch

    from anomalyr1.engines.local import LocalEngine
    from anomalyr1.policy.load import load_policy

    torch.set_num_threads(1)
    engine = LocalEngine(load_policy(str(tiny.build(tmp_path / "model"))))
    inspector = Inspector(engine, masks="box", sampling=Sampling(max_new_tokens=12))
    parts = recordings.draw(tmp_path / "1.png"), tmp_path / "2.png"
    Image.radial_gradient("L").resize(recordings.SIZE_WH).save(
        parts[1]
    )  # random weights tell only large differences
    before, after = swapped(inspector, *parts)
    assert [what(one) for one in after] == [what(one) for one in reversed(before)]
    assert what(before[0])[1] != what(before[1])[1]
    assert {one.counts["cut_off"] for one in before} == {2} and {one.verdict for one in before} == {"unsure"}


@pytest.mark.skipif(not NANO_FOLDER.is_dir(), reason="needs the bundled nano policy")
def test_swapping_two_images_swaps_verdicts_and_boxes_of_nano(tmp_path):
    inspector = Inspector.load("nano")
    differ = 0
    for seed, (category, defect) in enumerate(
        (("metal plate", "scratch"), ("washer", "crack"), ("capsule", "stain")), start=910_000
    ):
        paths = tmp_path / f"{seed}a.png", tmp_path / f"{seed}b.png"
        for path, kind in zip(paths, (defect, None), strict=True):
            Image.fromarray(procedural.draw(seed, category, kind).image).save(path)
        before, after = swapped(inspector, *paths)
        assert [what(one) for one in after] == [what(one) for one in reversed(before)]
        differ += (before[0].verdict, before[0].boxes) != (before[1].verdict, before[1].boxes)
    assert differ >= 2


def test_all_missing_files_are_listed_before_anything_starts(folder):
    samples = [
        recordings.sample(folder / name, references=(folder / "ref.png",))
        for name in ("1.png", "gone.png", "lost.png")
    ]
    with pytest.raises(InputError, match=r"3 of 4.*ref\.png.*gone\.png.*lost\.png"):
        replayed(folder).run(samples, folder / "i.jsonl")
    assert not (folder / "i.jsonl").exists()
    with pytest.raises(InputError, match="missing"):
        replayed(folder)(folder / "gone.png")


def test_a_batch_of_too_many_pixels_is_asked_one_by_one(folder, monkeypatch):
    """And comes to the same; the control is how many images the engine is given."""
    batches = []

    class Watched(ReplayEngine):
        def complete(self, asked, images, sampling=None):
            batches.append(len(images))
            return super().complete(asked, images, sampling)

    def run():
        inspector = Inspector(Watched(folder / "recorded.jsonl"), masks="box")
        return inspector.run(samples_of(folder), folder / f"{len(batches)}.jsonl")

    together = run()
    w, h = recordings.SIZE_WH
    monkeypatch.setattr(inspector_module, "BATCH_PIXELS", 4 * w * h - 1)
    assert run() == together
    assert batches == [4, 1, 1, 1, 1]


def test_an_image_that_is_too_long_is_not_hashed(folder):
    """300 GB of nothing took minutes; a resumed run leaves it alone, too."""
    path = folder / "5.png"
    with path.open("wb") as file:
        file.truncate(300 * 2**30)
    for _ in range(2):
        results = replayed(folder).run(samples_of(folder), folder / "i.jsonl")
        assert "at most 33,554,432 bytes" in results[4].error
        assert results[4].image_sha256 == ""
    path.unlink()


def test_twenty_boxes_get_a_mask_and_the_others_are_counted(tmp_path):
    path = recordings.draw(tmp_path / "1.png")
    boxes = [Box(x1=2 * n, y1=10, x2=2 * n + 9, y2=40, label="stain") for n in range(25)]
    grounding = answers.write("The stains are in the center.", boxes, recordings.FRAME)
    recordings.record(tmp_path / "recorded.jsonl", {path.as_posix(): (DEFECT[0], grounding)})
    (result,) = replayed(tmp_path).run([recordings.sample(path)], tmp_path / "i.jsonl")
    assert len(result.boxes) == 25
    assert len(result.masks) == 20
    assert result.counts["boxes_without_mask"] == 5


def test_ids_must_be_unique(folder):
    with pytest.raises(InputError, match=r"unique.*1\.png"):
        replayed(folder).run(samples_of(folder)[:1] * 2, folder / "i.jsonl")


def run_all(folder, out):
    """What `anomalyr1 inspect` does, with recorded completions: inspections, overlays and page."""
    samples = [recordings.sample(path) for path in sorted(folder.glob("*.png"))]
    inspect_samples(Inspector(ReplayEngine(folder / "recorded.jsonl")), samples, out, "", as_json=False)


def start(folder, out):
    """The same in a process of its own, once it is ready to begin."""
    script = (
        "import importlib.util, sys; from pathlib import Path\n"
        "spec = importlib.util.spec_from_file_location('test_inspector', sys.argv[1])\n"
        "test_inspector = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(test_inspector)\n"
        "print('ready', flush=True)\n"
        "test_inspector.run_all(*map(Path, sys.argv[2:]))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", script, __file__, folder, out],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(sys.platform == "win32", reason="kills the POSIX way")
def test_killed_at_20_random_points_nothing_is_lost_or_doubled(tmp_path, monkeypatch):
    folder = tmp_path / "parts"
    names = [
        recordings.draw(folder / f"{i:02}.png", (20 + 3 * i, 40) if i % 3 else None).as_posix()
        for i in range(12)
    ]
    recordings.record(
        folder / "recorded.jsonl", {name: DEFECT if i % 3 else GOOD for i, name in enumerate(names)}
    )
    process = start(folder, tmp_path / "warm")
    began = time.monotonic()
    process.communicate()
    seconds = time.monotonic() - began
    assert process.returncode == 0
    monkeypatch.setattr(sys, "argv", ["anomalyr1", "inspect"])
    run_all(folder, tmp_path / "whole")
    rng, cut = random.Random(7), 0
    for point in range(20):
        out = tmp_path / f"killed{point}"
        process = start(folder, out)
        time.sleep(rng.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        file = out / "inspections.jsonl"
        before = records.read(file)[1] if file.exists() and file.stat().st_size else []
        assert [one.sample_id for one in before] == names[: len(before)]
        cut += len(before) < len(names)
        run_all(folder, out)
        left = {name: data for name, data in contents(out).items() if not name.name.startswith(".")}
        assert left == contents(tmp_path / "whole")
    assert cut >= 3, "the kills came too late to prove anything"


# The threshold.


class ScoredById:
    """A replay whose verdict answers have a score for option A."""

    name = "replay"

    def __init__(self, path, scores):
        self._replay, self._scores = ReplayEngine(path), scores

    def fingerprint(self, sampling):
        return self._replay.fingerprint(sampling)

    def complete(self, asked, images, sampling):
        return [
            replace(
                one,
                option_scores={"A": (score := self._scores[prompt.sample_id]), "B": 1 - score}
                if prompt.question.options
                else None,
            )
            for prompt, one in zip(asked, self._replay.complete(asked, images, sampling), strict=True)
        ]


def test_a_threshold_decides_and_is_part_of_the_run(tmp_path):
    paths = [recordings.draw(tmp_path / f"{name}.png") for name in ("low", "between", "high")]
    samples = [recordings.sample(path) for path in paths]
    recorded = recordings.record(tmp_path / "recorded.jsonl", {sample.id: GOOD for sample in samples})
    scores = dict(zip((sample.id for sample in samples), (0.01, 0.1, 0.4), strict=True))
    plain = Inspector(ScoredById(recorded, scores), masks="box")
    run = plain.fingerprint()
    found = [one.verdict for one in plain.run(samples, tmp_path / "plain" / "inspections.jsonl")]
    assert found == ["good", "good", "good"]  # the control: by the answers alone
    labels = calibration.LabelledScores(
        np.array([0.01, 0.02, 0.3, 0.5]), np.array([False, False, True, True]), {}
    )
    threshold = calibration.calibrate(labels, run, 50, 1).model_copy(update={"low": 0.05, "high": 0.2})
    judged = Inspector(ScoredById(recorded, scores), masks="box", threshold=threshold)
    results = judged.run(samples, tmp_path / "judged" / "inspections.jsonl")
    assert [one.verdict for one in results] == ["good", "unsure", "defect"]
    assert "lies between the bounds 0.05 and 0.2" in results[1].reason
    assert "although the answer says good" in results[2].reason
    with pytest.raises(InputError, match="threshold was"):  # another threshold is another run
        Inspector(ScoredById(recorded, scores), masks="box").run(
            samples, tmp_path / "judged" / "inspections.jsonl"
        )
    kept = run.model_copy(update={"revision": "sha256:1", "model": "taught/final"})
    moved = kept.model_copy(update={"model": "/line/taught/final"})
    threshold.model_copy(update={"run": kept}).require_same(moved)  # the same weights in another folder
    with pytest.raises(InputError, match=r"model was 'taught/final' .* revision was 'sha256:1'"):
        threshold.model_copy(update={"run": kept}).require_same(
            moved.model_copy(update={"revision": "sha256:2"})
        )
    foreign = threshold.model_copy(update={"run": run.model_copy(update={"model": "other"})})
    with pytest.raises(InputError, match="the threshold was made for other scores: model was 'other'"):
        Inspector(ScoredById(recorded, scores), masks="box", threshold=foreign).run(
            samples, tmp_path / "new" / "inspections.jsonl"
        )
    assert not (tmp_path / "new").exists()


def test_an_item_that_the_engine_failed_at_is_unsure_and_the_others_go_on(tmp_path):
    samples = [recordings.sample(recordings.draw(tmp_path / f"{name}.png")) for name in ("a", "b")]
    recorded = recordings.record(tmp_path / "recorded.jsonl", {sample.id: GOOD for sample in samples})

    class Failing(ScoredById):
        def complete(self, asked, images, sampling):
            completions = super().complete(asked, images, sampling)
            return [replace(completions[0], text="", error="deadline: too late"), *completions[1:]]

    first, second = Inspector(Failing(recorded, {sample.id: 0.1 for sample in samples}), masks="box").inspect(
        samples
    )
    assert (first.verdict, first.error) == ("unsure", "deadline: too late")
    assert second.verdict == "good"
