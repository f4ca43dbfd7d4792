"""How well the anomaly score ranks, what votes add to greedy verdicts, and what calibration mends.

    python benchmarks/inspect_scores.py [--count 80] [--shared DIR]
        [--sets seen,dev,magnetic_tile,bsdata,elpv] [--out scores] [--json FILE]

Drawn parts are held out: seeds that neither training nor development has used, of the seen categories and of
those for development; the final ones are never drawn here. Real sets are half good, half defective:
`DIR/data` holds `magnetic_tile` and `bsdata`, each with an `index.jsonl`; `elpv` needs `pip install
elpv-dataset`. A set whose files are missing is left out, with a note.

Every image is inspected three times: greedy, with votes, and fast. AUROC is that of the score, where an image
without one counts as 0.5; in the balanced accuracy of the verdicts "unsure" is wrong for good and defective
parts alike. Intervals are 95 %, from a bootstrap within good and within defective parts, paired where two
ways are compared. Calibration is fitted on one half and measured on the other, and the other way round; the
figures are means of both. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anomalyr1 import Inspector, data, prompts
from anomalyr1.drawn.dataset import write
from anomalyr1.engines.engine import GREEDY, Sampling
from anomalyr1.evaluation import calibration, curves
from anomalyr1.inspection.inspector import VOTING
from anomalyr1.types import InputError, Inspection, Sample, SetupError

DRAWN = {"seen": "drawn:seen?n={}&seed=6200", "dev": "drawn:dev?n={}&seed=6700"}
"""Images of a spec start at its seed times a million: before what nano is trained and examined on, which is
from 7,000 million on."""
REAL = ("magnetic_tile", "bsdata", "elpv")
DRAWS = 2000
Arrays = NDArray[Any]


def samples_of(name: str, count: int, shared: Path | None, folder: Path) -> list[Sample]:
    """`count` samples of a set, without reference images.

    Raises `InputError` or `SetupError` where it cannot be had.
    """
    if name in DRAWN:
        drawn = write(DRAWN[name].format(count), folder / name, prompts.GROUNDING_TEXT)
        return [sample.model_copy(update={"references": ()}) for sample in drawn]
    if name not in REAL:
        raise InputError(f"unknown set {name!r}; choose among {', '.join((*DRAWN, *REAL))}")
    if name != "elpv" and shared is None:
        raise InputError("its images are in a folder that --shared names")
    known = [
        one
        for one in data.load("elpv" if name == "elpv" else f"index:{shared / 'data' / name}")
        if one.anomalous is not None
    ]
    order = np.random.default_rng(0).permutation(len(known))
    kinds = [
        [known[i] for i in order if known[i].anomalous is truth][: count // 2] for truth in (True, False)
    ]
    return [one.model_copy(update={"references": ()}) for pair in zip(*kinds, strict=True) for one in pair]


def figures(found: Sequence[Inspection], defect: Arrays) -> dict[str, Arrays]:
    """The score (0.5 where there is none) and whether the verdict is right, of every image."""
    verdicts = np.array([one.verdict for one in found])
    return {
        "score": np.array([0.5 if one.score is None else one.score for one in found]),
        "right": verdicts == np.where(defect, "defect", "good"),
        "unsure": verdicts == "unsure",
        "unscored": np.array([one.score is None for one in found]),
    }


def balanced(right: Arrays, defect: Arrays) -> float:
    """The mean of the shares of good and of defective parts that are right."""
    return float((right[defect].mean() + right[~defect].mean()) / 2)


def interval(
    measure: Callable[[Arrays], float], defect: Arrays, draws: int = DRAWS
) -> tuple[float, float, float]:
    """`measure` of all places, and the ends of its 95 % bootstrap interval.

    Good and defective parts are drawn again by themselves.
    """
    generator = np.random.default_rng(0)
    kinds = [np.flatnonzero(defect), np.flatnonzero(~defect)]
    drawn = [
        measure(np.concatenate([generator.choice(kind, len(kind)) for kind in kinds])) for _ in range(draws)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return measure(np.arange(len(defect))), float(low), float(high)


def measured(ways: dict[str, dict[str, Arrays]], defect: Arrays) -> dict[str, Any]:
    """AUROC and balanced accuracy of every way, and how votes and fast differ from greedy."""

    def area(way: str, at: Arrays) -> float:
        return curves.auroc(ways[way]["score"][at], defect[at])

    def accuracy(way: str, at: Arrays) -> float:
        return balanced(ways[way]["right"][at], defect[at])

    known: dict[str, Callable[[str, Arrays], float]] = {"AUROC": area, "balanced accuracy": accuracy}
    result: dict[str, Any] = {}
    for way, own in ways.items():
        result[way] = {name: interval(lambda at, f=of, w=way: f(w, at), defect) for name, of in known.items()}
        result[way] |= {"unsure": float(own["unsure"].mean()), "without a score": int(own["unscored"].sum())}
        result[way]["calibration"] = calibrated(own["score"], defect)
    for way in list(ways)[1:]:
        result[f"{way} - greedy"] = {
            name: interval(lambda at, f=of, w=way: f(w, at) - f("greedy", at), defect)
            for name, of in known.items()
        }
    return result


def calibrated(scores: Arrays, defect: Arrays) -> dict[str, dict[str, float]]:
    """Calibration error and Brier score on one half before and after a fit on the other, both ways round."""
    generator = np.random.default_rng(0)
    first = np.zeros(len(defect), dtype=bool)
    for kind in (defect, ~defect):
        places = generator.permutation(np.flatnonzero(kind))
        first[places[: len(places) // 2]] = True
    halves = ((first, ~first), (~first, first))
    result = {}
    for method in ("before", "platt", "temperature"):
        errors, briers = [], []
        for fitted, test in halves:
            after = (
                scores[test]
                if method == "before"
                else calibration.fit(scores[fitted], defect[fitted], method)(scores[test])
            )
            errors.append(curves.calibration_error(after, defect[test]))
            briers.append(float(((after - defect[test]) ** 2).mean()))
        result[method] = {"error": float(np.mean(errors)), "Brier": float(np.mean(briers))}
    return result


def report(name: str, found: dict[str, Any]) -> None:
    """Print a set's lines."""
    for way, own in found["ways"].items():
        shown = "  ".join(
            f"{what} {own[what][0]:+.3f} [{own[what][1]:+.3f}, {own[what][2]:+.3f}]"
            if " - " in way
            else f"{what} {own[what][0]:.3f} [{own[what][1]:.3f}, {own[what][2]:.3f}]"
            for what in ("AUROC", "balanced accuracy")
        )
        if "calibration" in own:
            error, brier = (
                [f"{one[what]:.3f}" for one in own["calibration"].values()] for what in ("error", "Brier")
            )
            shown += f"  unsure {own['unsure']:.2f}, {own['without a score']} without a score"
            shown += f"  error {' / '.join(error)}, Brier {' / '.join(brier)}"
            shown += f"  {found['seconds'][way]:.2f} s an image"
        print(f"{name:14} {way:15} {shown}", flush=True)


def main() -> None:
    """Print the lines of every set, and write all of it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano")
    parser.add_argument("--count", type=int, default=80, help="images a set")
    parser.add_argument("--votes", type=int, default=8)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--sets", default=",".join((*DRAWN, *REAL)))
    parser.add_argument(
        "--out", type=Path, default=Path("inspections/scores"), help="folder for inspections and drawn parts"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    engine = Inspector.load(given.model).engine
    asked: dict[str, tuple[Sampling, int]] = {
        "greedy": (GREEDY, 1),
        f"votes {given.votes}": (VOTING, given.votes),
        "fast": (Sampling(fast=True), 1),
    }
    result: dict[str, Any] = {"run": engine.fingerprint().model_dump(), "sets": {}}
    print("calibration error and Brier score: before / platt / temperature")
    for name in given.sets.split(","):
        try:
            samples = samples_of(name, given.count, given.shared, given.out)
        except (InputError, SetupError) as error:
            print(f"{name:14} left out: {error}")
            continue
        defect = np.array([bool(one.anomalous) for one in samples])
        ways, seconds = {}, {}
        for way, (sampling, votes) in asked.items():
            began = time.perf_counter()
            inspector = Inspector(engine, masks="box", sampling=sampling, votes=votes)
            inspected = inspector.run(
                samples, given.out / f"{name}-{len(samples)}-{way.replace(' ', '')}.jsonl"
            )
            seconds[way] = (time.perf_counter() - began) / len(samples)
            ways[way] = figures(inspected, defect)
        result["sets"][name] = {
            "images": len(samples),
            "defective": int(defect.sum()),
            "seconds": seconds,
            "ways": measured(ways, defect),
        }
        report(f"{name} {len(samples)}", result["sets"][name])
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
