"""Samples -> inspections: two questions about each image, one verdict, boxes and masks.

The verdict is fail-safe. It is "good" or "defect" only when the answer to the yes/no question and the boxes say the same and
the reasoning does not contradict them; everything else is "unsure", with what is wrong in `reason`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from anomalyr1 import answers, prompts
from anomalyr1.engines import GREEDY, Completion, Engine, Sampling
from anomalyr1.findings import says_defect
from anomalyr1.images import LoadedImage, open_image
from anomalyr1.masks import Sam2, masks_for
from anomalyr1.records import Writer
from anomalyr1.types import Answer, Fingerprint, InputError, Inspection, Reply, Sample, SetupError, Verdict

DEFECT, GOOD = "A", "B"
"""The options of `prompts.VERDICT_OPTIONS`."""

FAILURES = (ValueError, OSError, MemoryError, RuntimeError)
"""What may go wrong with one sample: a bad image or prompt, the disk, the memory, the engine."""

VERSIONS = ("Pillow", "opencv-python-headless")
"""Packages whose versions may change the pixels or a mask, whatever the engine."""


@dataclass
class Inspector:
    """An engine and how it is asked."""

    engine: Engine
    masks: str = "default"
    """How masks are made from boxes: "default", "sam2" or "box"."""
    style: str = prompts.DEFAULT_STYLE
    text: str | None = None
    """The user's own prompt; replaces `style`."""
    sampling: Sampling = GREEDY
    batch: int = 4
    """Samples per call of the engine."""
    sam2: Sam2 | None = None
    """What makes masks of method "sam2"; None loads the default one when it is needed."""

    @classmethod
    def load(
        cls,
        model: str = "nano",
        *,
        revision: str | None = None,
        max_pixels: int | None = None,
        masks: str = "default",
        style: str = prompts.DEFAULT_STYLE,
        text: str | None = None,
    ) -> Inspector:
        """An inspector over a policy on this machine: "nano", a folder, or a name on the Hugging Face hub (pinned by `revision`)."""
        from anomalyr1.engines.local import LocalEngine
        from anomalyr1.policy.load import load_policy

        prompts.style_id(style, text)  # an unknown style is refused before the weights are loaded
        sam2 = Sam2.load() if masks == "sam2" else None
        return cls(LocalEngine(load_policy(model, revision, max_pixels=max_pixels)), masks, style, text, sam2=sam2)

    def __call__(self, image: str | Path, knowledge: str = "", references: Sequence[str | Path] = ()) -> Inspection:
        """Inspect one image file. Raises `InputError` when a file is missing; what fails later is in the inspection's `error`."""
        path = Path(image)
        sample = Sample(id=path.as_posix(), image=path, knowledge=knowledge, references=tuple(Path(file) for file in references))
        require_files([sample])
        return self.inspect([sample])[0]

    def run(
        self,
        samples: Sequence[Sample],
        out: str | Path,
        progress: Callable[[int, Inspection], None] = lambda done, inspection: None,
        given: str = "",
    ) -> list[Inspection]:
        """Inspect all samples into the inspections file `out`; those already there are not inspected again.

        Batches lie at fixed places of `samples`, and a batch that a kill cut is computed as a whole again, so a resumed file equals
        an uninterrupted one. `progress` gets the number of inspections done and the last one. `given` says what all samples
        were given beside their image (see `digest`); resuming under something else is refused. Raises `InputError` that lists all
        missing files, or ids that are not unique, before anything is inspected.
        """
        require_files(samples)
        repeated = [name for name, n in Counter(sample.id for sample in samples).items() if n > 1]
        if repeated:
            raise InputError(f"sample ids must be unique; these are not: {', '.join(map(repr, repeated))}")
        with Writer(out, self.fingerprint(given)) as writer:
            held = writer.done
            changed = [one.id for one in samples if one.id in held and held[one.id].image_sha256 != _file_digest(one.image)]
            if changed:
                raise InputError(
                    f"{str(out)!r} holds inspections of other images under these names: {', '.join(map(repr, changed))}; write to "
                    "another folder, or delete their lines"
                )
            for start in range(0, len(samples), self.batch):
                batch = samples[start : start + self.batch]
                fresh = [] if all(sample.id in writer.done for sample in batch) else self.inspect(batch)
                for inspection in fresh:
                    if inspection.sample_id not in writer.done:
                        writer.append(inspection)
                for done, sample in enumerate(batch, start=start + 1):
                    progress(done, writer.done[sample.id])
            return [writer.done[sample.id] for sample in samples]

    def inspect(self, samples: Sequence[Sample]) -> list[Inspection]:
        """Inspect samples in one call of the engine; what fails becomes an inspection with an error."""
        try:
            return self._ask(samples)
        except SetupError:
            raise
        except FAILURES as error:
            if len(samples) == 1:
                return [_failed(samples[0], error)]
        # One bad sample does not take its neighbours along: each is asked alone.
        return [inspection for sample in samples for inspection in self.inspect([sample])]

    def fingerprint(self, given: str = "") -> Fingerprint:
        """What a run of this inspector depends on."""
        style = prompts.style_id(self.style, self.text)
        engine = self.engine.fingerprint(self.sampling)
        versions = engine.versions | {name: metadata.version(name) for name in VERSIONS}
        return engine.model_copy(update={"style": style, "given": given, "masks": self.masks, "versions": versions})

    def _ask(self, samples: Sequence[Sample]) -> list[Inspection]:
        images = {path: open_image(path) for sample in samples for path in (sample.image, *sample.references)}
        asked = [
            prompts.build(sample, question, self.style, self.text)
            for sample in samples
            for question in prompts.inspection_questions(sample.id)
        ]
        completions = self.engine.complete(asked, images, self.sampling)
        return [
            self._judge(sample, images[sample.image], asked[2 * i : 2 * i + 2], completions[2 * i : 2 * i + 2])
            for i, sample in enumerate(samples)
        ]

    def _judge(self, sample: Sample, image: LoadedImage, asked: Sequence[prompts.Prompt], completions: Sequence[Completion]) -> Inspection:
        counts: Counter[str] = Counter()
        replies = []
        for prompt, completion in zip(asked, completions, strict=True):
            answer = answers.parse(completion.text, prompt.question.options, completion.frame)
            replies.append(Reply(question_id=prompt.question.id, completion=completion.text, answer=answer, finish=completion.finish))
            counts.update(answer.counts)
            counts.update(prompt.counts)
            counts.update({answer.status: 1, "cut_off": int(completion.finish == "length")})
        counts.update({"exif_orientation_applied": int(image.orientation != 1), "bit_depth_reduced": int(image.window is not None)})
        verdict, reason = decide(replies[0].answer, replies[1].answer, cut_off=counts["cut_off"] > 0)
        found = replies[1].answer.boxes
        drawn, mask_counts = masks_for(image.rgb, found, self.masks, self.sam2) if found else ((), {})
        counts.update(mask_counts)
        return Inspection(
            sample_id=sample.id,
            verdict=verdict,
            reason=reason,
            boxes=found,
            masks=None if found is None else drawn,
            replies=tuple(replies),
            counts={name: n for name, n in sorted(counts.items()) if n},
            image_sha256=_file_digest(sample.image),
        )


def decide(verdict: Answer, grounding: Answer, cut_off: bool = False) -> tuple[Verdict, str]:
    """The verdict of the two answers, and why; "unsure" unless they agree."""
    reasoning = verdict.reasoning or grounding.reasoning
    problem = "a reply was cut off before its end" if cut_off else disagreement(verdict, grounding)
    if problem:
        return "unsure", f"Unsure because {problem}." + (f"\n{reasoning}" if reasoning else "")
    return ("defect" if verdict.choice == DEFECT else "good"), reasoning


def disagreement(verdict: Answer, grounding: Answer) -> str:
    """What keeps two answers from making a verdict, in words; empty when they agree."""
    if verdict.status == "unparseable" or verdict.choice not in (DEFECT, GOOD):
        return "the verdict could not be read"
    if verdict.conclusion not in (None, verdict.choice):
        return f"the reasoning concludes {verdict.conclusion} but the answer is {verdict.choice}"
    defect = verdict.choice == DEFECT
    said = "defect" if defect else "good"
    if verdict.says_defect not in (None, defect):
        return f"the reasoning {'finds a defect' if verdict.says_defect else 'finds no defect'}, but the answer says {said}"
    if grounding.status == "unparseable" or grounding.boxes is None:
        return f"the answer says {said}, but the boxes could not be read"
    drawn = len(grounding.boxes)
    if grounding.says_defect not in (None, drawn > 0):
        found = "finds a defect" if grounding.says_defect else "finds no defect"
        return f"the reasoning about the place {found}, but {_boxes(drawn)} drawn"
    if defect != (drawn > 0):
        return f"the answer says {said}, but {_boxes(drawn)} drawn"
    if not defect and any(_defect_outside_reasoning(answer) for answer in (verdict, grounding)):
        return "the answer says good, but the text around it finds a defect"
    return ""


def _defect_outside_reasoning(answer: Answer) -> bool:
    """Whether a completion that did not keep the form says in any of its text that there is a defect."""
    loose = answer.status != "strict" or "text_outside_tags" in answer.counts
    return loose and says_defect(answer.raw) is True


def require_files(samples: Sequence[Sample]) -> None:
    """Raise `InputError` that lists all files of the samples that are missing."""
    paths = dict.fromkeys(path for sample in samples for path in (sample.image, *sample.references))
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(paths)} image files are missing, so nothing was started: {', '.join(map(repr, missing))}")


def digest(knowledge: str, references: Sequence[Path]) -> str:
    """What all samples of a run were given, for `Inspector.run`; empty when that is nothing."""
    if not knowledge and not references:
        return ""
    whole = "\0".join((knowledge, *(_file_digest(path) for path in references)))
    return f"knowledge@{hashlib.sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _boxes(n: int) -> str:
    return {0: "no box was", 1: "a box was"}.get(n, f"{n} boxes were")


def _failed(sample: Sample, error: BaseException) -> Inspection:
    name = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    message = f"{name}{error}"
    reason = f"Unsure because the inspection failed: {message}"
    return Inspection(sample_id=sample.id, verdict="unsure", reason=reason, error=message, image_sha256=_file_digest(sample.image))


def _file_digest(path: Path) -> str:
    """SHA-256 of a file; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
