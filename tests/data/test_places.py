"""A file names only what lies below it: splits, evaluations and inspections of strangers leave no trace."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from anomalyr1 import data, records
from anomalyr1.data import places, sources, splits
from anomalyr1.data.protocols import SplitPlan
from anomalyr1.evaluation import run
from anomalyr1.evaluation.record import FILE
from anomalyr1.report import evaluation_page, gallery
from anomalyr1.types import InputError, Inspection
from support import evaluations


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """The working folder, beside which lies what is no business of a file in it."""
    monkeypatch.delenv(places.VARIABLE)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def private(tmp_path):
    """A data set outside."""
    random = np.random.default_rng(0)
    for label in ("good", "cracked"):
        (tmp_path / "private" / label).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "private" / label / f"{number}.png")
    return tmp_path / "private"


def write_split(path, spec, options=None, samples=()):
    plan = SplitPlan(protocol="share")
    entries = tuple(splits.SplitEntry(id=sample.id, sha256="0" * 64) for sample in samples)
    leaks = splits.FoundLeaks(allowed=True, counts={}, found=())
    splits.write(
        path,
        splits.Manifest(
            spec=spec, options=options or {}, plan=plan, train=(), test=entries, counts={}, leaks=leaks
        ),
    )


def files_below(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("coco:/dev/zero", {}),
        ("index:/dev/stdin", {}),
        ("folder:../private", {}),
        ("folder:PRIVATE", {}),
        ("folder:link", {}),
        ("folder:~/private", {}),
        ("folder:~nobody-here/x", {}),
        ("coco:ann.json", {"root": "PRIVATE"}),
        ("coco:ann.json", {"root": "../private"}),
        ("coco://host/share/ann.json", {}),
        ("coco:\\\\host\\share\\ann.json", {}),
        ("drawn:seen?n=1000000", {}),
        ("drawn:seen?n=" + "9" * 5000, {}),
        ("split:h.json", {}),
        ("nothing:x", {}),
        ("folder:a\0b", {}),
        ("folder:" + "x" * 100_000, {}),
    ],
)
def test_a_split_names_nothing_elsewhere(work, private, tmp_path, monkeypatch, spec, options):
    monkeypatch.setenv("HOME", str(tmp_path))
    (work / "ann.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (work / "link").symlink_to(private)
    options = {name: value.replace("PRIVATE", str(private)) for name, value in options.items()}
    write_split(work / "h.json", spec.replace("PRIVATE", str(private)), options)
    before = files_below(tmp_path)
    with pytest.raises(InputError, match=r"h\.json|no folder|too long") as refused:
        sources.load_source("split:h.json", {}, work / "out")
    assert len(str(refused.value)) < 700 + len(str(tmp_path))
    assert files_below(tmp_path) == before


def test_the_user_may_name_any_place_and_confirm_what_a_file_names(work, private, monkeypatch):
    """The control: what is refused of a file is a data set that loads where the user names it."""
    samples = data.load(f"folder:{private}")
    assert len(samples) == 6
    splits.write("s.json", splits.make(samples, SplitPlan(protocol="few-shot", shots=1), f"folder:{private}"))
    with pytest.raises(InputError, match=places.VARIABLE):
        sources.load_source("split:s.json")
    monkeypatch.setenv(places.VARIABLE, f"/nowhere:{private}")
    assert len(sources.load_source("split:s.json").samples) == 4


def test_parts_that_a_split_has_drawn_lie_where_the_user_says(work, private):
    before = files_below(private)
    write_split(work / "h.json", "drawn:seen?n=1", {"folder": str(private)})
    assert sources.load_source("split:h.json", {}, work / "out" / "drawn").samples == []
    assert files_below(private) == before
    assert len(list((work / "out" / "drawn" / "images").iterdir())) == 1


def test_links_are_followed_on_the_word_of_the_user_alone(work, private, monkeypatch):
    (work / "parts" / "good").mkdir(parents=True)
    (work / "parts" / "cracked").mkdir()
    (work / "parts" / "good" / "0.png").symlink_to(private / "good" / "0.png")
    shutil.copy(private / "cracked" / "0.png", work / "parts" / "cracked")
    write_split(work / "h.json", "folder:parts", {"links": "true"})
    with pytest.raises(InputError, match="is a symbolic link"):
        sources.load_source("split:h.json")
    assert sources.load_source("split:h.json", {"links": "true"}).samples == []
    monkeypatch.setenv(places.VARIABLE, "parts")
    assert sources.load_source("split:h.json").samples == []


def test_a_split_works_in_its_folder_beside_its_data_and_after_both_were_moved(
    call, work, private, monkeypatch
):
    shutil.copytree(private, work / "parts")
    code, out, _ = call("data", "split", "folder:parts", "--shots", "1", "--out", "split.json")
    assert code == 0 and "note" not in out
    assert len(sources.load_source("split:split.json").samples) == 4
    (work / "elsewhere").mkdir()
    monkeypatch.chdir(work / "elsewhere")
    assert len(sources.load_source(f"split:{work / 'split.json'}").samples) == 4
    work.rename(work.with_name("moved"))
    assert len(sources.load_source("split:../split.json").samples) == 4


def test_a_split_of_data_elsewhere_says_at_once_what_it_will_need(call, private, monkeypatch):
    code, out, _ = call("data", "split", f"folder:{private}", "--shots", "1", "--out", "split.json")
    setting = f"{places.VARIABLE}={private}"
    assert code == 0 and f"needs this in the environment: {setting}" in out
    assert f"next: {setting} anomalyr1 train nano-sft data=split:split.json" in out
    with pytest.raises(places.PlaceError):
        sources.load_source("split:split.json")
    monkeypatch.setenv(places.VARIABLE, str(private))  # what was said is all that it needs
    assert sources.load_source("split:split.json").samples
    code, out, _ = call("data", "split", f"folder:{private}", "--shots", "1", "--out", "split.json")
    assert code == 0 and "environment" not in out and "next: anomalyr1 train" in out


def change_evaluation(evaluation, **changes):
    record = json.loads((evaluation / FILE).read_text())
    record["source"] |= changes
    (evaluation / FILE).write_text(json.dumps(record))


def test_an_evaluation_of_a_stranger_neither_writes_nor_reads_elsewhere(work, private, tmp_path):
    spec = evaluations.make(work / "mmad", 3)
    evaluations.inspect(spec, work / "i.jsonl", lambda sample, question: evaluations.says("A"))
    run.evaluate_file(work / "i.jsonl", "mmad:mmad", out=work / "ev")
    assert len(run.load_again("ev")[1]) == 3
    before = files_below(private)
    for changes in ({"spec": "coco:/dev/zero"}, {"spec": f"folder:{private}"}, {"spec": "split:/dev/zero"}):
        change_evaluation(work / "ev", **changes)
        with pytest.raises(InputError, match=r"evaluation\.json' names"):
            run.load_again("ev")
    change_evaluation(work / "ev", spec=f"folder:{private}")
    with pytest.raises(InputError, match=r"evaluation\.json' names.* with --data"):
        evaluation_page.write_of_evaluation("ev", work / "page")
    options = {"folder": str(private)}
    change_evaluation(work / "ev", spec="drawn:seen?n=1", folder=str(private), options=options)
    with pytest.raises(InputError, match="other questions"):
        run.load_again("ev")
    assert files_below(private) == before
    change_evaluation(work / "ev", spec="samples.jsonl")
    sample = data.load(f"folder:{private}")[0]
    (work / "ev" / "samples.jsonl").write_text(sample.to_json() + "\n")
    with pytest.raises(InputError, match=r"samples\.jsonl' names"):
        run.load_again("ev")


def test_a_report_shows_no_picture_that_lies_elsewhere(work, private, monkeypatch):
    shutil.copy(private / "good" / "1.png", work / "here.png")
    elsewhere = [str(private / "good" / "0.png"), "../private/good/2.png", "//host/share/x.png", "a\0b"]
    with records.Writer(work / "i.jsonl", evaluations.RUN) as writer:
        for name in (*elsewhere, "here.png"):
            writer.append(Inspection(sample_id=name, verdict="good"))

    def report(folder):
        page = evaluation_page.write_of_inspections(work / "i.jsonl", work / folder)
        text = page.read_text()
        return text.count("data:image/webp"), text.count("it lies elsewhere")

    assert report("r1") == (1, 4)
    monkeypatch.setenv(places.VARIABLE, str(private))
    assert report("r2") == (3, 2)
    monkeypatch.setattr(gallery, "may_name", lambda file, path: True)  # the control: without the guard
    monkeypatch.delenv(places.VARIABLE)
    assert report("r3")[0] == 3
