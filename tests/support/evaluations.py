"""A tiny MMAD on disk, and inspections of it."""

import json

from PIL import Image

from anomalyr1 import answers, records
from anomalyr1.data.sources import load_source
from anomalyr1.evaluation.run import data_digest
from anomalyr1.types import Fingerprint, Inspection, Reply

RUN = Fingerprint(model="made/up", family="qwen2_5_vl", style="ours@1", max_pixels=100_352, engine="local")
OPTIONS = {"A": "Yes.", "B": "No."}, {"A": "A <b>mark</b>", "B": "A scratch", "C": "A dent", "D": "Nothing"}


def make(root, images=12):
    """A folder with mmad.json and pictures: every third image is good, every question has a gold answer."""
    entries = {}
    for number in range(images):
        dataset, good = ("VisA", "GoodsAD")[number % 2], number % 3 == 0
        key = f"{dataset}/part/test/{'good' if good else 'broken'}/{number:03}.png"
        asked = [
            {
                "Question": "Is there any defect in the object?",
                "Options": OPTIONS[0],
                "Answer": "B" if good else "A",
                "type": "Anomaly Detection",
            },
            {
                "Question": "What is it?",
                "Options": OPTIONS[1],
                "Answer": "ABCD"[number % 4],
                "type": "Object Analysis",
            },
        ]
        entries[key] = {
            "conversation": asked,
            "mask_path": "",
            "random_templates": [],
            "similar_templates": [],
        }
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number * 20, 90, 120)).save(root / key)
    (root / "mmad.json").write_text(json.dumps(entries))
    return f"mmad:{root}"


def says(letter, conclusion=None):
    return f"<think>I look at it. So the answer is {conclusion or letter}.</think><answer>{letter}</answer>"


def inspect(spec, path, choose, run=RUN, **options):
    """An inspections file of the data, where `choose` (sample, question) gives each completion; None = the
    image failed.
    """
    samples = load_source(spec, options, path.parent).samples
    with records.Writer(path, run.model_copy(update={"given": data_digest(samples)})) as writer:
        for sample in samples:
            texts = [choose(sample, question) for question in sample.questions]
            if None in texts:
                writer.append(
                    Inspection(
                        sample_id=sample.id, verdict="unsure", reason="failed", error="cannot be opened"
                    )
                )
                continue
            replies = tuple(
                Reply(question_id=question.id, completion=text, answer=answers.parse(text, question.options))
                for question, text in zip(sample.questions, texts, strict=True)
            )
            writer.append(
                Inspection(
                    sample_id=sample.id,
                    verdict="good",
                    score=0.5,
                    replies=replies,
                    image_sha256=f"{sample.id} as it was",
                )
            )
    return path
