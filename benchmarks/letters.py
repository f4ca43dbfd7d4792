"""How far the released letter extraction reads logged completions otherwise than ours, and how much of that is the article "A".

    python benchmarks/letters.py RUN [RUN ...]

For the groups with options in training runs (`groups.jsonl`): what reasoning concludes as either reads it, ROAM by either, and the
released ROAM once more with every article "A" ("A crack is visible") written as "One", which changes nothing that is said.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomalyr1 import released
from anomalyr1.answers import parse
from anomalyr1.rewards import roam
from anomalyr1.training.run_folder import Group, read_groups

ARTICLE = re.compile(r"\bA(?= [a-z])")


def main() -> None:
    """Read, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    groups = [group for run in parser.parse_args().runs for group in read_groups(run) if group.question.options and group.question.answer]
    ours, theirs, without = (np.stack([values(group)[i] for group in groups]) for i in range(3))
    texts = [(text, group.question.options) for group in groups for text in group.completions]
    articles = np.mean([bool(ARTICLE.search(text)) for text, _ in texts])
    print(f"{len(groups)} groups, {len(texts)} completions; {articles:.1%} have the article 'A'")
    read = [(parse(text, options).conclusion, released.read_letter(thought(text))) for text, options in texts]
    other, false = np.mean([a != b for a, b in read]), np.mean([b == "A" != a for a, b in read])
    print(f"reasoning concludes a letter: ours {share(read, 0)}, released {share(read, 1)}")
    print(f"they differ: {other:.1%}; released reads A where ours does not: {false:.1%}")
    print(f"ROAM differs: {np.mean(ours != theirs):.1%}; mean ours {ours.mean():.3f}, released {theirs.mean():.3f}")
    print(f"released ROAM without articles: {without.mean():.3f}; differs from with them: {np.mean(without != theirs):.1%}")
    print(
        f"within groups, ours and released correlate {correlation(ours, theirs):.2f}, with and without {correlation(theirs, without):.2f}"
    )


def values(group: Group) -> tuple[list[float], list[float], list[float]]:
    """ROAM of each completion of a group: ours, the released one, and the released one without articles."""
    gold = group.question.answer or ""
    ours = [roam(answer, group.question) or 0.0 for answer in group.answers()]
    texts = group.completions
    return ours, [released.roam(text, gold) for text in texts], [released.roam(ARTICLE.sub("One", text), gold) for text in texts]


def thought(text: str) -> str:
    """What stands between the last think tags."""
    return released.last_element(text, "think") or ""


def share(read: list[tuple[str | None, str | None]], which: int) -> str:
    """The share that concludes a letter."""
    return f"{np.mean([one[which] is not None for one in read]):.1%}"


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of rewards less the mean of their group."""
    return float(np.corrcoef(*[(rows - rows.mean(1, keepdims=True)).ravel() for rows in (one, other)])[0, 1])


if __name__ == "__main__":
    main()
