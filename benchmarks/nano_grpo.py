"""Whether `nano-grpo` teaches nano drawn categories that it never saw, and shuffled rewards do not.

    OMP_NUM_THREADS=1 python benchmarks/nano_grpo.py --out runs/nano-grpo-seeds

Trains the shipped recipe from each seed, with its rewards and with the same rewards dealt anew among the
completions of a question. Asks all policies all questions about the same held-out drawings, and for the
verdict alone about more of them, since AUROC needs many. A seed a line: accuracy of all questions with
options and AUROC of the anomaly score less those of the start, with 95 % intervals over images. What is
finished is not run again, so seeds and arms may be run one by one, side by side, and printed together.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from anomalyr1.reproduction.effects import by_test, in_points
from anomalyr1.reproduction.judge import judge, read_judged
from anomalyr1.reproduction.page import START
from anomalyr1.reproduction.samples import choose_samples, write_records
from anomalyr1.reproduction.study import JUDGED
from anomalyr1.training.recipes import load_recipe
from anomalyr1.training.run import train
from anomalyr1.training.run_folder import RECIPE

ARMS = {"rewards": "", "shuffled": "/shuffled"}
"""Name -> what is put behind the names of the rewards."""
TESTS = {"held out": ("accuracy", "box mIoU"), "verdicts": ("AUROC", "balanced yes/no", "found", "passed")}
"""Test -> the figures that it tells."""


def main() -> None:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--held-out", default="drawn:dev?n=480&seed=5&references=0", help="all questions")
    parser.add_argument(
        "--verdicts", default="drawn:dev?n=3000&seed=6&references=0", help="the verdict alone"
    )
    parser.add_argument("changes", nargs="*", help="overrides of the recipe")
    given = parser.parse_args()
    require_same(
        given.out, {"held out": given.held_out, "verdicts": given.verdicts, "changes": given.changes}
    )
    tests = {
        "held out": drawn(given.out / "held-out", given.held_out),
        "verdicts": drawn(given.out / "verdicts", given.verdicts, True),
    }
    runs = {START: [given.out / START]}
    if not (given.out / START / JUDGED).exists():
        asked(load_recipe("nano-grpo").model, tests, given.out / START)
    for arm in given.arms:
        runs[arm] = [given.out / f"{arm}-{seed}" for seed in given.seeds]
        for seed, folder in zip(given.seeds, runs[arm], strict=True):
            recipe = load_recipe("nano-grpo", ["held_out=[]", f"seed={seed}", *given.changes])
            recipe = recipe.model_copy(
                update={"rewards": {f"{name}{ARMS[arm]}": weight for name, weight in recipe.rewards.items()}}
            )
            if not (folder / JUDGED).exists():
                taught = train(recipe, folder / "run", resume=(folder / "run" / RECIPE).exists())
                asked(str(taught), tests, folder)
    answers = {name: [read_judged(folder / JUDGED) for folder in folders] for name, folders in runs.items()}
    for test, found in by_test(answers, TESTS).items():
        for name in TESTS[test]:
            start = found.figure(START, name)
            print(f"{test}, {name}: start {100 * start.value:.1f}" if start else name)
            for arm in given.arms:
                seeds = "; ".join(in_points(one) for one in found.by_seed(arm, START, name))
                print(f"  {arm}: {seeds}; mean {in_points(found.difference(arm, START, name))}")


def require_same(out: Path, settings: dict[str, object]) -> None:
    """Stop where `out` holds answers to other questions, or of runs with other settings."""
    note = out / "settings.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{note} has other settings than {settings}; name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(settings), encoding="utf-8")


def drawn(folder: Path, spec: str, verdict_alone: bool = False) -> Path:
    """The file of a test set, drawn once."""
    file = folder / "samples.jsonl"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        samples = choose_samples(spec, folder, 10_000)
        less = {"questions": (), "boxes": None, "mask": None}
        write_records(file, [one.model_copy(update=less) for one in samples] if verdict_alone else samples)
    return file


def asked(model: str, tests: dict[str, Path], folder: Path) -> None:
    """Keep what a policy answers."""
    folder.mkdir(parents=True, exist_ok=True)
    judge(model, tests, folder / JUDGED, load_recipe("nano-grpo"))


if __name__ == "__main__":
    main()
