"""The verb `anomalyr1 inspect`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anomalyr1.cli.outputs import require_output
from anomalyr1.cli.terminal import (
    OK,
    SOME_FAILED,
    PromptFile,
    Style,
    find_images,
    new_bar,
    say,
    stop_explained,
)
from anomalyr1.errors import InputError

if TYPE_CHECKING:
    from anomalyr1.evidence.bank import Bank
    from anomalyr1.inspection.inspector import Inspector
    from anomalyr1.types import Inspection, Sample

KNOWLEDGE_BYTES = 2**20
"""More fits into no prompt."""

Masks = Literal["default", "sam2", "box"]

INSPECTIONS = "inspections.jsonl"
"""The inspections file in a folder of this verb."""
MAPS = "maps"
"""The folder of the maps of what differs from good parts, among the overlays, whose images are no parts."""
BANK = "good.bank"
"""What was learned from `--good`."""

Decider = Literal["both", "evidence", "policy"]


def inspect(
    paths: Annotated[
        list[Path], typer.Argument(help="Image files, or folders that are searched for images.")
    ],
    model: Annotated[
        str, typer.Option(help="nano (drawn parts), a model folder, or a name on the Hugging Face hub.")
    ] = "nano",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub model.")] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Scale images down to this many pixels; default: the model's cap.")
    ] = None,
    knowledge: Annotated[
        Path | None, typer.Option(help="Text file with what is known about good and bad parts.")
    ] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help="Image of a good part; may be given more than once.")
    ] = None,
    masks: Annotated[
        Masks, typer.Option(help="default needs no download, sam2 fetches a model, box is the box itself.")
    ] = "default",
    out: Annotated[Path, typer.Option(help="Folder for inspections.jsonl, overlays and index.html.")] = Path(
        "inspections"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON line per inspection on stdout, nothing else.")
    ] = False,
    style: Style = None,
    prompt: PromptFile = None,
    votes: Annotated[
        int, typer.Option(min=1, help="Ask so many times and let the answers vote; the score is their mean.")
    ] = 1,
    fast: Annotated[
        bool, typer.Option("--fast", help="No reasoning, no boxes: one forward pass, the score alone.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local, vllm, or endpoint:FILE for a server (docs/guide/engines.md).")
    ] = "local",
    threshold: Annotated[
        Path | None, typer.Option(help="File of `anomalyr1 calibrate`: decide by the score.")
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(help="Good parts to compare with: a file of `anomalyr1 learn`.")
    ] = None,
    good: Annotated[
        list[Path] | None,
        typer.Option(help="Images of good parts, or folders: learned first, into the folder of the run."),
    ] = None,
    decide: Annotated[
        Decider | None,
        typer.Option(
            help="Who decides where there are good parts: both must agree, the evidence, or the policy; "
            "default: the evidence for nano, both for any other model."
        ),
    ] = None,
    tell: Annotated[
        bool | None,
        typer.Option(
            "--evidence/--no-evidence",
            help="Whether the prompt says what the good parts say; default: as the policy was taught.",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Inspect the images again that failed in this folder.")
    ] = False,
) -> int:
    """Inspect images: verdict, reasoning, boxes, masks, and a page to look at. Run again to go on after a
    stop.
    """
    from anomalyr1 import prompts
    from anomalyr1.images.door import open_image
    from anomalyr1.inspection.inspector import Inspector
    from anomalyr1.inspection.samples import samples_of_images
    from anomalyr1.inspection.thresholds import Threshold
    from anomalyr1.report import inspection_page

    references = tuple(reference or ())
    require_output("inspect", out, (*paths, *references, *(good or ()), knowledge, prompt, threshold, bank))
    images = find_images(paths, out / inspection_page.OVERLAYS, (*references, *(good or ())))
    good_parts = _find_bank(bank, good or [], out, as_json)
    for path in references:
        open_image(path)  # what cannot be used is refused now, and not once with every image
    samples, knowledge_digest = samples_of_images(images, references, _read_knowledge(knowledge))
    inspector = Inspector.load(
        model,
        revision=revision,
        max_pixels=max_pixels,
        masks=masks,
        style=style,
        text=prompts.read_prompt(prompt) if prompt else None,
        votes=votes,
        fast=fast,
        engine=engine,
        threshold=Threshold.read(threshold) if threshold else None,
        bank=good_parts,
        decide=decide,
        tell=tell,
        maps=out / inspection_page.OVERLAYS / MAPS,
    )
    inspections = inspect_samples(inspector, samples, out, knowledge_digest, as_json, retry_failed)
    return SOME_FAILED if any(inspection.error is not None for inspection in inspections) else OK


def inspect_samples(
    inspector: Inspector,
    samples: Sequence[Sample],
    out: Path,
    given_digest: str,
    as_json: bool,
    retry_failed: bool = False,
) -> list[Inspection]:
    """Inspect, write overlays and page, and say what came out.

    `given_digest` is the digest of what all samples were given. Ctrl-C leaves a page of what there is, and
    raises `Stopped`.
    """

    def describe_stop() -> str:
        contained = _conclude(inspector, samples, out, as_json)
        done = sum(inspection.error is None or not retry_failed for inspection in contained)
        return f"stopped after {done} of {len(samples)}; the same command goes on"

    with stop_explained(describe_stop), _progress("inspecting", len(samples), as_json) as show:
        inspector.run(samples, out / INSPECTIONS, show, given_digest, retry_failed=retry_failed)
    inspections = _conclude(inspector, samples, out, as_json)
    if any(inspection.error is not None for inspection in inspections):
        say("failed images are tried again by the same command with --retry-failed", err=as_json)
    return inspections


def _conclude(inspector: Inspector, samples: Sequence[Sample], out: Path, as_json: bool) -> list[Inspection]:
    """Write the page of all that the folder holds, say what came out of `samples`, and give it back."""
    from anomalyr1 import records
    from anomalyr1.report import inspection_page

    if not (out / INSPECTIONS).exists():
        return []
    fingerprint, contained = records.read(out / INSPECTIONS)
    known = {sample.id: sample for sample in samples}
    # Others were inspected by an earlier command, beside the same references and knowledge.
    results = [
        (known.get(inspection.sample_id) or _like(samples[0], inspection.sample_id), inspection)
        for inspection in contained
    ]
    about = inspection_page.about_run(
        fingerprint, shlex.join(["anomalyr1", *sys.argv[1:]]), inspector.threshold
    )
    page = inspection_page.write(out, results, about)
    inspections = [inspection for inspection in contained if inspection.sample_id in known]
    outcomes = Counter(inspection_page.outcome(inspection) for inspection in inspections)
    tally = ", ".join(f"{outcomes[name]} {name}" for name in ("good", "defect", "unsure", "failed"))
    say(f"{len(inspections)} inspected: {tally}", err=as_json)
    earlier = len(contained) - len(inspections)
    say(f"page: {page}{f', with {earlier} inspected before' if earlier else ''}", err=as_json)
    if about.limits:
        say(f"note: {about.limits}", err=as_json)
    return inspections


def _like(sample: Sample, path: str) -> Sample:
    """The sample of another image, given the same references and knowledge."""
    return sample.model_copy(update={"id": path, "image": Path(path)})


@contextlib.contextmanager
def _progress(title: str, total: int, as_json: bool) -> Iterator[Callable[[int, Inspection], None]]:
    """A bar with the time left on a terminal, one line per inspection otherwise."""
    if as_json:
        yield lambda done, inspection: print(inspection.to_json(), flush=True)
    elif not sys.stdout.isatty():
        yield lambda done, inspection: say(f"{done}/{total} {_line(inspection)}")
    else:
        with new_bar() as bar:
            task = bar.add_task(title, total=total)

            def show(done: int, inspection: Inspection) -> None:
                failed = inspection.error is not None  # its cure stands at the end: wrapped, not cut off
                overflow: Literal["fold", "ellipsis"] = "fold" if failed else "ellipsis"
                line = _line(inspection)
                bar.console.print(line, markup=False, highlight=False, overflow=overflow, no_wrap=not failed)
                bar.update(task, completed=done)

            yield show


def _line(inspection: Inspection) -> str:
    """An inspection as the terminal shows it: the beginning of its reasoning, but an error with its cure."""
    from anomalyr1.report.inspection_page import outcome
    from anomalyr1.report.text import visible

    reason = " ".join((inspection.error or inspection.reason).split())
    length = 120 if inspection.error is None else 1000
    excerpt = f"{reason[:length]}{'...' if len(reason) > length else ''}"
    return visible(f"{outcome(inspection):6} {inspection.sample_id}  {excerpt}").rstrip()


def _find_bank(file: Path | None, good: Sequence[Path], out: Path, as_json: bool) -> Bank | None:
    """The bank in a file, or of images of good parts, which are learned unless the run's folder has it."""
    from anomalyr1.cli.learn import learn_images, without_copies
    from anomalyr1.evidence.bank import Bank
    from anomalyr1.evidence.learning import Settings
    from anomalyr1.images.door import digest_of

    if file is not None and good:
        raise InputError("--bank is what was learned, and --good would be learned; give one of them")
    if file is not None:
        return Bank.read(file)
    if not good:
        return None
    images = find_images(good)
    kept = out / BANK
    if kept.exists():
        bank = Bank.read(kept)
        if {part.sha256 for part in bank.parts} != {digest_of(image) for image in images}:
            raise InputError(
                f"{str(kept)!r} was learned from other images than --good names; write to another folder"
            )
        return bank
    images, notes = without_copies(images)
    for note in notes:
        say(note, err=as_json)
    bank = learn_images(images, Settings(), None, as_json)
    bank.write(kept)
    return bank


def _read_knowledge(path: Path | None) -> str:
    from anomalyr1.files import read_text

    return "" if path is None else read_text(path, KNOWLEDGE_BYTES).replace("\r\n", "\n").strip()
