"""README and docs say what is there: verbs, rooms, files, links."""

from __future__ import annotations

import importlib.util
import re

import pytest

from anomalyr1.cli.main import app, data_verbs
from support.places import ROOT
from test_structure import ORDER

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]


def names(verbs):
    return {command.callback.__name__ for command in verbs.registered_commands}


def section(title):
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 900


def test_the_readme_names_every_verb_and_no_other():
    told = set(re.findall(r"`(?:data )?([a-z]+)`", section("The verbs")))
    assert told == names(app) | names(data_verbs)


def test_the_readme_lists_every_room_in_order():
    listing = section("Layout")
    told = re.findall(
        r"(?<![\w/])([a-z_]+)(?:/|\.py)(?=\s)",
        listing.partition("src/anomalyr1/")[2].partition("benchmarks/")[0],
    )
    assert set(told) == {*ORDER, "recipes"}


def test_the_list_of_files_is_that_of_the_docstrings():
    spec = importlib.util.spec_from_file_location("layout", ROOT / "docs" / "layout.py")
    layout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert page == layout.insert(page, layout.layout(ORDER)), "python docs/layout.py writes it"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith(("http", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_commands_of_measured_figures_are_there():
    measured = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    scripts = set(re.findall(r"(?:benchmarks/|`)(\w+\.py)", measured))
    assert scripts and all((ROOT / "benchmarks" / name).is_file() for name in scripts)


def written_twice(text):
    """The places that commands of more than one verb write into, so that the later one would be refused."""
    places = re.findall(
        r"anomalyr1 ((?:data )?[\w-]+)(?:(?!anomalyr1|`|\n\n).)*?--(?:out|to) ([\w-]+)", text, re.S
    )
    verbs = {place: {verb for verb, named in places if named == place} for _, place in places}
    return {place for place, of_place in verbs.items() if len(of_place) > 1}


def test_the_commands_of_the_guide_run_one_after_another():
    text = (ROOT / "docs" / "guide" / "first-policy.md").read_text(encoding="utf-8")
    assert written_twice(text) == set()
    assert written_twice(text.replace("--out line", "--out judged")) == {"judged"}  # the control


def test_docs_mention_files_that_are_there():
    for page in PAGES:
        for name in re.findall(
            r"`((?:tests|benchmarks|docs)/[\w/.-]+\.(?:py|md))`", page.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"
