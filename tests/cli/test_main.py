"""The verbs as a user types them: exit codes, output, errors without traceback, nothing heavy at import."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from anomalyr1 import records
from anomalyr1.cli import doctor, inspect, terminal
from anomalyr1.cli import main as cli
from anomalyr1.cli.doctor import examine, packages
from anomalyr1.errors import Stopped
from anomalyr1.reproduction import demo
from anomalyr1.types import InputError, Inspection
from support import recordings, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    torch.set_num_threads(
        1
    )  # many small steps: threads that wait for each other are slower on a busy machine
    return tiny.build(tmp_path_factory.mktemp("model"))


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A folder of three parts, and the folder above as the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.PNG", "deep/[red]c[/think].png"):
        recordings.draw(tmp_path / "parts" / name)
    (tmp_path / "parts" / "notes.txt").write_text("no image")
    return tmp_path


def test_inspect_writes_everything_and_says_where(parts, model, call):
    code, out, err = call("inspect", "parts", "--model", model, "--masks", "box")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["1/3", "2/3", "3/3"]
    assert "parts/deep/[red]c[/think].png" in out  # markup is text
    assert lines[3].startswith("3 inspected: ") and lines[4] == "page: inspections/index.html"
    _, inspections = records.read("inspections/inspections.jsonl")
    assert [one.sample_id for one in inspections] == [
        "parts/a.PNG",
        "parts/b.png",
        "parts/deep/[red]c[/think].png",
    ]
    assert {one.verdict for one in inspections} == {"unsure"}  # random weights write nothing that can be read
    page = (parts / "inspections" / "index.html").read_text(encoding="utf-8")
    assert "Fine-tuning" in page and "anomalyr1 inspect parts --model" in page
    assert "drawn parts only" not in page + out
    before = (parts / "inspections" / "inspections.jsonl").read_bytes()
    assert call("inspect", "parts", "--model", model, "--masks", "box")[0] == 0  # again: nothing left to do
    assert (parts / "inspections" / "inspections.jsonl").read_bytes() == before
    code, _, err = call("inspect", "parts", "--model", model, "--masks", "default")
    assert code == 1 and "masks was 'box' and is now 'default'" in err


def test_a_broken_image_is_reported_and_the_rest_inspected_and_json_is_alone_on_stdout(parts, model, call):
    (parts / "parts" / "b.png").write_bytes(b"broken")
    (parts / "known.txt").write_text("Plates are even.\n")
    more = (
        "--knowledge",
        "known.txt",
        "--reference",
        "parts/a.PNG",
        "--model",
        model,
        "--masks",
        "box",
        "--json",
        "--out",
        "o",
    )
    code, out, err = call("inspect", "parts", *more)
    assert code == 2
    found = [Inspection.from_json(line) for line in out.splitlines()]
    assert [one.error is not None for one in found] == [False, True, False]
    assert "b.png" in found[1].error
    assert "1 failed" in err and "o/index.html" in err
    assert "Plates are even." in (parts / "o" / "index.html").read_text(encoding="utf-8")


@pytest.mark.timeout(600)
def test_demo_teaches_and_takes_own_images(parts, call, monkeypatch):
    monkeypatch.setattr(demo, "ASKED", 8)
    monkeypatch.setattr(demo, "LEARNED", 4)
    monkeypatch.setattr(demo, "STEPS", 1)
    for _ in range(2):  # it begins anew
        code, out, _ = call("demo", "parts/b.png", "--out", "d")
        assert code == 0
        Path("d/mine.png").write_bytes(b"somebody's")
        assert "page: d/index.html" in out and "Held-out accuracy changed by" in out
    assert Path("d/mine.png").exists()
    text = Path("d/index.html").read_text(encoding="utf-8")
    assert (
        text.count('class="card"') == 6
        and "as drawn: good" in text
        and "While it learned" in text
        and "accuracy" in text
    )
    _, inspections = records.read("d/own/inspections.jsonl")
    assert [one.sample_id for one in inspections] == ["parts/b.png"]
    assert call("demo", "parts/gone.png", "--out", "e")[0] == 1
    Path("mine").mkdir()
    Path("mine/inspections.jsonl").write_text("results of another run")
    code, _, err = call("demo", "--out", "mine")
    assert code == 1 and "no demo made" in err and Path("mine/inspections.jsonl").exists()


def test_each_image_is_found_once_however_it_is_named(parts):
    found = terminal.find_images(
        [Path("parts"), Path("parts").resolve(), Path("parts/../parts/b.png")], Path("out")
    )
    assert [path.as_posix() for path in found] == [
        "parts/a.PNG",
        "parts/b.png",
        "parts/deep/[red]c[/think].png",
    ]


@pytest.mark.parametrize(("arguments", "code"), [(["inspect", "x" * 300], 1), ([], 1)])
def test_odd_command_lines_end_without_a_traceback(parts, call, arguments, code):
    got, _, err = call(*arguments)
    assert got == code
    assert "Traceback" not in err and "error:  Try" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["inspect", "gone.png", "parts", "lost"],
            1,
            "no such file or folder, so nothing was started: 'gone.png', 'lost'",
        ),
        (["inspect", "parts", "--reference", "ref.png"], 1, "'ref.png'"),
        (["inspect", "empty"], 1, "'empty' holds no image"),
        (["inspect", "parts", "--knowledge", "gone.txt"], 1, "gone.txt"),
        (["inspect", "parts", "--style", "none"], 1, "unknown prompt style"),
        (["inspect", "parts", "--model", "gone"], 1, "gone"),
        (["inspect", "parts", "--masks", "none"], 1, "none"),
        (["inspect", "parts", "--votes", "2", "--fast"], 1, "not both"),
        (["inspect", "parts", "--votes", "0"], 1, "votes"),
        (["inspect", "--zzz", "parts"], 1, "--zzz Try: anomalyr1 inspect --help"),
        (["data", "split", "folder:parts"], 1, "Try: anomalyr1 data split --help"),
        (["inspect"], 1, "paths"),
        (["no\x1b]0;verb\x07"], 1, "No such command"),
    ],
)
def test_wrong_input_is_one_line_and_code_1(parts, call, arguments, code, said):
    (parts / "empty").mkdir()
    got, out, err = call(*arguments)
    assert got == code
    assert (
        said in err and err.startswith("error: ") and err.count("\n") == 1 and err.rstrip("\n").isprintable()
    )
    assert out == ""
    assert not (parts / "inspections").exists()


def test_a_folder_that_cannot_be_written_is_code_3(parts, model, call):
    code, _, err = call("inspect", "parts", "--model", model, "--out", "parts/notes.txt/out")
    assert code == 3 and "cannot write" in err


def test_folders_are_searched_in_order_without_the_results(parts):
    recordings.draw(parts / "parts" / "out" / "overlays" / "old.png")
    found = terminal.find_images([parts / "parts" / "b.png", parts / "parts"], parts / "parts" / "out")
    assert [path.relative_to(parts / "parts").as_posix() for path in found] == [
        "b.png",
        "a.PNG",
        "deep/[red]c[/think].png",
    ]
    with pytest.raises(InputError, match="no such"):
        terminal.find_images([parts / "gone"], parts)


def test_masks_beside_good_parts_are_no_parts(tmp_path, capsys):
    for name in ("good/a.png", "bad/b.png", "masks/bad/b.png", "bad/masks/c.png"):
        recordings.draw(tmp_path / name)
    found = terminal.find_images([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "bad/b.png",
        "bad/masks/c.png",
        "good/a.png",
    ]
    assert "1 images in" in capsys.readouterr().out
    assert len(terminal.find_images([tmp_path / "masks"])) == 1


def test_control_characters_never_reach_a_terminal(capsys):
    line = inspect._line(
        Inspection(
            sample_id="a\x1b]8;;x\x07\n.png",
            verdict="defect",
            reason="[bold]\x1b[2J\r\nmoved\u202e" + "x" * 300,
        )
    )
    assert line.isprintable() and "[bold]" in line and len(line) < 250
    terminal.say(line)
    assert capsys.readouterr().out == line + "\n"


def test_the_cure_of_a_failed_image_is_not_cut_off(monkeypatch):
    error = "'odd/a.heic': expected an image, got a HEIC file " + "x" * 100 + "; convert it to PNG or JPEG"
    failed = Inspection(sample_id="a.heic", verdict="unsure", reason="x", error=error)
    assert inspect._line(failed).endswith(error)
    unsure = failed.model_copy(update={"error": None, "reason": error})
    assert inspect._line(unsure).endswith("...")  # the control: reasoning stands on the page
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    with inspect._progress("inspecting", 1, as_json=False) as show:
        show(1, failed)
    assert "convert it to PNG or JPEG" in " ".join(terminal.text.split())


class Terminal:
    """Standard output that says it is a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_markup_stays_text(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with inspect._progress("inspecting", 2, as_json=False) as show:
        for done in (1, 2):
            show(
                done,
                Inspection(
                    sample_id=f"{done}[/think][link=x]\x1b[2J:bug:.png", verdict="good", reason="[/bold]"
                ),
            )
    assert "1[/think][link=x]\\x1b[2J:bug:.png" in terminal.text
    assert "2/2" in terminal.text and "time left" in terminal.text


@pytest.mark.parametrize(
    ("requirement", "ok", "said"),
    [
        ("pydantic>=2", True, "pydantic 2"),
        ("pydantic>=99", False, 'pip install "pydantic>=99"'),
        ("no-such-package>=1", False, "no-such-package is missing"),
        ('no-such-package>=1; extra == "train"', True, 'pip install ".[train]" in the checkout'),
        ('pydantic>=2; extra == "train"', True, "extra train: installed"),
        ('no-such-package>=1; python_version < "3"', True, None),
    ],
)
def test_doctor_checks_packages(requirement, ok, said):
    found = list(packages([requirement]))
    assert all(one.ok for one in found) is ok
    assert (said is None and found == []) or said in found[0].text


@pytest.mark.parametrize(
    ("arguments", "raised", "code", "said"),
    [
        (["inspect"], Stopped("stopped after 8 of 20"), 130, "stopped after 8 of 20"),
        (
            ["train", "nano-grpo"],
            ModuleNotFoundError("No module named 'trl.x'", name="trl.x"),
            3,
            'pip install ".[train]" in the checkout',
        ),
    ],
)
def test_a_verb_that_ends_early(call, monkeypatch, arguments, raised, code, said):
    def app(**_):
        raise raised

    monkeypatch.setattr("anomalyr1.cli.main.app", app)
    found, _, err = call(*arguments)
    assert found == code and said in err


def test_version_and_completion(call, monkeypatch):
    from anomalyr1.version import __version__

    assert call("--version") == (0, f"anomalyr1 {__version__}\n", "")
    # Whatever shell, or none, the tests were started from.
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    code, out, _ = call("--show-completion", "bash")
    assert code == 0 and "complete" in out
    monkeypatch.setenv("_ANOMALYR1_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "anomalyr1 calib")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert call()[:2] == (0, "calibrate\n")


def test_flags_are_shown_without_a_value_and_inspect_first(call):
    code, out, _ = call("inspect", "--help")
    assert code == 0 and "--fast" in out and "bool" not in out and "<path>" in out
    verbs = call("--help")[1].partition("Commands")[2]
    assert verbs.index(" inspect ") < verbs.index(" report ") < verbs.index(" doctor ")


def test_warnings_to_authors_of_libraries_are_not_shown(call, monkeypatch):
    def app(**_):
        warnings.warn("old name", FutureWarning, stacklevel=1)
        warnings.warn("look", UserWarning, stacklevel=1)

    monkeypatch.setattr("anomalyr1.cli.main.app", app)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        monkeypatch.setattr(sys, "warnoptions", [])
        call("doctor")
    assert [str(one.message) for one in shown] == ["look"]


@pytest.mark.parametrize(
    ("version", "doubtful"),
    [((3, 11, 7), True), ((3, 11, 13), False), ((3, 12, 10), True), ((3, 13, 4), False), ((3, 14, 0), False)],
)
def test_doctor_knows_which_pythons_are_mended(version, doubtful):
    found = doctor.python(version)
    assert found.ok and found.doubtful is doubtful and ("tarfile" in found.text) is doubtful


def test_a_module_that_no_extra_brings_is_a_defect(monkeypatch):
    monkeypatch.setattr("anomalyr1.cli.main.app", lambda **_: __import__("no_such_module"))
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def test_doctor_reports(call):
    code, out, _ = call("doctor")
    assert code == (0 if all(one.ok for one in examine()) else 3)
    for text in ("Python 3", "memory: ", "disk: ", "licence of the model nano", "Qwen2.5-VL-3B"):
        assert text in out


def test_doctor_without_a_package_is_code_3(call, monkeypatch):
    monkeypatch.setattr("anomalyr1.cli.doctor._requirements", lambda: ["no-such-package>=1"])
    assert call("doctor")[0] == 3


HEAVY = """
import json, sys
sys.argv = ["anomalyr1", "inspect", "--help"]
from anomalyr1.cli import main as cli
import anomalyr1, anomalyr1.report
anomalyr1.Inspector
try:
    cli.main()
finally:
    print(json.dumps(sorted({"torch", "transformers"} & set(sys.modules))), file=sys.stderr)
"""


def test_help_and_import_load_no_model_library():
    run = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    assert json.loads(run.stderr) == []
    assert "--knowledge" in run.stdout


def test_the_package_has_two_lazy_names():
    import anomalyr1

    assert anomalyr1.Inspector.__name__ == "Inspector"
    assert anomalyr1.__version__
    with pytest.raises(AttributeError, match="nothing"):
        _ = anomalyr1.nothing
