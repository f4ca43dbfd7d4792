"""A verb writes over what it wrote itself, and over nothing else; never over what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.main
from PIL import Image

from anomalyr1 import files
from anomalyr1.cli import main as cli
from anomalyr1.cli.outputs import PRODUCTS, require_output
from anomalyr1.errors import InputError, SetupError
from support import evaluations, recordings

FOREIGN = b"the only copy of something else"
ARGUMENTS = {
    "inspect": ["parts"],
    "learn": ["parts/good"],
    "demo": [],
    "calibrate": ["run.jsonl", "--labels", "labels.csv", "--cost-miss", "1", "--cost-false-alarm", "1"],
    "evaluate": ["model", "--data", "folder:parts"],
    "compare": ["before", "after"],
    "report": ["run.jsonl"],
    "convert": ["scores.csv"],
    "train": ["nano-sft", 'data=["folder:parts"]'],
    "reproduce": ["roam"],
    "merge": ["before"],
    "data split": ["folder:parts", "--shots", "1"],
    "data stats": ["folder:parts"],
    "data export": ["folder:parts", "--to", "jsonl"],
    "data show": ["folder:parts", "good/g0.png"],
    "data extract": ["parts.zip"],
}
"""A command line of each verb without its --out."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two good parts, two bad ones, and the inputs of other verbs."""
    monkeypatch.chdir(tmp_path)
    for i in range(2):
        recordings.draw(Path(f"parts/good/g{i}.png"), None)
        recordings.draw(Path(f"parts/bad/b{i}.png"), (20 + 30 * i, 40))
        Image.effect_noise((64, 64), 90 + i).save(f"parts/good/g{i}.png")  # no copies of each other
    Path("scores.csv").write_text("sample_id,score\na,0.2\nb,0.9\n")
    return tmp_path


def test_every_verb_that_writes_is_in_the_table():
    root = typer.main.get_command(cli.app)
    verbs = {name: command for name, command in root.commands.items() if name != "data"}
    verbs |= {f"data {name}": command for name, command in root.commands["data"].commands.items()}
    writing = {name for name, verb in verbs.items() if any("--out" in p.opts for p in verb.params)}
    assert writing == set(PRODUCTS) == set(ARGUMENTS)


@pytest.mark.parametrize("verb", PRODUCTS)
def test_no_verb_writes_over_what_it_did_not_write(here, call, verb):
    product = PRODUCTS[verb]
    out = Path("kept")
    written = [out / name for name in (product.mark, *product.beside)] if product.mark else [out]
    if verb in ("train", "reproduce", "demo"):  # a folder of theirs holds nothing else
        written = [out / "notes.txt"]
    for path in written:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(FOREIGN)
        code, _, err = call(*verb.split(), *ARGUMENTS[verb], "--out", out)
        assert code == 1 and "kept" in err, err
        assert path.read_bytes() == FOREIGN and list(here.rglob(path.name)) == [here / path]
        path.unlink()


@pytest.mark.parametrize("verb", PRODUCTS)
def test_no_verb_writes_where_it_reads(here, verb):
    mark = PRODUCTS[verb].mark
    out = Path("both")
    if mark:
        out.mkdir()
    else:
        out.write_bytes(b'{"threshold": 1}')
    for source in ("both", Path("both"), here / "both", "jsonl:both?n=3", "split:both"):
        with pytest.raises(InputError, match="'both' is what is read"):
            require_output(verb, out, (None, "nano", source))
    other = "drawn:seen?n=3"
    if PRODUCTS[verb].head is not None:
        (out / mark if mark else out).write_bytes(PAGES.get(verb, b""))
        require_output(verb, out, (None, other, "folder:parts"))  # control


PAGES = {
    "inspect": b'{"model":"nano"',
    "learn": b'\x90\0\0\0\0\0\0\0{"__metadata__": {"anomalyr1.bank": "{}"',
    "calibrate": b'{\n "threshold": 0.5',
    "evaluate": b'{\n "source": {}',
    "compare": b'{"first":"a"',
    "report": b'<head><meta name="generator" content="AnomalyR1 report"></head>',
    "data split": b'{"counts": {}, "format": "anomalyr1-split-1"',
    "data stats": b'<meta name="generator" content="AnomalyR1 data stats">',
    "data show": b"Software\0AnomalyR1 data show",
}
"""How what a verb wrote itself begins."""


@pytest.mark.parametrize("verb", ["convert", "data split", "data stats", "data show"])
def test_what_a_verb_wrote_itself_is_replaced_where_nothing_hangs_on_it(here, call, verb):
    line = [*verb.split(), *ARGUMENTS[verb], "--out", "out"]
    assert call(*line)[0] == 0
    assert (call(*line)[0] == 0) == (verb != "convert")  # `convert` replaces nothing
    other = "data stats" if verb != "data stats" else "data show"
    before = Path("out").read_bytes()
    code, _, err = call(*other.split(), *ARGUMENTS[other], "--out", "out")
    assert code == 1 and f"nothing that `anomalyr1 {other}` of this version wrote" in err
    assert Path("out").read_bytes() == before


def test_evaluations_reports_and_comparisons_are_replaced_by_their_own_verbs_alone(here, call):
    data = evaluations.make(here / "mmad")
    recorded = here / "run.jsonl"
    evaluations.inspect(data, recorded, lambda sample, question: evaluations.says(question.answer))
    for _ in range(2):
        assert call("evaluate", recorded, "--data", data, "--out", "ev")[0] == 0
        assert call("report", "ev", "--out", "page")[0] == 0
        assert call("compare", "ev", "ev", "--out", "flips")[0] == 0
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    for line in (
        ("report", "ev", "--out", "flips"),
        ("report", "ev", "--out", "ev"),
        ("compare", "ev", "ev", "--out", "page"),
        ("compare", "ev", "ev", "--out", "ev"),
        ("calibrate", recorded, *ARGUMENTS["calibrate"][1:], "--out", recorded),
    ):
        assert call(*line)[0] == 1
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_another_split_is_replaced_only_by_force(here, call):
    line = ("data", "split", "folder:parts", "--shots", 1, "--out", "s.json")
    assert call(*line)[0] == 0
    before = Path("s.json").read_bytes()
    assert call(*line)[0] == 0  # the same once more
    recordings.draw(Path("parts/bad/b2.png"), (80, 20))
    code, _, err = call(*line)
    assert code == 1 and "which a run may have been trained on" in err and "--force" in err
    assert Path("s.json").read_bytes() == before
    assert call(*line, "--force")[0] == 0 and Path("s.json").read_bytes() != before
    Path("page.html").write_text("somebody's")
    assert call(*line[:-1], "page.html", "--force")[0] == 1  # control: force is for splits alone


def test_what_cannot_be_written_is_said_before_anything_is_loaded(here, call, monkeypatch):
    def load(*_, **__):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("anomalyr1.inspection.inspector.Inspector.load", load)
    Path("parts/notes.txt").write_text("a file")
    Path("page.txt").write_text("no image")
    Path("words.png").write_text("no image")
    for line, code, text in (
        (("--out", "parts/notes.txt"), 1, "'parts/notes.txt' is a file, and a folder is written"),
        (("--out", "parts/notes.txt/out"), 3, "cannot write 'parts/notes.txt/out'"),
        (("--out", "parts"), 1, "'parts' is what is read"),
        (("--reference", "parts"), 1, "expected an image file, got a folder"),
        (("--reference", "words.png"), 1, "'words.png': expected an image"),
    ):
        got, _, err = call("inspect", "parts", *line)
        assert got == code and text in err, err
    with pytest.raises(AssertionError):  # control
        call("inspect", "parts")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which nobody can make a file")
@pytest.mark.parametrize("verb", PRODUCTS)
def test_a_place_where_nothing_can_be_written_is_a_setup_error(verb):
    with pytest.raises(SetupError, match="cannot write '/proc/new'"):
        require_output(verb, Path("/proc/new"))


def test_a_run_that_was_killed_as_it_began_may_begin_again(here):
    for beginning in (b"", b'{"mod', b'{"model":"nano"'):
        Path("inspections").mkdir(exist_ok=True)
        Path("inspections/inspections.jsonl").write_bytes(beginning)
        require_output("inspect", Path("inspections"))


def test_a_folder_whose_records_were_deleted_may_begin_again(here):
    for verb, name in (("inspect", "index.html"), ("compare", "index.html"), ("evaluate", "evaluation.md")):
        out = here / verb
        out.mkdir()
        pages = {"index.html": f'<meta name="generator" content="AnomalyR1 {verb}">'}
        (out / name).write_text(pages.get(name, "# Evaluation\n"))
        require_output(verb, out)
        (out / name).write_bytes(FOREIGN)
        with pytest.raises(InputError):  # control
            require_output(verb, out)


def test_only_the_overlays_of_an_output_folder_are_no_parts(here, call, monkeypatch):
    recordings.draw(Path("parts/good/overlays/g0-1234.png"))
    names = []
    monkeypatch.setattr(
        "anomalyr1.inspection.samples.samples_of_images",
        lambda paths, *_: names.extend(path.as_posix() for path in paths) or ([], ""),
    )
    monkeypatch.setattr("anomalyr1.inspection.inspector.Inspector.load", lambda *_, **__: exit(7))
    assert call("inspect", "parts", "--out", "parts/good")[0] == 7
    assert names == ["parts/bad/b0.png", "parts/bad/b1.png", "parts/good/g0.png", "parts/good/g1.png"]
    code, _, err = call("inspect", "parts/good/overlays", "--out", "parts/good")
    assert code == 1 and "lies in the folder of the outputs" in err


def test_files_that_belong_together_are_never_old_beside_new(tmp_path, monkeypatch):
    names = ("index.html", "report.md", "plots/roc.svg")
    write_whole = files.write_whole
    for limit in range(len(names) + 1):
        folder = tmp_path / str(limit)
        files.write_together(folder, dict.fromkeys(names, b"old"))

        def killed(path, data, left=[limit]):  # noqa: B006  # counts down
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            write_whole(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_whole", killed)
            if limit < len(names):
                with pytest.raises(KeyboardInterrupt):
                    files.write_together(folder, dict.fromkeys(names, b"new"))
        contents = {path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert (
            len(contents) == 1 and (folder / "index.html").exists()
        )  # and it says which verb's folder it is
