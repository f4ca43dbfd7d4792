"""`anomalyr1 inspect` beside good parts: learned first, kept, told, and taken up again."""

from pathlib import Path

import pytest

from anomalyr1 import answers, records
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.learning import Settings
from support import recordings
from support.parts import draw_part, write_parts

SAYS_GOOD = (
    answers.write("The surface is even, no defect. So the answer is B.", "B"),
    answers.write("There is no defect.", [], recordings.FRAME),
)


class Small(Settings):
    """The default at the size of the drawn parts, so that tests are quick."""

    short_side: int = 96


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Good parts, a good and a bad part to inspect, and a policy that calls all of them good."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anomalyr1.evidence.learning.Settings", Small)
    write_parts(Path("good"), 9)
    Path("parts").mkdir()
    draw_part(99, defect=True).save("parts/bad.png")
    draw_part(105).save("parts/fine.png")
    names = ["parts/bad.png", "parts/fine.png", *(f"good/good-{number:02}.png" for number in range(9))]
    recordings.record(Path("recorded.jsonl"), dict.fromkeys(names, SAYS_GOOD))
    monkeypatch.setattr("anomalyr1.engines.loading.load_engine", lambda *_: ReplayEngine("recorded.jsonl"))
    return tmp_path


def verdicts(out: str) -> dict[str, str]:
    _, inspections = records.read(Path(out) / "inspections.jsonl")
    return {inspection.sample_id: inspection.verdict for inspection in inspections}


@pytest.mark.parametrize(
    ("decide", "bad"), [("both", "unsure"), ("evidence", "defect"), ("policy", "good"), (None, "unsure")]
)
def test_good_parts_are_learned_first_and_decide_as_is_asked(here, call, decide, bad):
    line = ["--decide", decide] if decide else []  # of a real model both decide
    code, _, err = call("inspect", "parts", "--good", "good", *line, "--out", "run")
    assert code == 0, err
    assert verdicts("run") == {"parts/bad.png": bad, "parts/fine.png": "good"}
    assert Bank.read("run/good.bank").learned == 8


def test_a_run_goes_on_with_what_it_learned_and_finds_no_part_among_its_maps(here, call, monkeypatch):
    line = ("inspect", ".", "--good", "good", "--decide", "evidence", "--out", "run")
    assert call(*line)[0] == 0
    begun = Path("run/inspections.jsonl").read_bytes()
    assert len(list(Path("run/overlays/maps").iterdir())) == len(verdicts("run")) == 11
    with monkeypatch.context() as patch:
        patch.setattr(Bank, "learn", lambda *_, **__: exit(7))
        assert call(*line)[0] == 0
    assert Path("run/inspections.jsonl").read_bytes() == begun
    write_parts(Path("good"), 1, begin=20)
    code, _, err = call(*line)
    assert code == 1 and "was learned from other images than --good names" in err


def test_a_learned_image_is_never_silently_good(here, call):
    assert call("inspect", "good", "--good", "good", "--decide", "evidence", "--out", "run")[0] == 0
    names = {part.name: part.held_out for part in Bank.read("run/good.bank").parts}
    assert verdicts("run") == {
        name: "good" if is_held_out else "unsure" for name, is_held_out in names.items()
    }


def test_copies_among_the_good_promise_nothing(here, call):
    for number in range(3):
        Path(f"good/copy-{number}.png").write_bytes(Path("good/good-00.png").read_bytes())
    _, out, _ = call("inspect", "parts", "--good", "good", "--out", "run")
    assert "3 images are copies of others, byte for byte: left out" in out
    assert len(Bank.read("run/good.bank").parts) == 9
    assert call("inspect", "parts", "--good", "good", "--out", "run")[0] == 0  # and it goes on


def test_what_is_told_stands_in_the_fingerprint_and_another_bank_is_another_run(here, call):
    assert call("learn", "good", "--out", "a.bank")[0] == 0
    for option, is_told in (("--evidence", True), ("--no-evidence", False)):
        assert call("inspect", "parts", "--bank", "a.bank", option, "--out", option[2:])[0] == 0
        run, _ = records.read(Path(option[2:]) / "inspections.jsonl")
        assert ("+evidence@" in run.style) == is_told
        assert run.evidence == f"{Bank.read('a.bank').digest}, verdict by both"
    assert call("learn", "good", "--learn", "6", "--out", "b.bank")[0] == 0
    code, _, err = call("inspect", "parts", "--bank", "b.bank", "--evidence", "--out", "evidence")
    assert code == 1 and "evidence was" in err


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["--bank", "a.bank", "--good", "good"], "give one of them"),
        (["--bank", "gone.bank"], "gone.bank"),
        (["--good", "gone"], "no such file or folder"),
        (["--decide", "evidence"], "give --bank FILE or --good IMAGES"),
        (["--evidence"], "give --bank FILE or --good IMAGES"),
    ],
)
def test_what_does_not_go_together_is_refused(here, call, line, text):
    code, _, err = call("inspect", "parts", *line, "--out", "run")
    assert code == 1 and text in err, err
    assert not Path("run/inspections.jsonl").exists()


def test_where_the_good_parts_decide_the_note_on_nano_says_so(here, call):
    fingerprint = recordings.FINGERPRINT.model_copy(update={"model": "nano"})
    lines = Path("recorded.jsonl").read_text().split("\n", 1)
    Path("recorded.jsonl").write_text(fingerprint.to_json() + "\n" + lines[1])
    _, out, _ = call("inspect", "parts", "--good", "good", "--out", "run")
    assert "no verdict rests on what nano says alone: the good parts decide" in out
    _, out, _ = call("inspect", "parts", "--good", "good", "--decide", "both", "--out", "both")
    assert "its verdict means nothing" in out  # control
