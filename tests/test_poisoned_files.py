"""Every file that a user may be handed, poisoned leaf by leaf: its reader takes it, or refuses it by name.

A reader is given a file of its own form in which one value is replaced: by a number of 5,000 digits, 1e308,
a list that is nested 3,000 deep, half a surrogate pair and so on. Nothing but `InputError` and `SetupError`
may come out. Files are read in this process by the reading functions, which is what the verbs do.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from anomalyr1 import data, files, records, types
from anomalyr1.data import leaks, sources, splits
from anomalyr1.data.protocols import SplitPlan
from anomalyr1.engines.endpoint_config import EndpointConfig
from anomalyr1.evaluation import calibration, localisation, other_detectors, provenance, record, run
from anomalyr1.inspection import thresholds
from anomalyr1.report import gallery, svg, training_page
from anomalyr1.training import diagnosis, run_pages
from anomalyr1.training.explain import explain_group
from anomalyr1.training.recipes import load_recipe
from anomalyr1.training.run_folder import GROUPS, METRICS
from anomalyr1.types import Box, InputError, Inspection, Mask, Sample, SetupError
from support import evaluations, runs

POISONS = {
    "400 digits": "9" * 400,
    "20 digits": "1" + "0" * 19,
    "2**63": str(2**63),
    "largest": "1e308",
    "least": "-1e308",
    "tiny": "5e-324",
    "minus zero": "-0",
    "minus one": "-1",
    "infinite": "1e999",
    "NaN": "NaN",
    "true": "true",
    "null": "null",
    "empty": '""',
    "word": '"x"',
    "date": "2024-13-01",
    "surrogate": '"\\ud800"',
    "NUL": '"a\\u0000b"',
    "list": "[]",
    "object": "{}",
    "numbers": "[1, 2, 3, 4]",
}
HEAVY_POISONS = {
    "digits": "9" * 5000,
    "long": '"' + "a" * 100_000 + '"',
    "nested": "[" * 3000 + "]" * 3000,
    "half nested": "[" * 900 + "]" * 900,
    "nested objects": '{"a":' * 900 + "1" + "}" * 900,
}
"""Slow to read, so that they stand in few places."""
YAML_POISONS = {
    "not an int": "!!int x",
    "not a time": "!!timestamp x",
    "code": "!!python/object/apply:os.getcwd []",
    "alias": "&a [1, *a]",
    "anchor": "&a x",
    "no date": "2024-02-30",
    "key twice": "{a: 1, a: 2}",
    "odd key": "{[1]: 2}",
    "sexagesimal": "1:99:99",
}
MARK = "@poison@"
MOST_PLACES, HEAVY_PLACE = 8, 1
"""In so many places of a document poison is put, heavy one in the place of this number alone."""


def leaf_paths(value, path=()):
    """The places of all values in a JSON document, inner ones included, the whole at the end."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield from leaf_paths(child, (*path, key))
    yield path


def poisoned(document, poisons):
    """The name of the case and the text of each poisoned document."""
    paths = list(leaf_paths(document))
    for number, path in enumerate(paths[:: len(paths) // MOST_PLACES + 1]):
        holder = [copy.deepcopy(document)]
        place, key = holder, 0
        for step in path:
            place, key = place[key], step
        place[key] = MARK
        text = json.dumps(holder[0])
        for name, poison in (poisons | HEAVY_POISONS if number == HEAVY_PLACE else poisons).items():
            yield f"{'.'.join(map(str, path))}: {name}", text.replace(f'"{MARK}"', poison)


def poisoned_table(text, separator):
    """The same for a table: each word of its first two lines."""
    words = [line.split(separator) for line in text.splitlines()]
    for row in range(min(2, len(words))):
        for column in range(len(words[row])):
            for name, poison in (POISONS | HEAVY_POISONS).items():
                changed = [list(line) for line in words]
                changed[row][column] = poison
                yield f"{row}.{column}: {name}", "\n".join(separator.join(line) for line in changed) + "\n"


def inspection():
    return Inspection(
        sample_id="a.png",
        verdict="defect",
        score=0.5,
        reason="It has a crack.",
        boxes=(Box(x1=1, y1=2, x2=9, y2=8, label="crack"),),
        masks=(Mask(size_wh=(3, 2), rle="06", source="box"),),
        votes=types.Votes(verdicts={"defect": 3}),
        replies=(
            types.Reply(question_id="q", completion="A", answer=types.Answer(status="strict", choice="A")),
        ),
        counts={"lenient": 1},
        image_sha256="0" * 64,
    )


def sample():
    question = types.Question(
        id="q", kind="anomaly detection", text="Any defect?", options=("Yes", "No"), answer="A"
    )
    return Sample(
        id="s", image="s.png", anomalous=True, boxes=(Box(x1=1, y1=1, x2=5, y2=5),), questions=(question,)
    )


def lines(*documents):
    return "".join(f"{json.dumps(document)}\n" for document in documents)


def as_document(record_of_ours):
    return json.loads(record_of_ours.to_json())


def read_parent(reader):
    return lambda path: reader(path.parent)


def load(spec):
    return lambda path: list(data.load(f"{spec}:{path}", boxes=False))


def read_run(path):
    """All that is read of a run's folder by `report`, `diagnose` and `explain`."""
    run_pages.write_run_page(path.parent, path.parent / "page")
    diagnosis.diagnose(path.parent)
    explain_group(path.parent)


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}, {"id": 2, "file_name": "b.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 10], "area": 100}],
    "categories": [{"id": 3, "name": "crack"}],
}
INDEX = {
    "image": "a.png", "anomaly": 1, "id": "a", "mask": "m.png", "template": "t.png", "width": 40,
    "height": 30, "defects": ["crack"], "boxes": [[1, 2, 9, 9]], "description": "A crack.", "split": "test",
}  # fmt: skip
CONVERSATION = {
    "image": ["t.png", "a.png"], "id": "c", "type": "Anomaly Detection", "dataset": "d", "category": "p",
    "conversations": [
        {"from": "human", "value": "<image>\nAny defect?\nA. Yes\nB. No"}, {"from": "gpt", "value": "A"},
        {"from": "human", "value": "Where?"},
        {"from": "gpt", "value": [{"bbox_2d": [1, 2, 3, 4], "label": "x"}]},
    ],
}  # fmt: skip
MMAD = {
    "VisA/part/test/broken/0.png": {
        "conversation": [
            {"Question": "Any?", "Options": {"A": "Yes.", "B": "No."}, "Answer": "A",
             "type": "Anomaly Detection"}
        ],
        "mask_path": "m/0.png", "random_templates": ["VisA/part/train/good/1.png"], "similar_templates": [],
    }
}  # fmt: skip
YOLO = {"path": "/x", "train": "images", "names": {"0": "crack", "1": "dent"}, "nc": 2}


def kinds(folder):
    """Name of the kind -> a file of it, its reader, and what it holds: a document, or a list of lines."""
    spec = evaluations.make(folder / "mmad", 3)
    evaluations.inspect(spec, folder / "i.jsonl", lambda one, question: evaluations.says("A"))
    evaluation = run.evaluate_file(folder / "i.jsonl", spec, out=folder / "ev")
    loaded = sources.load_source(spec)
    plan = SplitPlan(protocol="given")
    split = splits.pair(loaded.samples[:1], loaded.samples[1:], plan, (spec, spec), allow_leaks=True)
    fingerprint = as_document(evaluations.RUN)
    scores = calibration.LabelledScores(np.array([0.1, 0.2, 0.7, 0.9]), np.array([0, 0, 1, 1], bool), {})
    threshold = calibration.calibrate(scores, evaluations.RUN, 10, 1)
    endpoint = {"url": "http://127.0.0.1:1", "model": "m", "family": "qwen2_5_vl", "concurrency": 4}
    for name in ("run", "run/final"):
        (folder / name).mkdir()
    (folder / "run" / run_pages.RUN).write_text(json.dumps({"data": [{"spec": "folder:x"}], "seed": 1}))
    runs.made(folder / "run", steps=2, evaluations=((1, {"held_out/found": 0.5}),))
    trace = as_document(leaks.traces(loaded.samples[:1])[0])
    (folder / "run" / leaks.LEARNED).write_text(lines(trace))

    def examine(path):
        """What is said of a model; a file that cannot be read is said, not raised."""
        if provenance.examine(str(path.parent / "final"), loaded).leak_free is None:
            raise InputError("said")

    def last_line(name):
        return [json.loads((folder / "run" / name).read_text().splitlines()[-1])]

    return {
        "inspections": ("i.jsonl", records.read, [fingerprint, as_document(inspection())]),
        "evaluation": ("ev/evaluation.json", read_parent(record.read_evaluation), as_document(evaluation)),
        "samples": ("ev/samples.jsonl", lambda path: run._read_samples(path, None), [as_document(sample())]),
        "split": ("split.json", splits.read, as_document(split)),
        "threshold": ("threshold.json", thresholds.Threshold.read, as_document(threshold)),
        "endpoint": ("endpoint.yaml", EndpointConfig.read, endpoint),
        "recipe": ("recipe.yaml", lambda path: load_recipe(str(path)), as_document(runs.RECIPE)),
        "groups": (f"run/{GROUPS}", read_run, last_line(GROUPS)),
        "metrics": (f"run/{METRICS}", read_run, last_line(METRICS)),
        "held-out": (f"run/{run_pages.EVALUATIONS}", read_run, last_line(run_pages.EVALUATIONS)),
        "run.json": (f"run/{run_pages.RUN}", read_run, {"data": [{"spec": "x"}], "seed": 1}),
        "run.json of a model": (f"run/{run_pages.RUN}", examine, {"data": [{"spec": "x"}], "seed": 1}),
        "learned": (f"run/{leaks.LEARNED}", examine, [trace]),
        "coco": ("coco.json", load("coco"), COCO),
        "yolo": ("yolo/data.yaml", read_parent(load("yolo")), YOLO),
        "index": ("index.jsonl", load("index"), [INDEX]),
        "jsonl": ("s.jsonl", load("jsonl"), [as_document(sample())]),
        "conversations": ("c.jsonl", load("jsonl"), [CONVERSATION]),
        "mmad": ("mmad.json", lambda path: list(data.load(f"mmad:{path}", fix="all")), MMAD),
        "knowledge": (
            "know/domain_knowledge.json",
            read_parent(lambda path: list(data.load(f"mmad:{path}", knowledge=True))),
            {"VisA": {"part": {"good": "It is whole."}}},
        ),
    }


TABLES = {
    "scores": ("s.csv", other_detectors.read_scores, "sample_id,score,verdict\na,0.5,good\n", ","),
    "converted": (
        "v.csv",
        lambda path: other_detectors.convert(
            path, path.with_name(f"{len(list(path.parent.iterdir()))}.jsonl"), "x"
        ),
        "sample_id,score\na,-1e308\nb,0.5\nc,3\n",
        ",",
    ),
    "labels": ("l.csv", thresholds.read_labels, "sample_id,label\na,good\nb,defect\n", ","),
    "yolo labels": ("y/labels/a.txt", lambda path: load("yolo")(path.parents[1]), "0 0.5 0.5 0.2 0.2\n", " "),
    "visa": (
        "v/split_csv/1cls.csv",
        lambda path: load("visa")(path.parents[1]),
        "object,split,label,image,mask\np,test,normal,p/Data/Images/Normal/0.png,\n",
        ",",
    ),
}


KINDS = (
    "inspections", "evaluation", "samples", "split", "threshold", "endpoint", "recipe", "groups", "metrics",
    "held-out", "run.json", "run.json of a model", "learned", "coco", "yolo", "index", "jsonl",
    "conversations", "mmad", "knowledge",
)  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with a valid file of each kind, and the kinds."""
    folder = tmp_path_factory.mktemp("poisoned")
    known = kinds(folder)
    assert set(known) == set(KINDS)
    for name in ("yolo/images/a.png", "know/mmad.json", "y/images/a.png", "v/p/Data/Images/Normal/0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(MMAD))
    return folder, known


def read_all(cases, path, reader):
    """Read each case; how often it was taken and refused, and what else came out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    outcomes, escaped = Counter(), []
    for name, text in cases:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            reader(path)
            outcomes["taken"] += 1
        except (InputError, SetupError) as error:
            outcomes["refused"] += 1
            if len(str(error)) > 2000 + len(str(path)):
                escaped.append(f"{name}: a message of {len(str(error))} characters")
        except Exception as error:  # noqa: BLE001  # anything else is what is looked for
            escaped.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
    return outcomes, escaped


def cases_of(content, poisons):
    """The name and the text of each case; of a list of documents each stands on a line."""
    if not isinstance(content, list):
        yield from poisoned(content, poisons)
        return
    for number, document in enumerate(content):
        before, after = lines(*content[:number]), lines(*content[number + 1 :])
        for case, text in poisoned(document, poisons):
            yield f"line {number + 1}, {case}", f"{before}{text}\n{after}"


@pytest.mark.parametrize("kind", KINDS)
def test_poisoned_documents(places, monkeypatch, kind):
    monkeypatch.setattr(training_page, "write_together", lambda folder, files: None)  # no wait for the disk,
    monkeypatch.setattr(training_page, "render", lambda *names, **values: "")  # for templates,
    monkeypatch.setattr(diagnosis, "read_recipe", lambda path: runs.RECIPE)  # or for YAML
    folder, known = places
    name, reader, content = known[kind]
    path = folder / name
    whole = lines(*content) if isinstance(content, list) else json.dumps(content)
    cases = list(cases_of(content, POISONS | YAML_POISONS if path.suffix == ".yaml" else POISONS))
    outcomes, escaped = read_all([*cases, ("whole", whole)], path, reader)
    reader(path)
    assert not escaped, f"{len(escaped)} of {len(cases)}: " + "\n".join(escaped[:12])
    assert outcomes["refused"]
    print(kind, dict(outcomes))


@pytest.mark.parametrize("kind", TABLES)
def test_poisoned_tables(places, kind):
    name, reader, text, separator = TABLES[kind]
    outcomes, escaped = read_all(poisoned_table(text, separator), places[0] / name, reader)
    assert not escaped, "\n".join(escaped[:12])
    assert outcomes["refused"]


def test_without_the_limit_on_integers_a_number_of_many_digits_escapes(places, monkeypatch):
    """The control: the readers do meet what they are guarded against."""
    monkeypatch.setattr(files, "integer_of", int)
    folder, known = places
    name, reader, content = known["coco"]
    cases = [case for case in cases_of(content, POISONS) if "digits" in case[0]]
    assert read_all(cases, folder / name, reader)[0] != Counter(refused=len(cases))


EXTREMES = (1e308, -1e308, 5e-324, -5e-324, 0.0, 1e16, 1e16 + 2, 1.0, 1.0 + 2e-16, float("inf"), float("nan"))


def test_a_chart_is_drawn_of_any_values():
    for a, b in itertools.product(EXTREMES, repeat=2):
        for points in ([(a, b)], [(a, b), (b, a), (1.0, 1.0)]):
            curves = [svg.Curve("x", points, look) for look in ("line", "dots", "dashed")]
            ElementTree.fromstring(svg.chart("x", "y", curves))


@pytest.mark.parametrize("extreme", [1e9, -1e9, 5e-324, 1e-9])
def test_boxes_as_large_as_they_may_be_are_measured_and_drawn(tmp_path, extreme):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    low, high = sorted((extreme, 7.0))
    far = (Box(x1=low, y1=low, x2=high, y2=high, label="x"),)
    near = (Box(x1=1, y1=1, x2=5, y2=5),)
    for claimed, true in itertools.product((far, near), repeat=2):
        part = Sample(id="a", image=tmp_path / "a.png", anomalous=True, boxes=true)
        said = Inspection(sample_id="a", verdict="defect", score=5e-324, boxes=claimed)
        assert localisation.localise([(part, said)], repeats=2)
        assert gallery.case(part, said).marked_picture and not gallery.case(part, said).problem


@pytest.mark.parametrize("number", [1e10, -1e308, 1e308])
def test_a_corner_that_no_image_has_makes_no_box(number):
    with pytest.raises(ValidationError, match="x2"):
        Box(x1=number - abs(number), y1=0, x2=number, y2=1)
