"""`anomalyr1 compare`: flips in both directions, p-values, what is refused, and a page that text of models
cannot break.
"""

import json

import pytest

from support import evaluations
from support import pages as browser


@pytest.fixture
def evaluated(call, tmp_path):
    """Evaluate made-up answers on the tiny MMAD; gives the folder."""
    spec = evaluations.make(tmp_path / "mmad")

    def run(name, choose, **changes):
        path = evaluations.inspect(
            spec, tmp_path / f"{name}.jsonl", choose, evaluations.RUN.model_copy(update=changes)
        )
        assert call("evaluate", path, "--data", spec, "--out", tmp_path / name)[0] in (0, 2)
        return tmp_path / name

    return run


def wrong_at(*numbers):
    """Gold answers, but "C" or "A" (never the gold) for the object question of some images."""

    def choose(sample, question):
        number = int(sample.id[-7:-4])
        gold = question.answer
        return evaluations.says(
            gold
            if question.kind == "anomaly detection" or number not in numbers
            else "A"
            if gold == "C"
            else "C"
        )

    return choose


def test_flips_of_both_directions_are_counted_and_named(call, evaluated, tmp_path):
    first = evaluated("first", wrong_at(0, 1, 4))
    second = evaluated("second", wrong_at(1, 2), model="other/model")
    code, out, _ = call("compare", first, second, "--out", tmp_path / "compared")
    assert code == 0
    assert "differs in model: made/up and other/model" in out
    found = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    flips = {(one["sample_id"][-7:-4], one["direction"]) for one in found["flips"]}
    assert flips == {("000", "gained"), ("004", "gained"), ("002", "lost")}
    everything, *subtasks = found["groups"]
    assert (everything["paired"]["gained"], everything["paired"]["lost"], everything["paired"]["rows"]) == (
        2,
        1,
        24,
    )
    assert everything["paired"]["difference"]["value"] == pytest.approx(1 / 24)
    assert [one["name"] for one in subtasks] == ["Anomaly Detection", "Object Analysis"]
    assert subtasks[1]["p_adjusted"] == pytest.approx(min(1, 2 * subtasks[1]["paired"]["p_cluster"]))
    assert found["needed"]["5"] > 24
    page = (tmp_path / "compared" / "index.html").read_text()
    assert page.count('<article class="card good">') == 2
    assert page.count('<article class="card defect">') == 1
    assert page.count("data:image/jpeg") == 3


def test_a_run_against_itself_differs_in_nothing(call, evaluated, tmp_path):
    first = evaluated("first", wrong_at(0))
    code, out, _ = call("compare", first, first, "--out", tmp_path / "compared")
    assert code == 0
    assert "p 1 by image" in out
    assert "cannot come about" in out


def test_how_answers_are_read_is_a_choice(call, evaluated, tmp_path):
    first = evaluated("first", wrong_at())
    second = evaluated("second", lambda sample, question: f"The answer is {question.answer}.")
    lost = [
        f"{line}"
        for line in call("compare", first, second, "--out", tmp_path / "a")[1].splitlines()
        if line.startswith("all questions")
    ]
    assert "100.0 -> 0.0 %" in lost[0]
    out = call("compare", first, second, "--reading", "lenient", "--out", tmp_path / "b")[1]
    assert "all questions: 100.0 -> 100.0 %" in out


def test_other_data_is_refused_and_what_differs_is_named(call, evaluated, tmp_path):
    first = evaluated("first", wrong_at())
    spec = evaluations.make(tmp_path / "more", 14)
    path = evaluations.inspect(spec, tmp_path / "more.jsonl", wrong_at())
    call("evaluate", path, "--data", spec, "--out", tmp_path / "second")
    code, _, err = call("compare", first, tmp_path / "second", "--out", tmp_path / "compared")
    assert code == 1
    assert "4 questions only in" in err
    assert "012.png#0" in err
    assert not (tmp_path / "compared").exists()


def test_images_with_other_content_are_refused(call, evaluated, tmp_path):
    first, second = evaluated("first", wrong_at()), evaluated("second", wrong_at())
    path = tmp_path / "second.jsonl"
    path.write_text(path.read_text().replace("003.png as it was", "003.png as it is"))
    code, _, err = call("compare", first, second, "--out", tmp_path / "compared")
    assert code == 1
    assert "1 images with other content: 'VisA" not in err  # 003 is of GoodsAD
    assert "1 images with other content" in err


def test_text_of_models_cannot_break_the_page(call, evaluated, tmp_path):
    bad = "<script>document.title='x'</script><img src=x onerror=alert(1)>\u202e"
    plain = evaluated("first", wrong_at())
    nasty = evaluated("second", lambda sample, question: f"<think>{bad}</think><answer>{bad}</answer>")
    call("compare", plain, nasty, "--out", tmp_path / "compared")
    page = (tmp_path / "compared" / "index.html").read_text()
    assert "&lt;script&gt;" in page  # it is there, as text
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "<b>mark" not in page  # option texts of the data are text too
    assert "\u202e" not in page


def flips_page(call, folder, texts):
    """The page of 100 flips, with three of 300 texts a card: in question, options, reasoning, unreadable
    answer, model and run name.
    """
    spec = evaluations.make(folder / "mmad", 100)
    manifest = folder / "mmad" / "mmad.json"
    entries = json.loads(manifest.read_text())
    for number, entry in enumerate(entries.values()):
        question, one, other = texts[3 * number : 3 * number + 3]
        entry["conversation"] = [
            {
                "Question": question,
                "Options": {"A": one, "B": other, "C": "x", "D": "y"},
                "Answer": "A",
                "type": "Object Analysis",
            }
        ]
    manifest.write_text(json.dumps(entries))

    def says(sample, question):
        return f"<think>{question.text} {question.options[0]} {question.options[1]}</think>{question.text}"

    for name, choose in (("right", lambda sample, question: evaluations.says("A")), ("wrong", says)):
        run = evaluations.RUN.model_copy(update={"model": f"{name} {texts[0]}"})
        path = evaluations.inspect(spec, folder / f"{name}.jsonl", choose, run)
        assert (
            call(
                "evaluate",
                path,
                "--data",
                spec,
                "--out",
                folder / (name + "".join(c for c in texts[4] if c != "/")),
            )[0]
            == 0
        )
    runs = sorted(path.parent for path in folder.rglob("evaluation.json"))
    assert call("compare", *runs, "--out", folder / "compared")[0] == 0
    return folder / "compared" / "index.html"


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_300_payloads_do_nothing_in_a_browser(call, tmp_path, canary):
    hostile = flips_page(call, tmp_path / "hostile", list(map(browser.real, browser.PAYLOADS)))
    dom = browser.browse(hostile, tmp_path / "profile", canary)
    assert (dom.title, canary.hits, dom.handlers) == ("Two runs compared", [], [])
    plain = browser.browse(
        flips_page(call, tmp_path / "plain", [f"x{i}" for i in range(300)]), tmp_path / "profile2", canary
    )
    assert sorted(dom.tags) == sorted(plain.tags)
    assert dom.tags.count("article") == 100
