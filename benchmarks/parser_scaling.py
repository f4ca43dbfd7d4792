"""Time of `answers.parse` on adversarial completions of growing length.

    python benchmarks/parser_scaling.py

Prints seconds per family and length, and the largest ratio per tenfold length. Must hold: a ratio of at most
12, and one million characters in under a second.
"""

from __future__ import annotations

import itertools
import time

from anomalyr1.answers.completion import as_mmad, as_released, parse
from anomalyr1.images.frames import FAMILIES, Frame, fit

LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
OPTIONS = ("Crack", "Scratch", "Dent", "Hole")
FAMILY_UNITS = {
    "open think": "<think>",
    "open answer": "<answer>",
    "close and open": "</think><answer>",
    "pairs": "<think>x</think><answer>B</answer>",
    "half pairs": "</think> <answer></answer>",
    "brackets": "[",
    "braces": "{",
    "closing": "]",
    "boxes": '[{"bbox_2d":[1,2,3,4]}],',
    "digits": "9",
    "article A": "A ",
    "negations": "not A, ",
    "cues": "answer is ",
    "lines": "\n",
    "blanks": " ",
    "bold": "**",
    "quotes": "'\"",
    "full width": "Ａ、",
    "chinese": "答案不是选项",
    "dots": ". ",
    "dashes": "-",
    "less than": "<",
    "one word": "a",
    "options": "Crack Scratch ",
    "places": "top left of the ",
    "no defects": "no crack, ",
    "surrogates": "\ud800",
    "nulls": "\x00",
}
WRAPPERS = {
    "bare": "{}",
    "reasoning": "<think>{}</think><answer>B</answer>",
    "answer": "<think>x</think><answer>{}</answer>",
}


def seconds(text: str, repeats: int) -> float:
    """The best CPU time of a parse of a text, in seconds: the mean of reading it as a choice and as boxes."""
    size_wh = (2000, 1000)
    frame = Frame(size_wh, fit(size_wh, FAMILIES["qwen2_5_vl"]), FAMILIES["qwen2_5_vl"].units)
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        parse(text, OPTIONS)
        parse(text, (), frame)
        best = min(best, (time.process_time() - start) / 2)
    return best


def published_seconds(text: str) -> float:
    """The time of the two published parsers as we rewrote them, in seconds."""
    start = time.process_time()
    as_mmad(text, OPTIONS)
    as_released(text)
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    print(
        f"{'family':34}" + "".join(f"{length:>12,}" for length in LENGTHS) + f"{'ratio':>8}{'published':>12}"
    )
    worst_ratio, worst_seconds = 0.0, 0.0
    for wrapper, form in WRAPPERS.items():
        for family, unit in FAMILY_UNITS.items():
            texts = [form.format("\0").replace("\0", unit * (length // len(unit))) for length in LENGTHS]
            times = [seconds(text, 3) for text in texts]
            # Under 5 ms the clock and the cache say more than the code: such times count as 5 ms.
            ratio = max(after / max(before, 5e-3) for before, after in itertools.pairwise(times))
            worst_ratio, worst_seconds = max(worst_ratio, ratio), max(worst_seconds, times[-1])
            row = f"{wrapper + ': ' + family:34}" + "".join(f"{one:12.5f}" for one in times)
            print(row + f"{ratio:8.1f}{published_seconds(texts[-1]):12.5f}")
    longest = f"longest time {worst_seconds:.3f} s (limit 1)"
    print(f"\nlargest ratio per tenfold length {worst_ratio:.1f} (limit 12), {longest}")


if __name__ == "__main__":
    main()
