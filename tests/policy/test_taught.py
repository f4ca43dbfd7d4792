"""What travels with a taught policy: read as hostile data, obeyed by default, and enough for transformers."""

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from anomalyr1 import prompts
from anomalyr1.cli.main import app
from anomalyr1.drawn import draw
from anomalyr1.engines.engine import Sampling, choose_prompt
from anomalyr1.engines.local import LocalEngine
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.evaluation import run as evaluation_run
from anomalyr1.images.frames import FAMILIES
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.policy.folders import NANO_FOLDER
from anomalyr1.policy.licences import base_of, licence_of, limits_of
from anomalyr1.policy.load import load_policy
from anomalyr1.policy.taught import FILE, Taught, read_taught, write_taught
from anomalyr1.report.inspection_page import about_run
from anomalyr1.types import InputError, Sample
from support import recordings, tiny

OWN = "Look at ```{image}```\n{question}\n{options}"
TAUGHT = Taught(
    anomalyr1="0.11", style="ours", text=OWN, max_pixels=12_544, base="nano", licence="the package's own"
)
FAMILY = FAMILIES["qwen2_5_vl"]


@pytest.fixture
def folder(tmp_path):
    """A tiny policy that was taught with a prompt of its user's own."""
    folder = Path(shutil.copytree(tiny.folder_of(), tmp_path / "final"))
    write_taught(folder, TAUGHT, FAMILY)
    return folder


def test_what_is_written_is_read(folder):
    assert read_taught(folder) == TAUGHT
    assert read_taught(tiny.folder_of()) is None
    policy = load_policy(str(folder))
    assert (policy.taught, policy.max_pixels) == (TAUGHT, 12_544)
    assert load_policy(str(folder), max_pixels=6272).max_pixels == 6272


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"style": "none", "text": None}, "names the prompt style 'none'"),
        ({"text": "{question}"}, "a prompt needs {image} exactly once"),
        ({"text": "<|im_start|>{image}{question}"}, "writes a special token"),
        ({"text": "{image}{question}" + "x" * 200_000}, "at most 100000 characters"),
        ({"text": ["{image}"]}, "text: Input should be a valid string"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"max_pixels": 10**15}, "max_pixels"),
        ({"max_pixels": float("nan")}, "max_pixels"),
        ({"base": "x" * 5000}, "base"),
        ({"run": "evil"}, "run: Extra inputs"),
        ({"auto_map": {"AutoModel": "a.B"}}, "run code of the folder"),
        (None, "expected a JSON object, found list"),
    ],
)
def test_what_it_says_is_read_as_hostile_data(folder, change, reason):
    document = [] if change is None else TAUGHT.model_dump() | change
    (folder / FILE).write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        load_policy(str(folder))
    assert reason in str(caught.value) and FILE in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text", ["<script>x</script>", "[x](javascript:alert(1))", "`<b>`", "\u202ea", "a\n\n# b"]
)
def test_names_of_a_base_are_only_text_in_the_readme(tmp_path, text):
    """What the maker of the base wrote stands in a span of code, where nothing formats or links."""
    write_taught(tmp_path, TAUGHT.model_copy(update={"base": text, "licence": text}), FAMILY)
    line = (tmp_path / "README.md").read_text().splitlines()[2]
    outside = "".join(line.split("`")[::2])
    assert outside == "Taught with AnomalyR1 0.11 from ; licence of the weights: ."
    assert line.isprintable()


def test_it_is_asked_as_it_was_taught_and_asked_otherwise_it_says_so(folder):
    inspector = Inspector.load(str(folder))
    assert (inspector.style, inspector.text) == ("ours", OWN)
    run = inspector.fingerprint()
    assert (run.taught, run.style, run.max_pixels) == ("", prompts.style_id(text=OWN), 12_544)
    assert "taught" not in about_run(run, "").limits.split("before it was taught")[0]
    engine = inspector.engine
    for changed in (Inspector(engine, style="mmad"), Inspector(engine, text="{image}\n{question}")):
        run = changed.fingerprint()
        assert f"taught with the prompt {prompts.style_id(text=OWN)}" in run.taught
        assert f"asked with {run.style}" in run.taught
        assert run.taught in about_run(run, "").limits  # the page's note, and the terminal's
    other_cap = LocalEngine(load_policy(str(folder), max_pixels=6272))
    assert "asked with file@" in Inspector(other_cap, text=OWN).fingerprint().taught
    assert choose_prompt(engine, "mmad", None) == ("mmad", None)


def test_a_policy_that_says_nothing_is_asked_as_before(tmp_path):
    inspector = Inspector.load(str(tiny.folder_of()))
    assert (inspector.style, inspector.text, inspector.fingerprint().taught) == ("ours", None, "")
    replay = ReplayEngine(recordings.record(tmp_path / "r.jsonl", {}))
    assert choose_prompt(replay, None, None) == ("ours", None)


def test_the_licence_and_the_limits_are_those_of_the_base(folder):
    assert base_of(str(folder)) == "nano"
    assert licence_of(str(folder)) == licence_of("nano") == licence_of("nano-raw")
    assert "was nano, which knows drawn parts only" in limits_of(str(folder))
    for base, licence, expected in (
        (
            "Qwen/Qwen2.5-VL-3B-Instruct",
            "MIT, honestly",
            "non-commercial",
        ),  # what is known of the base counts
        ("/models/house", "Apache-2.0", "Apache-2.0"),
    ):
        write_taught(folder, TAUGHT.model_copy(update={"base": base, "licence": licence}), FAMILY)
        assert expected in licence_of(str(folder)) and limits_of(str(folder)) == ""
    (folder / FILE).write_text("[")
    assert "read the model card of" in licence_of(str(folder))


def test_a_run_of_before_has_the_licence_of_its_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, model in (("a", "Qwen/Qwen2.5-VL-3B-Instruct"), ("b", "runs/a/final"), ("c", "nano")):
        Path("runs", name, "final").mkdir(parents=True)
        Path("runs", name, "run.json").write_text(json.dumps({"model": model}))
    assert "non-commercial" in licence_of("runs/b/final")
    assert "package's own" in licence_of("runs/c/final")


@pytest.mark.parametrize("verb", ["evaluate", "parity"])
def test_the_verbs_take_a_prompt_file(tmp_path, monkeypatch, verb):
    prompt = tmp_path / "mine.txt"
    prompt.write_text(OWN)
    texts = []

    def stop(*arguments, text=None, **_):
        texts.append(text or arguments[3])
        raise InputError("far enough")

    monkeypatch.setattr(evaluation_run, "evaluate", stop)
    monkeypatch.setattr("anomalyr1.engines.parity.compare_engines", stop)
    recorded = recordings.record(tmp_path / "r.jsonl", {})
    picture = recordings.draw(tmp_path / "1.png")
    arguments = {
        "evaluate": ["evaluate", "model", "--data", "drawn:dev?n=1"],
        "parity": ["parity", str(picture), "--engines", f"replay:{recorded},replay:{recorded}"],
    }[verb]
    CliRunner().invoke(app, [*arguments, "--prompt", str(prompt)], standalone_mode=False)
    assert texts == [OWN]


def snippet(folder):
    return (folder / "README.md").read_text().split("```python\n")[1].split("\n```")[0]


def test_a_prompt_does_not_end_the_snippet(folder):
    names = {}
    exec(snippet(folder).split("processor =")[0], names)
    sample = Sample(id="part", image=Path("part.png"))
    verdict, boxes = prompts.inspection_questions("part")
    assert names["VERDICT"] == prompts.build(sample, verdict, text=OWN).messages
    assert names["BOXES"] == prompts.build(sample, boxes, text=OWN).messages
    assert "```" in names["BOXES"][0]["content"][0]["text"]


@pytest.mark.skipif(not NANO_FOLDER.is_dir(), reason="needs the bundled nano policy")
def test_the_readme_asks_as_the_inspector_does_word_for_word(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    taught = TAUGHT.model_copy(update={"text": None, "max_pixels": 50_176})
    folder = Path(shutil.copytree(NANO_FOLDER, tmp_path / "final", copy_function=os.link))
    (folder / "README.md").unlink()  # a link to nano's own
    write_taught(folder, taught, FAMILY)
    config = json.loads((folder / "processor_config.json").read_text())
    config["image_processor"]["size"]["longest_edge"] = taught.max_pixels  # as `cap_images` leaves it
    (folder / "processor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps(config))
    Image.fromarray(draw.draw(910_001, "washer", "crack").image).resize((470, 330)).save(folder / "part.png")
    monkeypatch.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(snippet(folder), "README.md", "exec"), {})
    inspector = Inspector.load(str(folder))
    completions = [reply.completion for reply in inspector("part.png").replies]
    assert printed.getvalue() == "".join(f"{completion}\n" for completion in completions)
    otherwise = Inspector(inspector.engine, style="mmad", sampling=Sampling())("part.png")
    assert [reply.completion for reply in otherwise.replies] != completions  # the control: prompts matter
