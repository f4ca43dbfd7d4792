"""Script payloads in file names, knowledge and completions: in a real browser nothing executes and no request
leaves.

Three layers are shown apart: the page as written; the payloads unescaped behind the page's content security
policy (its second line of defence); and unescaped without the policy, where the payloads must fire, or this
test would prove nothing.
"""

from pathlib import Path

import pytest

from anomalyr1 import answers, report
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.types import Box
from support import recordings
from support.pages import CHROMIUM, LIVE, PAYLOADS, browse, real

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")

# {js} runs code, {url} asks for something; both name the canary and the payload's number.


def inspected(folder: Path, texts: list[str]) -> Path:
    """The page of one inspection a text, which stands in file name, knowledge, reasoning, label, unreadable
    completions and model name.
    """
    samples, completions = [], {}
    for i, text in enumerate(texts):
        path = recordings.draw(
            folder / f"{i:03}{text[:180]}".replace("/", "\u2215")
        )  # a slash cannot be in a name
        sample = recordings.sample(path, knowledge=real(text))
        box = Box(x1=60, y1=40, x2=80, y2=54, label=real(text))
        written = answers.write(real(text), "A"), answers.write(real(text), [box], recordings.FRAME)
        completions[sample.id] = written if i % 3 else (real(text), real(text))
        samples.append(sample)
    recordings.record(folder / "recorded.jsonl", completions)
    inspector = Inspector(ReplayEngine(folder / "recorded.jsonl"), masks="box")
    results = inspector.run(samples, folder / "out" / "inspections.jsonl")
    fingerprint = inspector.fingerprint().model_copy(
        update={"model": real(texts[0]), "evidence": real(texts[4 % len(texts)])}
    )
    about = report.About(fingerprint, real(texts[1]), real(texts[1]), real(texts[2]), real(texts[3]))
    return report.write(folder / "out", list(zip(samples, results, strict=True)), about)


def test_300_payloads_do_nothing(tmp_path, canary):
    assert len(PAYLOADS) == 300 == len(set(PAYLOADS))
    page = inspected(tmp_path / "hostile", PAYLOADS)
    dom = browse(page, tmp_path / "profile", canary)
    assert dom.title == "Inspection of 300 images"
    assert canary.hits == []
    assert dom.handlers == []
    plain = browse(
        inspected(tmp_path / "plain", [f"x{i}" for i in range(300)]), tmp_path / "profile2", canary
    )
    assert sorted(dom.tags) == sorted(plain.tags)  # no payload became an element
    assert dom.tags.count("article") == 300


def unescaped(page: Path, payloads: list[str], keep_policy: bool) -> None:
    """A page as it would be with escaping off, with or without its policy."""
    one = report.page([], [], report.About(recordings.FINGERPRINT)).replace(
        "</main>", "".join(map(real, payloads)) + "</main>"
    )
    if not keep_policy:
        one = one.replace("Content-Security-Policy", "nothing")
    page.write_text(one, encoding="utf-8")


@pytest.mark.parametrize("keep_policy", [True, False])
def test_the_policy_alone_stops_payloads_and_without_it_they_fire(tmp_path, canary, keep_policy):
    page = tmp_path / "page.html"
    unescaped(page, LIVE, keep_policy)
    dom = browse(page, tmp_path / "profile", canary)
    assert (dom.title == "canary") is not keep_policy
    assert bool(canary.hits) is not keep_policy
