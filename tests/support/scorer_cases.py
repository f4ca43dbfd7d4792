"""Random answer files as MMAD's scorer reads them, 0 to 40 % of the answers invalid; the same seed gives the
same file anywhere.
"""

import json
import random

from anomalyr1.evaluation.rows import AnsweredQuestion

DATASETS = {
    "DS-MVTec": "bottle/image",
    "MVTec-LOCO": "juice_bottle/test",
    "VisA": "candle/test",
    "GoodsAD": "food_box/test",
}
KINDS = (
    "Anomaly Detection", "Defect Classification", "Defect Localization", "Defect Description", "Defect Analysis",
    "Object Classification", "Object Analysis", "Object Structure", "Object Details",
)  # fmt: skip
INVALID = ("", "F", "a", "None", "I cannot tell.", "AB")


def answers(seed):
    """The answers of one file, in the form of MMAD's own scripts."""
    rng = random.Random(seed)
    invalid = rng.choice((0.0, rng.uniform(0, 0.05), rng.uniform(0, 0.4), 0.4))
    datasets = rng.sample(sorted(DATASETS), rng.randint(1, 4))
    kinds = KINDS if rng.random() < 0.7 else rng.sample(KINDS, rng.randint(1, 8))
    good_share = rng.choice((0.0, 0.3, 0.3, 0.5, 1.0))
    found = []
    for number in range(rng.randint(5, 60)):
        dataset = rng.choice(datasets)
        folder = (
            "good"
            if rng.random() < good_share
            else rng.choice(("broken", "logical_anomalies", "goods_missing"))
        )
        image = f"{dataset}/{DATASETS[dataset]}/{folder}/{number:03}.png"
        for kind in rng.sample(kinds, rng.randint(1, min(5, len(kinds)))):
            letters = "AB" if kind == "Anomaly Detection" else "ABCD"
            gold = rng.choice(letters)
            given = gold if rng.random() < 0.6 else rng.choice("ABCDE")
            given = rng.choice(INVALID) if rng.random() < invalid else given
            gold = rng.choice(("F", "")) if rng.random() < invalid / 20 else gold
            found.append({"image": image, "question_type": kind, "correct_answer": gold, "gpt_answer": given})
            if rng.random() < 0.03:  # the very same answer again, as resumed runs have it
                found.append(dict(found[-1]))
    if rng.random() < 0.3:
        rng.shuffle(found)
    return found


def rows(found):
    """The same answers as our rows."""
    return [
        AnsweredQuestion(
            one["image"], f"{one['image']}#{place}", one["question_type"].lower(), one["image"].split("/")[0], "", one["correct_answer"],
            None, None, one["gpt_answer"], "lenient", None, "good" not in one["image"], False,
        )
        for place, one in enumerate(found)
    ]  # fmt: skip


def line(found):
    """One line that stands for a file, to see whether the generator still makes it."""
    return json.dumps(found, sort_keys=True)
