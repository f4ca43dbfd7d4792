"""What ROAM adds to the answer reward in logged completions, and how its letters are read.

    python benchmarks/roam_signal.py RUN [RUN ...]

For the groups with options in training runs (`groups.jsonl`): how far answer + ROAM ranks a group's
completions otherwise than the answer alone; what reasoning concludes as our reader and the released letter
extraction read it, and ROAM by either; the released ROAM once more with every article "A" ("A crack is
visible") written as "One", which changes nothing that is said; how many sentences begin alike.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomalyr1.answers import published
from anomalyr1.rewards import accuracy, roam
from anomalyr1.training.run_folder import SAME, Group, read_groups

Floats = NDArray[np.float64]
ARTICLE = re.compile(r"\bA(?= [a-z])")
SENTENCE = re.compile(r"[^.:]+[.:]")
BEGINNING, COMMONEST = 3, 10


def main() -> None:
    """Read, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    groups = [
        group
        for run in parser.parse_args().runs
        for group in read_groups(run)
        if group.question.options and group.question.answer
    ]
    right, ours, theirs, without = np.array([values(group) for group in groups]).swapaxes(0, 1)
    texts = [text for group in groups for text in group.completions]
    print(f"{len(groups)} groups, {len(texts)} completions, {right.mean():.1%} right")
    alone = (np.ptp(right, axis=1) == 0) & (np.ptp(ours, axis=1) > 0)
    nothing = np.mean(np.ptp(right + ours, axis=1) < SAME)
    print(
        f"within groups, answer + ROAM and the answer alone correlate {correlation(right + ours, right):.2f}"
    )
    print(f"groups in which the answers earn the same and ROAM differs: {alone.mean():.1%};", end=" ")
    print(f"no signal at all: {nothing:.1%}")
    read = [
        (answer.conclusion, published.read_letter(thought(answer.raw)))
        for group in groups
        for answer in group.answers()
    ]
    other, false = np.mean([a != b for a, b in read]), np.mean([b == "A" != a for a, b in read])
    print(f"reasoning concludes a letter: ours {share(read, 0)}, released {share(read, 1)}")
    print(f"they differ: {other:.1%}; released reads A where ours does not: {false:.1%}")
    means = f"mean ours {ours.mean():.3f}, released {theirs.mean():.3f}"
    print(f"ROAM differs: {np.mean(ours != theirs):.1%}; {means}")
    articles = np.mean([bool(ARTICLE.search(text)) for text in texts])
    changed = np.mean(without != theirs)
    without_articles = f"released ROAM without articles {without.mean():.3f}, differs in {changed:.1%}"
    print(f"with the article 'A': {articles:.1%}; {without_articles}")
    both_correlations = correlation(ours, theirs), correlation(theirs, without)
    print(
        "within groups, ours and released correlate {:.2f}, with and without {:.2f}".format(
            *both_correlations
        )
    )
    begun = Counter(
        " ".join(s.split()[:BEGINNING]) for text in texts for s in SENTENCE.findall(thought(text))
    )
    common = sum(count for _, count in begun.most_common(COMMONEST)) / max(1, begun.total())
    beginnings = f"the {COMMONEST} commonest beginnings of {BEGINNING} words"
    print(f"sentences of reasoning: {beginnings} begin {common:.1%} of them")


def values(group: Group) -> tuple[list[float], list[float], list[float], list[float]]:
    """Of each completion of a group: whether it is right, ROAM, the released ROAM, also without articles."""
    gold, texts, answers = group.question.answer or "", group.completions, group.answers()
    return (
        [accuracy(answer, group.question) or 0.0 for answer in answers],
        [roam(answer, group.question) or 0.0 for answer in answers],
        [published.roam(text, gold) for text in texts],
        [published.roam(ARTICLE.sub("One", text), gold) for text in texts],
    )


def thought(text: str) -> str:
    """What stands between the last think tags."""
    return published.last_element(text, "think") or ""


def share(read: list[tuple[str | None, str | None]], which: int) -> str:
    """The share that concludes a letter."""
    return f"{np.mean([one[which] is not None for one in read]):.1%}"


def correlation(one: Floats, other: Floats) -> float:
    """Of rewards less the mean of their group."""
    return float(np.corrcoef(*[(rows - rows.mean(1, keepdims=True)).ravel() for rows in (one, other)])[0, 1])


if __name__ == "__main__":
    main()
