"""Script payloads in every text of a report: in a real browser nothing executes, no request leaves, no
payload becomes an element.
"""

import re

import pytest

from anomalyr1.data.sources import LoadedSource
from anomalyr1.evaluation import run as evaluate
from anomalyr1.report import evaluation_page as results
from anomalyr1.report import training_page as run
from anomalyr1.types import Answer, Box, Inspection, Question, Reply, Sample
from support import recordings
from support.pages import CHROMIUM, LIVE, PAYLOADS, browse, real

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")


def report(folder, texts):
    """A report on one image a text, which stands in every text that a sample, an inspection, a question and a
    run have.
    """
    texts = [real(text) for text in texts]
    images = [recordings.draw(folder / f"{i}.png") for i in range(5)]
    known = []
    for i, text in enumerate(texts):
        box = Box(x1=60, y1=40, x2=80, y2=54, label=text)
        few = texts[i % 10]
        asked = (
            Question(id=f"{text}#1", kind="defect classification", text=text, options=(few, "-"), answer="A"),
            Question(id=f"{text}#2", kind="object analysis", text=text, options=("-", text), answer="B"),
        )
        answered = (
            Answer(
                status="strict",
                reasoning=f"{text}\nSo the answer is A.",
                conclusion="A",
                choice="A",
                raw=text,
            ),
            Answer(status="lenient", reasoning=text, conclusion="A", choice="B", raw=text),
        )
        replies = [
            Reply(question_id=q.id, completion=text, answer=answer)
            for q, answer in zip(asked, answered, strict=True)
        ]
        replies.append(
            Reply(
                question_id=f"parts/{text}#verdict",
                completion=text,
                answer=Answer(status="unparseable", raw=text),
            )
        )
        sample = Sample(
            id=f"parts/{text}",
            image=images[i % 5] if i % 9 else folder / "gone.png",
            dataset=texts[(i + 1) % 30],
            category=texts[i % 30],
            defect=text,
            anomalous=True if i % 3 else False if i % 2 else None,
            boxes=(box,) if i % 3 else None,
            questions=asked,
        )
        failed = text if i % 7 == 0 else None
        verdict = "unsure" if failed else ("good", "defect", "unsure")[i % 3]
        one = Inspection(
            sample_id=f"parts/{text}",
            verdict=verdict,
            score=(i % 11) / 11,
            score_from=text,
            reason=text,
            boxes=(box,),
            replies=tuple(replies),
            counts={text: 1},
            error=failed,
        )
        known.append((sample, one))
    first = texts[3]
    told = {"model": first, "revision": first, "sampling": first, "versions": {first: first}}
    fingerprint = recordings.FINGERPRINT.model_copy(update=told)
    source = evaluate.Source(
        spec=first, options={first: first}, samples=len(known), questions="", inspections=first
    )
    loaded = LoadedSource([sample for sample, _ in known], {}, None)
    found = evaluate.measure(loaded, fingerprint, [one for _, one in known], source, repeats=3)
    return results.write(
        folder / "out", results.Results(texts[4], fingerprint, known, found, texts[:20], texts[5])
    )


def training_run(folder, texts):
    texts = [real(text) for text in texts]
    lines = [{"step": step, **{text.replace("/", "|"): step for text in texts[:100]}} for step in (1, 2)]
    written = [run.LastGroup(1, text, text, text, [(text, None, 0.0), (text, 1.0, 1.0)]) for text in texts]
    about = {text: text for text in texts[:50]} | {"nested": {text: [text] for text in texts[:50]}}
    return run.write(
        folder / "out", run.TrainingRun(texts[0], lines, lines, "\n".join(texts), about, written, texts[1])
    )


@pytest.mark.parametrize(
    ("write", "title"), [(report, "Report on 300 images"), (training_run, "Training run")]
)
def test_300_payloads_do_nothing(tmp_path, canary, write, title):
    assert len(PAYLOADS) == 300
    dom = browse(write(tmp_path / "hostile", PAYLOADS), tmp_path / "profile", canary)
    assert dom.title == title
    assert canary.hits == [] and dom.handlers == []
    plain = browse(write(tmp_path / "plain", [f"x{i:03}" for i in range(300)]), tmp_path / "profile2", canary)
    assert sorted(dom.tags) == sorted(plain.tags)  # no payload became an element
    assert "mark" in dom.tags or write is training_run


@pytest.mark.parametrize("keep_policy", [True, False])
def test_the_policy_alone_stops_payloads_and_without_it_they_fire(tmp_path, canary, keep_policy):
    page = report(tmp_path, [f"x{i}" for i in range(30)])
    html = page.read_text(encoding="utf-8").replace("</main>", "".join(LIVE) + "</main>")
    page.write_text(
        html if keep_policy else html.replace("Content-Security-Policy", "nothing"), encoding="utf-8"
    )
    dom = browse(page, tmp_path / "profile", canary)
    assert (dom.title == "canary") is not keep_policy
    assert bool(canary.hits) is not keep_policy


def test_the_filters_work_without_a_script(tmp_path):
    """Choosing a filter is checking a radio button; the style sheet then hides the other cards."""
    page = report(tmp_path, [f"x{i}" for i in range(30)]).read_text(encoding="utf-8")
    names = re.findall(r'class="filter" type="radio" name="(\w+)" id="\1-([\w-]+)"', page)
    assert {"show", "class"} == {group for group, _ in names} and len(names) > 20
    for group, name in names:
        assert page.count(f'<label for="{group}-{name}">') == 1
        if name != "all":
            assert f"#{group}-{name}:checked ~ .cards .card:not(.{name}) {{ display: none; }}" in page
            assert re.search(rf'<article class="card[^"]* {name}[ "]', page)
