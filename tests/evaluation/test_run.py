"""`anomalyr1 evaluate` from a file and with a replayed model, provenance, and what is refused."""

import csv
import io
import json
import re

import pytest
import yaml
from PIL import Image

from anomalyr1 import answers, records
from anomalyr1.data import leaks, sources
from anomalyr1.data import splits as fewshot
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.evaluation import pairing, provenance, record, run, tables
from anomalyr1.evaluation.comparison import Comparison, compare
from anomalyr1.files import sha256_of_file
from anomalyr1.inspection import verdicts
from anomalyr1.inspection.inspector import VOTING, Inspector
from anomalyr1.types import InputError, Inspection, Question, Reply
from support import evaluations


@pytest.fixture
def data(tmp_path):
    return evaluations.make(tmp_path / "mmad")


@pytest.fixture
def recorded(data, tmp_path):
    def choose(sample, question):
        return evaluations.says(question.answer if sample.dataset == "VisA" else "B")

    return evaluations.inspect(data, tmp_path / "inspections.jsonl", choose)


def test_a_file_is_evaluated(call, data, recorded, tmp_path):
    code, out, _ = call("evaluate", recorded, "--data", data, "--out", tmp_path / "out")
    assert code == 0
    assert "24 questions about 12 images: 24 strict" in out
    assert "Scoreboard, official" in out
    found = record.read_evaluation(tmp_path / "out")
    assert found.mmad.boards["strict"].cells["VisA"]["Average"].value == 100
    # GoodsAD: "B" is right for its 2 good of 6 images, and for the 3 of 6 object questions whose gold is B.
    goods = found.mmad.boards["strict"].cells["GoodsAD"]
    assert (goods["Anomaly Detection"].value, goods["Object Analysis"].value) == (50, 50)
    assert found.mmad.boards["strict"].average.value == found.mmad.boards["official"].average.value == 75
    assert found.localisation is None  # nothing asked for boxes
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out" / "scoreboard.csv").read_text())))
    (average,) = (
        one
        for one in lines
        if (one["reading"], one["dataset"], one["column"]) == ("strict", "Average", "Average")
    )
    assert average["percent"] == "75.0"
    assert float(average["low"]) < 75 < float(average["high"])
    assert "Scoreboard, strict" in (tmp_path / "out" / "evaluation.md").read_text()


def test_failed_images_count_as_wrong_and_give_exit_code_2(call, data, tmp_path):
    path = evaluations.inspect(
        data,
        tmp_path / "i.jsonl",
        lambda s, q: None if s.id.endswith("001.png") else evaluations.says(q.answer),
    )
    code, out, _ = call("evaluate", path, "--data", data, "--out", tmp_path / "out")
    assert code == 2
    assert "failed: 1 images" in out
    found = record.read_evaluation(tmp_path / "out").mmad
    assert found.statuses == {"strict": 22, "no reply": 2}
    assert found.boards["strict"].average.value < 100
    assert found.boards["official"].average.value == 100


def test_a_part_is_refused_unless_asked_for(call, data, recorded, tmp_path):
    lines = recorded.read_text().splitlines()
    recorded.write_text("\n".join(lines[:-3]) + "\n")
    code, _, err = call("evaluate", recorded, "--data", data, "--out", tmp_path / "out")
    assert code == 1
    assert "3 of 12 samples have no inspection" in err
    code, out, _ = call("evaluate", recorded, "--data", data, "--out", tmp_path / "out", "--partial")
    assert code == 0
    assert "left out: 3 samples without an inspection" in out


def test_other_questions_are_refused(call, data, recorded, tmp_path):
    code, _, err = call(
        "evaluate", recorded, "--data", data, "-o", "option_order=shuffled", "--out", tmp_path / "out"
    )
    assert code == 1
    assert "other questions" in err


def test_shots_and_knowledge_are_given_and_a_file_without_them_is_refused(call, data, recorded, tmp_path):
    manifest = tmp_path / "mmad" / "mmad.json"
    entries = json.loads(manifest.read_text())
    shown, other, *_ = entries
    entries[shown]["random_templates"] = [other]
    manifest.write_text(json.dumps(entries))
    (tmp_path / "mmad" / "domain_knowledge.json").write_text('{"VisA": {"part": {"good": "It is grey."}}}')
    more = ("--shots", 1, "--knowledge")
    code, out, _ = call(
        "evaluate", "mmad", "--data", data, *more, "--engine", f"replay:{recorded}", "--out", tmp_path / "out"
    )
    assert code == 0
    assert "shots=1 template=random knowledge=True" in out
    assert "overlap: reference, 1 evaluated samples" in out
    code, _, err = call("evaluate", recorded, "--data", data, *more, "--out", tmp_path / "other")
    assert (code, "other questions, knowledge or reference images" in err) == (1, True)
    code, _, err = call(
        "evaluate", recorded, "--data", data, "--template", "similar", "--out", tmp_path / "other"
    )
    assert (code, "--shots" in err) == (1, True)


def test_what_is_a_file_has_its_own_model(call, data, recorded, tmp_path):
    code, _, err = call("evaluate", recorded, "--data", data, "--out", tmp_path / "out", "-m", "some/model")
    assert (code, "its own model" in err) == (1, True)
    code, _, err = call("evaluate", "mmad", "--data", "mvtec:somewhere", "--out", tmp_path / "out")
    assert (code, "evaluate model" in err) == (1, True)


def test_a_replayed_model_is_asked_its_own_questions_and_resumed(call, data, recorded, tmp_path):
    arguments = (
        "evaluate",
        "mmad",
        "--data",
        data,
        "--engine",
        f"replay:{recorded}",
        "--out",
        tmp_path / "out",
    )
    code, out, err = call(*arguments)
    assert (code, "12/12" in err) == (0, True)
    assert "24 questions about 12 images: 24 strict" in out
    path = tmp_path / "out" / "inspections.jsonl"
    fingerprint, inspections = records.read(path)
    assert fingerprint.given.startswith("data@")
    by_id = {one.sample_id: one for one in inspections}
    assert by_id["VisA/part/test/broken/002.png"].verdict == "defect"
    assert by_id["GoodsAD/part/test/broken/001.png"].verdict == "good"  # it answered B
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]))  # killed after four images
    assert call(*arguments)[1] == out
    assert path.read_bytes() == b"".join(lines)
    code, _, err = call(*arguments, "-o", "option_order=shuffled")
    assert (code, "made with other questions" in err) == (1, True)


QUESTION = Question(id="q", kind="anomaly detection", text="Any defect?", options=("No.", "Yes."), answer="B")


@pytest.mark.parametrize(
    ("letter", "verdict"),
    [
        ("B", "defect"),  # the option that says yes, wherever it stands
        ("A", "good"),
        (None, "unsure"),
    ],
)
def test_the_verdict_is_that_of_the_yes_no_question(letter, verdict):
    text = evaluations.says(letter) if letter else "what?"
    reply = Reply(
        question_id="q",
        completion=text,
        answer=answers.parse(text, QUESTION.options),
        option_scores={"A": 0.3, "B": 0.7},
    )
    found = verdicts.of_questions([QUESTION], [reply])
    assert (found.verdict, found.score) == (verdict, 0.7)
    boxes = QUESTION.model_copy(update={"kind": "grounding", "options": (), "answer": None})
    assert verdicts.of_questions([boxes], [reply]).verdict == "unsure"


def test_own_questions_are_not_voted_on(recorded, tmp_path):
    inspector = Inspector(ReplayEngine(recorded), votes=3, sampling=VOTING)
    with pytest.raises(InputError, match="asked once"):
        inspector.run([], tmp_path / "inspections.jsonl", own_questions=True)


def test_a_split_is_evaluated_on_its_test_side_and_says_so(call, data, tmp_path):
    manifest = tmp_path / "split.json"
    assert call("data", "split", data, "--shots", 1, "--out", manifest, "--allow-leaks")[0] == 0
    path = evaluations.inspect(
        f"split:{manifest}", tmp_path / "i.jsonl", lambda s, q: evaluations.says(q.answer)
    )
    code, out, _ = call("evaluate", path, "--data", f"split:{manifest}", "--out", tmp_path / "out")
    assert code == 0
    assert "test side of a split: few-shot (1 images of each kind a class to train on), seed 0" in out
    assert record.read_evaluation(tmp_path / "out").source.samples == len(fewshot.read(manifest).test)


def write_run(folder, samples, specs=("folder:parts",)):
    """A run folder as training leaves it, without weights; its model is `final`."""
    (folder / "final").mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"data": [{"spec": spec} for spec in specs]}))
    lines = [trace.to_json() + "\n" for trace in leaks.traces(samples)]
    (folder / "learned.jsonl").write_text("".join(lines))
    return str(folder / "final")


def test_overlap_with_the_training_data_of_a_run_folder_is_flagged(data, tmp_path):
    loaded = sources.load_source(data, {}, tmp_path)
    found = provenance.examine(write_run(tmp_path / "run", loaded.samples, [data]), loaded)
    assert found.leak_free is False
    assert found.trained_on == (data,)
    assert found.overlaps["exact"] == 12
    other = evaluations.make(tmp_path / "other", 2)
    for number, one in enumerate(sorted((tmp_path / "other").rglob("*.png"))):
        draw_noise(one, number)
    others = sources.load_source(other, {}, tmp_path).samples
    found = provenance.examine(write_run(tmp_path / "run", others), loaded)
    assert (found.leak_free, found.overlaps) == (True, {})


def test_drawn_training_data_is_told_by_its_pictures(tmp_path):
    learned = sources.load_source("drawn:seen?n=3&seed=3", {}, tmp_path / "data").samples
    model = write_run(tmp_path / "run", learned)
    loaded = sources.load_source("drawn:seen?n=2&seed=3", {}, tmp_path / "drawn")
    found = provenance.examine(model, loaded)
    assert (found.leak_free, found.overlaps["exact"]) == (False, 2)
    other = sources.load_source("drawn:seen?n=2&seed=4", {}, tmp_path / "other")
    assert provenance.examine(model, other).leak_free is True


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("learned.jsonl", "{}\n"),
        ("learned.jsonl", "[" * 3000),
        ("learned.jsonl", '{"id": "x", "dataset": "", "sha256": "", "perceptual": "00"}'),
        ("run.json", "[1]"),
        ("run.json", '{"data": [{"spec": 7}]}'),
        ("run.json", '{"seed": ' + "9" * 5000 + "}"),
    ],
)
def test_a_run_folder_that_cannot_be_read_is_not_called_leak_free(data, tmp_path, name, text):
    loaded = sources.load_source(data, {}, tmp_path)
    model = write_run(tmp_path / "run", loaded.samples)
    (tmp_path / "run" / name).write_text(text)
    found = provenance.examine(model, loaded)
    assert found.leak_free is None and "cannot be ruled out" in found.statement


def test_no_data_that_a_model_folder_names_is_loaded(data, tmp_path, monkeypatch):
    """A recipe in a model folder once chose what is loaded: devices, other folders, a million drawn parts."""
    loaded = sources.load_source(data, {}, tmp_path)
    specs = ["coco:/dev/zero", "drawn:seen?n=1000000"]
    model = write_run(tmp_path / "run", loaded.samples, specs)
    for folder in (tmp_path / "run", tmp_path / "run" / "final"):
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"data": specs}))
    monkeypatch.setattr(sources, "load_source", None)
    found = provenance.examine(model, loaded)
    assert found.trained_on == tuple(specs) and found.overlaps["exact"] == 12


def draw_noise(path, seed):
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((256, 256)).save(path)


def test_a_model_without_a_run_folder_is_not_called_leak_free(data, tmp_path):
    loaded = sources.load_source(data, {}, tmp_path)
    found = provenance.examine("some/model", loaded)
    assert found.leak_free is None
    assert "cannot be ruled out" in found.statement
    (tmp_path / "recipe.yaml").write_text("data: [drawn:seen]")  # of a run before traces were kept
    assert provenance.examine(str(tmp_path), loaded).leak_free is None


def test_an_image_shown_as_good_that_is_evaluated_too_is_flagged(data, tmp_path):
    loaded = sources.load_source(data, {}, tmp_path)
    first, second, *rest = loaded.samples
    shown = first.model_copy(update={"references": (second.image,)})
    found = provenance.examine("some/model", loaded._replace(samples=[shown, second, *rest]))
    assert found.overlaps == {"reference": 1}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "  @x"])
def test_no_cell_is_a_formula(text):
    safe = tables.formula_safe(text)
    assert safe.startswith("'") and safe.replace("'", "") == text
    assert tables.formula_safe(f"x{text}".replace("\r", "")) == f"x{text}".replace("\r", "")
    assert tables.formula_safe(f"x;{text}").startswith(f"x;'{text[0]}")  # where semicolons split


def test_names_cannot_format_the_markdown(call, data, recorded, tmp_path):
    call("evaluate", recorded, "--data", data, "--out", tmp_path / "out")
    path = tmp_path / "out" / "evaluation.json"
    written = json.loads(path.read_text())
    written["run"]["model"] = "[x](http://x)\n# head | <img src=x>\x1b"
    path.write_text(json.dumps(written))
    text = tables.markdown(record.read_evaluation(tmp_path / "out"))
    assert "\n# head" not in text
    assert "<img" not in text.replace("\\<img", "")
    assert "\x1b" not in text


@pytest.mark.parametrize(
    "link", ["http://x.test", "HTTPS://x.test", "ftp://x.test", "WWW.x.test", "@name", "a@x.test", "#12"]
)
def test_names_become_no_links_on_github(link):
    text = tables.in_markdown("Title", [f"a {link} b"], [tables.Table("Table", (link,), [(link,)])])
    assert not AUTOLINKS.search(text.replace("\\", ""))
    assert AUTOLINKS.search(f"a {link} b")  # control
    assert text.replace("<!-- -->", "").replace("\\", "").count(link) == 3  # that is all that was added


AUTOLINKS = re.compile(r"(https?|ftp)://\w|www\.\w|@\w|#\d", re.IGNORECASE)
"""What GitHub makes links of: autolinks of its Markdown, mentions, issues."""


def test_the_scoreboard_is_a_table_of_quoted_texts(call, data, recorded, tmp_path):
    call("evaluate", recorded, "--data", data, "--out", tmp_path / "out")
    boards = record.read_evaluation(tmp_path / "out").mmad
    board = boards.boards["strict"]
    cells = next(iter(board.cells.values()))
    renamed = board.model_copy(update={"cells": {"evil;=cmd|' /C calc'!A0;": cells}})
    text = tables.scoreboard_csv(boards.model_copy(update={"boards": {"strict": renamed}}))
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["reading", "dataset", "column", "percent", "low", "high"]
    assert rows[1][:2] == ["strict", "evil;'=cmd|' /C calc'!A0;"] and float(rows[1][3]) >= 0
    split = [cell for row in csv.reader(io.StringIO(text), delimiter=";") for cell in row]
    assert not any(cell.startswith("=") for cell in split)


def test_an_evaluation_is_read_back_and_anything_else_refused(call, data, recorded, tmp_path):
    call("evaluate", recorded, "--data", data, "--out", tmp_path / "out")
    again, pairs = run.load_again(tmp_path / "out")
    assert again == record.read_evaluation(tmp_path / "out")
    assert len(pairs) == 12
    evaluations.make(tmp_path / "mmad", 10)
    with pytest.raises(InputError, match="asks other questions"):
        run.load_again(tmp_path / "out")
    with pytest.raises(InputError, match="anomalyr1 evaluate"):
        record.read_evaluation(tmp_path)
    (tmp_path / "out" / "evaluation.json").write_text("{}")
    with pytest.raises(InputError, match="no evaluation of this version"):
        record.read_evaluation(tmp_path / "out")


# From Python.


def test_a_spec_is_evaluated_in_one_call_and_answered_in_steps(data, recorded, tmp_path):
    steps = []
    inspector = Inspector(ReplayEngine(recorded))
    asked = run.evaluate(
        inspector, data, out=tmp_path / "asked", progress=lambda done, total, _: steps.append((done, total))
    )
    assert steps == [(done, 12) for done in range(1, 13)]
    assert asked.mmad.boards["strict"].average.value == 75
    assert record.read_evaluation(tmp_path / "asked") == asked
    path = tmp_path / "asked" / "inspections.jsonl"
    filed = run.evaluate_file(path, data, out=tmp_path / "filed")
    assert (filed.mmad, filed.provenance) == (asked.mmad, asked.provenance)
    named = run.evaluate("nano", data, engine=f"replay:{recorded}", out=tmp_path / "named")
    assert named.mmad == asked.mmad
    with pytest.raises(InputError, match="an inspector has its own model"):
        run.evaluate(inspector, data, fast=True, out=tmp_path / "fast")


def test_samples_of_a_program_are_evaluated_and_loaded_again(data, recorded, tmp_path):
    samples = sources.load_source(data, {}, tmp_path).samples[:6]
    inspector = Inspector(ReplayEngine(recorded))
    evaluation = run.evaluate(inspector, samples, out=tmp_path / "out")
    assert (evaluation.source.spec, evaluation.source.samples) == ("samples.jsonl", 6)
    again, pairs = run.load_again(tmp_path / "out")
    assert again == evaluation
    assert [sample for sample, _ in pairs] == samples
    (tmp_path / "out" / "samples.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"samples '.*' cannot be read"):
        run.load_again(tmp_path / "out")
    asking_nothing = [sample.model_copy(update={"questions": ()}) for sample in samples]
    with pytest.raises(InputError, match="asks no question"):
        run.evaluate(inspector, asking_nothing, out=tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_other_samples_do_not_write_over_those_of_an_evaluation(data, recorded, tmp_path):
    samples = sources.load_source(data, {}, tmp_path).samples
    inspector = Inspector(ReplayEngine(recorded))
    run.evaluate(inspector, samples[:4], out=tmp_path / "out")
    kept = (tmp_path / "out" / "samples.jsonl").read_bytes()
    with pytest.raises(InputError, match="another"):
        run.evaluate(inspector, samples[4:6], out=tmp_path / "out")
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == kept
    assert len(run.load_again(tmp_path / "out")[1]) == 4


def test_two_folders_are_compared_in_one_call(data, recorded, tmp_path):
    evaluations.inspect(data, tmp_path / "right.jsonl", lambda s, q: evaluations.says(q.answer))
    for name in ("inspections", "right"):
        run.evaluate_file(tmp_path / f"{name}.jsonl", data, out=tmp_path / name)
    result = compare(tmp_path / "inspections", tmp_path / "right", out=tmp_path / "compared")
    assert (result.groups[0].paired.gained, result.groups[0].paired.lost) == (7, 0)
    written = (tmp_path / "compared" / "comparison.json").read_text()
    assert Comparison.from_json(written) == result


# From any folder, after a move, and before a model is loaded.


@pytest.fixture
def project(call, tmp_path, monkeypatch):
    """A folder with data, a split and two evaluations of its test side, made from within it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    evaluations.make(home / "mmad")
    for number, picture in enumerate(sorted(home.rglob("*.png"))):
        Image.new("RGB", (40, 30), (number * 20, 90, 120)).save(picture)  # no two of the same content
    assert call("data", "split", "mmad:mmad", "--shots", 1, "--out", "split.json", "--allow-leaks")[0] == 0
    for name, choose in (("all-b", lambda s, q: "B"), ("right", lambda s, q: q.answer)):
        path = evaluations.inspect(
            "split:split.json", home / f"{name}.jsonl", lambda s, q, pick=choose: evaluations.says(pick(s, q))
        )
        code, _, err = call("evaluate", path.name, "--data", "split:split.json", "--out", name)
        assert code == 0, err
    return home


def test_evaluations_are_opened_from_another_folder_and_after_a_move(call, project, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "mmad").mkdir()  # another folder of this name does not lead astray
    code, _, err = call("compare", "../home/all-b", "../home/right", "--out", "compared")
    assert code == 0, err
    project.rename(tmp_path / "moved")
    code, _, err = call("compare", "../moved/all-b", "../moved/right", "--out", "again")
    assert code == 0, err
    code, _, err = call("report", tmp_path / "moved" / "right", "--out", "page")
    assert code == 0, err
    pages = [(tmp_path / "elsewhere" / name / "index.html").read_text() for name in ("again", "page")]
    assert [page.count("data:image/") > 3 for page in pages] == [True, True]


def test_a_split_lying_beside_its_data_is_used_from_another_folder(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(sources.load_source("split:home/split.json").samples) == 8
    with pytest.raises(InputError, match="cannot read the split"):
        sources.load_source("split:split.json")


def test_inspections_find_their_samples_by_the_content_of_the_image(tmp_path, monkeypatch):
    for folder in ("here", "there"):
        evaluations.make(tmp_path / folder, 4)
        for number, picture in enumerate(sorted((tmp_path / folder).rglob("*.png"))):
            draw_noise(picture, number if folder == "here" else 10 + number)
    samples = sources.load_source(f"mmad:{tmp_path / 'here'}").samples
    inspections = [
        Inspection(
            sample_id=f"as/typed/{number}.png",
            verdict="good",
            image_sha256=sha256_of_file(sample.image),
        )
        for number, sample in enumerate(samples)
    ]
    pairs = pairing.pair(samples, inspections[::-1])
    assert [inspection for _, inspection in pairs.known] == inspections
    assert pairs.left_out == {}
    # A name that stands for another image does not count where that image was inspected.
    swapped = [
        one.model_copy(update={"sample_id": sample.id})
        for one, sample in zip(inspections, samples[1:] + samples[:1], strict=True)
    ]
    pairs = pairing.pair(samples, swapped)
    assert [inspection.image_sha256 for _, inspection in pairs.known] == [
        one.image_sha256 for one in inspections
    ]
    # Other images under the same names are paired, and counted.
    others = sources.load_source(f"mmad:{tmp_path / 'there'}").samples
    assert pairing.pair(others, swapped).left_out == {pairing.CHANGED: 4}
    with pytest.raises(InputError, match="neither by the content of its image nor by name"):
        pairing.pair(others, inspections)


@pytest.fixture
def without_loading(monkeypatch):
    """A model that must not be loaded."""

    def load(*arguments, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Inspector, "load", load)


def test_missing_images_are_named_before_a_model_is_loaded(call, data, tmp_path, without_loading):
    for picture in sorted((tmp_path / "mmad").rglob("*.png"))[2:]:
        picture.unlink()
    code, _, err = call("evaluate", "mmad", "--data", data, "--out", tmp_path / "out")
    assert code == 1
    assert "10 of 12 image files are missing" in err
    assert repr(str(tmp_path / "mmad")) in err
    assert err.count(".png") == 5 and "and 5 more" in err
    assert "https://github.com/jam-cc/MMAD" in err
    assert len(err) < 900


def test_another_prompt_is_refused_before_a_model_is_loaded(call, data, recorded, tmp_path, monkeypatch):
    arguments = ("evaluate", "mmad", "--data", data, "--out", tmp_path / "out")
    run.evaluate("nano", data, engine=f"replay:{recorded}", out=tmp_path / "out")

    def load(*arguments, **options):
        raise AssertionError("a model was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(Inspector, "load", load)
        code, _, err = call(*arguments, "--style", "mmad")
        assert (code, "made with the prompt ours@" in err, "--style" in err) == (1, True, True)
        code, _, err = call(*arguments, "-o", "option_order=shuffled")
        assert (code, "made with other questions" in err) == (1, True)
        with pytest.raises(AssertionError, match="a model was loaded"):  # the control
            call(*arguments)


def test_a_part_is_evaluated_and_gone_on_from(call, recorded, data, tmp_path):
    arguments = (
        "evaluate",
        "mmad",
        "--data",
        data,
        "--engine",
        f"replay:{recorded}",
        "--out",
        tmp_path / "out",
    )
    code, out, _ = call(*arguments, "--limit", 6)
    assert code == 0
    assert "6 samples (limit 6 of 12 samples)" in out
    found = record.read_evaluation(tmp_path / "out")
    assert (found.detection.overall.good, found.detection.overall.anomalous) == (2, 4)  # as 4 and 8 of all
    assert set(found.detection.categories) == {"GoodsAD/part", "VisA/part"}
    assert len(run.load_again(tmp_path / "out")[1]) == 6
    code, _, err = call(*arguments)
    assert (code, err.count("/12 ")) == (0, 12)
    code, out, _ = call(*arguments, "--class", "VisA/part")
    assert "6 samples (class VisA/part of 12 samples)" in out
    assert set(record.read_evaluation(tmp_path / "out").detection.categories) == {"VisA/part"}
    code, _, err = call(*arguments, "--class", "VisA/prat")
    assert (code, "did you mean 'VisA/part'" in err) == (1, True)


def test_parts_of_different_size_are_not_compared_and_their_limits_are_named(call, recorded, data, tmp_path):
    for name, more in (("all", ()), ("few", ("--limit", 4))):
        assert call("evaluate", recorded, "--data", data, "--out", tmp_path / name, *more)[0] == 0
    code, _, err = call("compare", tmp_path / "all", tmp_path / "few", "--out", tmp_path / "compared")
    assert code == 1
    assert "limit 4 of 12 samples" in err


def test_folders_of_runs_are_taken_or_their_policy_named(call, data, recorded, tmp_path):
    run.evaluate("nano", data, engine=f"replay:{recorded}", out=tmp_path / "asked")
    code, _, err = call("evaluate", tmp_path / "asked", "--data", data, "--out", tmp_path / "out")
    assert code == 0, err
    (tmp_path / "taught").mkdir()
    (tmp_path / "taught" / "recipe.yaml").write_text("{}")
    for verb, more in (
        ("evaluate", ("--data", data)),
        ("calibrate", ("--labels", data, "--cost-miss", 1, "--cost-false-alarm", 1)),
    ):
        code, _, err = call(verb, tmp_path / "taught", *more, "--out", tmp_path / "no")
        assert (code, f"-m {tmp_path / 'taught' / 'final'}" in err) == (1, True)


def test_few_images_are_warned_of_on_terminal_and_pages(call, data, recorded, tmp_path):
    _, out, _ = call("evaluate", recorded, "--data", data, "--out", tmp_path / "out")
    assert "warning: only 4 good images and 8 anomalous images: fewer than 10" in out
    call("report", tmp_path / "out", "--out", tmp_path / "page")
    call("compare", tmp_path / "out", tmp_path / "out", "--out", tmp_path / "compared")
    for page in ("page", "compared"):
        assert "Only 4 good images and 8 anomalous images" in (tmp_path / page / "index.html").read_text()
