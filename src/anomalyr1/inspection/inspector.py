"""Samples -> inspections: two questions about each image, one verdict (`verdicts`), a score, boxes and masks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path

from anomalyr1 import prompts
from anomalyr1.engines.engine import GREEDY, Completion, Engine, Sampling
from anomalyr1.images import THREADS, LoadedImage, open_image
from anomalyr1.inspection import verdicts
from anomalyr1.inspection.masks import Sam2, masks_for
from anomalyr1.inspection.thresholds import Threshold
from anomalyr1.records import Writer
from anomalyr1.types import Fingerprint, InputError, Inspection, Question, Reply, Sample, SetupError

VOTING = Sampling(temperature=1.0)
"""How votes are sampled: as the policy itself weighs its words."""

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
    votes: int = 1
    """How many samples of both questions make a verdict."""
    threshold: Threshold | None = None
    """What the score is compared with; None = the answers alone make the verdict."""
    own_questions: bool = False
    """Ask each sample's own questions, as evaluation does, instead of the two of an inspection."""

    def __post_init__(self) -> None:
        """Refuse votes that would all be the same, or that nothing counts."""
        if self.own_questions and self.votes > 1:
            raise InputError(
                f"a sample's own questions are asked once, not {self.votes} times; leave votes out"
            )
        if self.votes < 1:
            raise InputError(f"votes is {self.votes}, expected at least 1")
        if self.votes > 1 and (self.sampling.fast or self.sampling.temperature == 0):
            kind = "fast scores" if self.sampling.fast else "greedy completions"
            raise InputError(
                f"{self.votes} {kind} are all the same; ask for one, or sample at a temperature above 0"
            )

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
        votes: int = 1,
        fast: bool = False,
        engine: str = "local",
        threshold: Threshold | None = None,
    ) -> Inspector:
        """An inspector over a policy on this machine: "nano", a folder, or a name on the Hugging Face hub (pinned by `revision`).

        `votes` samples of both questions make each verdict; `fast` asks for the score alone, without
        reasoning and boxes. `engine` runs the policy: "local", "vllm", or "endpoint:FILE" for the server of a
        configuration, which names its own model. `threshold` decides by the score.
        """
        if fast and votes > 1:
            raise InputError(f"{votes} fast scores are all the same; ask for votes or for fast, not both")
        from anomalyr1.engines.loading import load_engine

        prompts.style_id(style, text)  # an unknown style is refused before the weights are loaded
        sampling = Sampling(fast=True) if fast else VOTING if votes > 1 else GREEDY
        sam2 = Sam2.load() if masks == "sam2" and not fast else None
        runs = load_engine(engine, model, revision, max_pixels)
        return cls(runs, masks, style, text, sampling, sam2=sam2, votes=votes, threshold=threshold)

    def __call__(
        self, image: str | Path, knowledge: str = "", references: Sequence[str | Path] = ()
    ) -> Inspection:
        """Inspect one image file. Raises `InputError` when a file is missing; what fails later is in the inspection's `error`."""
        path = Path(image)
        sample = Sample(
            id=path.as_posix(),
            image=path,
            knowledge=knowledge,
            references=tuple(Path(file) for file in references),
        )
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

        Batches lie at fixed places of `samples`, and a batch that a kill cut is computed as a whole again, so
        a resumed file equals an uninterrupted one. `progress` gets the number of inspections done and the
        last one. `given` says what all samples were given beside their image (see `digest`); resuming under
        something else is refused. Raises `InputError` that lists all missing files, ids that are not unique,
        or a threshold that was made for other scores, before anything is inspected.
        """
        require_files(samples)
        repeated = [name for name, n in Counter(sample.id for sample in samples).items() if n > 1]
        if repeated:
            raise InputError(f"sample ids must be unique; these are not: {', '.join(map(repr, repeated))}")
        fingerprint = self.fingerprint(given)
        if self.threshold is not None:
            self.threshold.require_same(fingerprint)
        with Writer(out, fingerprint) as writer:
            held = writer.done
            changed = [
                one.id
                for one in samples
                if one.id in held and held[one.id].image_sha256 != _file_digest(one.image)
            ]
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
                return [
                    _failed(
                        samples[0],
                        f"{'' if isinstance(error, InputError) else f'{type(error).__name__}: '}{error}",
                    )
                ]
        # One bad sample does not take its neighbours along: each is asked alone.
        return [inspection for sample in samples for inspection in self.inspect([sample])]

    def fingerprint(self, given: str = "") -> Fingerprint:
        """What a run of this inspector depends on."""
        style = prompts.style_id(self.style, self.text)
        engine = self.engine.fingerprint(self.sampling)
        versions = engine.versions | {name: metadata.version(name) for name in VERSIONS}
        sampling = engine.sampling + (f", {self.votes} samples" if self.votes > 1 else "")
        more = {
            "style": style,
            "given": given,
            "masks": self.masks,
            "versions": versions,
            "sampling": sampling,
        }
        if self.threshold is not None:
            more["threshold"] = self.threshold.digest
        return engine.model_copy(update=more)

    def _ask(self, samples: Sequence[Sample]) -> list[Inspection]:
        paths = list(dict.fromkeys(path for sample in samples for path in (sample.image, *sample.references)))
        with ThreadPoolExecutor(THREADS) as pool:  # decoding lets go of the interpreter
            images = dict(zip(paths, pool.map(open_image, paths), strict=True))
        asked = [
            [
                prompts.build(sample, question, self.style, self.text)
                for question in self._questions(sample)
                for _ in range(self.votes)
            ]
            for sample in samples
        ]
        completions = iter(
            self.engine.complete([prompt for own in asked for prompt in own], images, self.sampling)
        )
        return [
            self._judge(sample, images[sample.image], own, list(islice(completions, len(own))))
            for sample, own in zip(samples, asked, strict=True)
        ]

    def _questions(self, sample: Sample) -> tuple[Question, ...]:
        """What is asked about a sample; boxes are not asked for without reasoning, which makes none."""
        questions = sample.questions if self.own_questions else prompts.inspection_questions(sample.id)
        return tuple(question for question in questions if question.options or not self.sampling.fast)

    def _judge(
        self,
        sample: Sample,
        image: LoadedImage,
        asked: Sequence[prompts.Prompt],
        completions: Sequence[Completion],
    ) -> Inspection:
        if broken := [completion.error for completion in completions if completion.error]:
            return _failed(sample, broken[0])
        counts: Counter[str] = Counter()
        replies = []
        for prompt, completion in zip(asked, completions, strict=True):
            answer = completion.answer
            replies.append(
                Reply(
                    question_id=prompt.question.id,
                    completion=completion.text,
                    answer=answer,
                    finish=completion.finish,
                    option_scores=completion.option_scores,
                )
            )
            counts.update(answer.counts)
            counts.update(prompt.counts)
            counts.update({answer.status: 1, "cut_off": int(completion.finish == "length")})
        counts.update(
            {
                "exif_orientation_applied": int(image.orientation != 1),
                "bit_depth_reduced": int(image.window is not None),
            }
        )
        if self.own_questions:
            opinion = verdicts.of_questions([prompt.question for prompt in asked], replies)
        else:
            opinion = verdicts.conclude(replies[: self.votes], replies[self.votes :], image.size_wh)
        verdict, reason = opinion.verdict, opinion.reason
        if self.threshold is not None:
            verdict, reason = self.threshold.judge(verdict, reason, opinion.score)
        found = opinion.boxes
        drawn, mask_counts = masks_for(image.rgb, found, self.masks, self.sam2) if found else ((), {})
        counts.update(mask_counts)
        return Inspection(
            sample_id=sample.id,
            verdict=verdict,
            score=opinion.score,
            score_from=opinion.score_from,
            votes=opinion.votes,
            reason=reason,
            boxes=found,
            masks=None if found is None else drawn,
            replies=tuple(replies),
            counts={name: n for name, n in sorted(counts.items()) if n},
            image_sha256=image.sha256,
        )


def require_files(samples: Sequence[Sample]) -> None:
    """Raise `InputError` that lists all files of the samples that are missing."""
    paths = dict.fromkeys(path for sample in samples for path in (sample.image, *sample.references))
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(paths)} image files are missing, so nothing was started: {', '.join(map(repr, missing))}"
        )


def samples_of_images(
    images: Sequence[Path], references: Sequence[Path] = (), knowledge: str = ""
) -> tuple[list[Sample], str]:
    """Samples for plain images, their paths being their ids, and the digest of what all of them are given."""
    samples = [
        Sample(id=path.as_posix(), image=path, knowledge=knowledge, references=tuple(references))
        for path in images
    ]
    return samples, digest(knowledge, references)


def digest(knowledge: str, references: Sequence[Path]) -> str:
    """What all samples of a run were given, for `Inspector.run`; empty when that is nothing."""
    if not knowledge and not references:
        return ""
    whole = "\0".join((knowledge, *(_file_digest(path) for path in references)))
    return f"knowledge@{hashlib.sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _failed(sample: Sample, message: str) -> Inspection:
    reason = f"Unsure because the inspection failed: {message}"
    return Inspection(
        sample_id=sample.id,
        verdict="unsure",
        reason=reason,
        error=message,
        image_sha256=_file_digest(sample.image),
    )


def _file_digest(path: Path) -> str:
    """SHA-256 of a file; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
