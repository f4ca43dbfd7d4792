"""The verb `anomalyr1 parity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyr1.cli.terminal import OK, SOME_FAILED, PromptFile, Style, find_images, say

if TYPE_CHECKING:
    from anomalyr1.engines.parity import Parity


def parity(
    paths: Annotated[
        list[Path], typer.Argument(help="Image files, or folders that are searched for images.")
    ],
    engines: Annotated[
        str, typer.Option(help="Two engines with a comma between, e.g. local:nano,endpoint:server.yaml.")
    ],
    limit: Annotated[int, typer.Option("--n", min=1, help="Take so many of the images.")] = 20,
    style: Style = None,
    prompt: PromptFile = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest completion.")] = 256,
    allow_pixels: Annotated[
        bool, typer.Option("--allow-pixels", help="Compare although the pixel caps differ.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line on stdout, nothing else.")] = False,
) -> int:
    """Ask two engines the same, and compare answers, boxes, token counts and frames; exit code 2 where they
    saw different things, or where no text agrees.
    """
    from anomalyr1 import prompts
    from anomalyr1.engines import loading
    from anomalyr1.engines.engine import Sampling, choose_prompt, taught_of
    from anomalyr1.engines.parity import compare_engines
    from anomalyr1.inspection.samples import samples_of_images
    from anomalyr1.types import InputError

    names = [name.strip() for name in engines.split(",")]
    if len(names) != 2 or not all(names):
        raise InputError(
            f"--engines is {engines!r}, expected two engines with a comma between; "
            f"each is one of {', '.join(loading.EXAMPLES)}"
        )
    samples, _ = samples_of_images(find_images(paths)[:limit])
    pair = (loading.load_engine(names[0]), loading.load_engine(names[1]))
    text = prompts.read_prompt(prompt) if prompt else None
    asked_with = choose_prompt(next(filter(taught_of, pair), pair[0]), style, text)
    sampling = Sampling(max_new_tokens=max_new_tokens)
    result = compare_engines(pair, samples, *asked_with, sampling, allow_pixels)
    for name, engine in zip(names, pair, strict=True):
        if taught := taught_of(engine):
            cap = engine.fingerprint(sampling).max_pixels
            if note := taught.otherwise(prompts.style_id(*asked_with), cap):
                say(f"note: {name}: {note}", err=as_json)
    for line in [result.to_json()] if as_json else _describe(names, result):
        say(line)
    return OK if result.same_input and not result.no_text_agrees else SOME_FAILED


def _describe(names: list[str], parity: Parity) -> list[str]:
    """What a person should know of how two engines compare."""
    iou, scores = "none could be compared", "not given by both"
    if parity.mean_iou is not None:
        iou = f"mean IoU {parity.mean_iou:.3f} of {parity.boxes}"
    if parity.score_difference is not None:
        scores = f"at most {parity.score_difference:.2g} apart"
    per_engine = list(zip(names, parity.failed, parity.put_back, parity.without_reasoning, strict=True))
    no_text = (
        "no text agrees: other weights, another chat template, or reasoning that a server drops; "
        "ask both about one image and compare their replies"
    )
    return [
        f"{parity.questions} questions about {parity.images} images to {names[0]} and {names[1]}",
        *(f"{name} failed at {number} questions" for name, number, _, _ in per_engine if number),
        *(
            f"{name} split the reasoning off {number} of {parity.compared} texts; it was put back"
            for name, _, number, _ in per_engine
            if number
        ),
        *(
            f"{name} gave no reasoning with {number} of {parity.compared} texts"
            for name, _, _, number in per_engine
            if number
        ),
        *(f"they differ in {difference}" for difference in parity.differences),
        f"same text: {parity.same_text} of {parity.compared}; "
        f"same option: {parity.same_choice} of {parity.choices}",
        *([no_text] if parity.no_text_agrees else []),
        f"option scores: {scores}; boxes: {iou}",
        f"same prompt tokens: {parity.same_tokens} of {parity.tokens} where known; "
        f"largest difference {parity.largest_token_difference}",
        f"same frame: {parity.same_frame} of {parity.frames} where known",
    ]
