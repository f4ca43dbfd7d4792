"""Time and memory of `anomalyr1 evaluate FILE` for 10,000 MMAD questions.

    python benchmarks/evaluate_speed.py

The file is made up: 2,500 images, four questions each, about a kilobyte of reasoning a reply; a tenth of the
replies has no readable answer, and there are 40 classes. No image is opened, as none is for MMAD. Peak memory
is that of the whole process, as the system counts it. Must hold: under 10 s and 500 MB.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anomalyr1 import answers, records
from anomalyr1.data.sources import load_source
from anomalyr1.evaluation.run import data_digest
from anomalyr1.types import Fingerprint, Inspection, Reply

KINDS = ("Anomaly Detection", "Defect Classification", "Defect Localization", "Object Analysis")
DATASETS = ("DS-MVTec", "MVTec-LOCO", "VisA", "GoodsAD")
WORDS = (
    "the",
    "surface",
    "shows",
    "fine",
    "lines",
    "near",
    "left",
    "edge",
    "and",
    "even",
    "colour",
    "with",
    "no",
    "mark",
    "on",
    "it",
)


def main(images: int) -> None:
    """Make the file, evaluate it in a process of its own, and say what that took."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "mmad.json").write_text(json.dumps({key: entry(key) for key in map(name, range(images))}))
        write(root)
        size = (root / "inspections.jsonl").stat().st_size / 1e6
        command = [
            sys.executable,
            "-m",
            "anomalyr1",
            "evaluate",
            str(root / "inspections.jsonl"),
            "--data",
            f"mmad:{root}",
        ]
        started = time.perf_counter()
        subprocess.run([*command, "--out", str(root / "out")], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
        time_used = f"{seconds:.1f} s ({busy:.1f} s of processor time)"
        print(f"{4 * images} questions, a file of {size:.0f} MB: {time_used}, {peak:.0f} MB")


def name(number: int) -> str:
    """The path of an image; every third is good."""
    state = "good" if number % 3 == 0 else "broken"
    return f"{DATASETS[number % 4]}/class {number // 4 % 10}/test/{state}/{number:05}.png"


def entry(key: str) -> dict[str, object]:
    """What MMAD says about an image."""
    options = (
        {"A": "Yes.", "B": "No."},
        {"A": "A red mark", "B": "A scratch", "C": "A dent", "D": "Nothing at all"},
    )
    asked = [
        {
            "Question": "What is it?",
            "Options": options[kind != KINDS[0]],
            "Answer": "B" if "/good/" in key else "A",
            "type": kind,
        }
        for kind in KINDS
    ]
    return {"conversation": asked, "mask_path": "", "random_templates": [], "similar_templates": []}


def write(root: Path) -> None:
    """Inspections of all images."""
    rng = random.Random(0)
    samples = load_source(f"mmad:{root}", {}, root).samples
    run = Fingerprint(
        model="made up",
        family="qwen2_5_vl",
        style="ours",
        max_pixels=1,
        engine="none",
        given=data_digest(samples),
    )
    with (root / "inspections.jsonl").open("w") as file:
        file.write(run.to_json() + "\n")
        for sample in samples:
            replies = []
            for question in sample.questions:
                thought = " ".join(rng.choices(WORDS, k=200))
                letter = rng.choice(question.letters)
                text = f"<think>{thought}. So the answer is {letter}.</think><answer>{letter}</answer>"
                text = thought if rng.random() < 0.1 else text
                replies.append(
                    Reply(
                        question_id=question.id, completion=text, answer=answers.parse(text, question.options)
                    )
                )
            file.write(
                Inspection(
                    sample_id=sample.id, verdict="good", score=rng.random(), replies=tuple(replies)
                ).to_json()
                + "\n"
            )
    records.read(root / "inspections.jsonl")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2500)
    main(parser.parse_args().images)
