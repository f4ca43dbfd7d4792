"""Samples -> inspections: two questions about each image, one verdict, a score, boxes and masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from anomalyr1 import prompts, records
from anomalyr1.engines.engine import GREEDY, Completion, Engine, Sampling, choose_prompt, taught_of
from anomalyr1.evidence.bank import Bank
from anomalyr1.images.arrays import Pixels, load_pixels, require_pictures
from anomalyr1.images.door import THREADS, LoadedImage, Room, open_image
from anomalyr1.images.frames import FAMILIES
from anomalyr1.inspection import verdicts
from anomalyr1.inspection.decisions import Decider, outlines_of
from anomalyr1.inspection.good_parts import NO_GOOD_PARTS, GoodParts
from anomalyr1.inspection.masks import Sam2, masks_for
from anomalyr1.inspection.picture_guard import Doubt, TaughtLook, doubt_of_picture
from anomalyr1.inspection.samples import (
    digest_if_readable,
    require_files,
    require_unchanged,
    require_unique,
    samples_of_images,
)
from anomalyr1.inspection.thresholds import Threshold
from anomalyr1.records import Writer
from anomalyr1.types import Evidence, Fingerprint, InputError, Inspection, Mask, Reply, Sample, SetupError

VOTING = Sampling(temperature=1.0)
"""How votes are sampled: as the policy itself weighs its words."""

FAILURES = Exception
"""What may go wrong with one sample: a bad image or prompt, the disk, the memory, the engine, a fault in any
of them; all but a `SetupError`, which the next sample would meet too."""
ALIKE = 3
"""So many samples, if they are a run's first ones, do not fail in one way by chance: the run stops."""
UNEXPECTED = "unexpected_"
"""Opens the count of a failure that no input explains; the name of its class follows."""

BATCH_PIXELS = 64_000_000
"""How many pixels of originals a batch keeps in memory, 4 bytes each; the samples of a larger one are asked
one by one."""

MAX_MASKS = 20
"""Boxes of an image that get a mask; the others are counted as "boxes_without_mask"."""

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
    """What makes masks of method "sam2"; None loads the default model when it is needed."""
    votes: int = 1
    """How many samples of both questions make a verdict."""
    threshold: Threshold | None = None
    """What the score is compared with; None = the answers alone make the verdict."""
    look: TaughtLook | None = None
    """What the policy's training pictures looked like; None = not known, and nothing is unlike them."""
    good_parts: GoodParts = NO_GOOD_PARTS
    """The good parts that images are compared with, and who decides."""

    def __post_init__(self) -> None:
        """Refuse votes that would all be the same, or that nothing counts."""
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
        style: str | None = None,
        text: str | None = None,
        votes: int = 1,
        fast: bool = False,
        engine: str = "local",
        threshold: Threshold | None = None,
        bank: Bank | Literal["references"] | None = None,
        decide: Decider | None = None,
        tell: bool | None = None,
        maps: Path | None = None,
    ) -> Inspector:
        """An inspector over a policy: "nano", a folder, or a name on the Hugging Face hub.

        `revision` pins a hub model. Without `style`, `text` and `max_pixels` a policy is asked as it was
        taught; asked otherwise, its fingerprint says so. `votes` samples of both questions make each verdict;
        `fast` asks for the score alone, without reasoning and boxes. `engine` runs the policy: "local",
        "vllm", or "endpoint:FILE" for the server of a configuration, which names its own model. `threshold`
        decides by the score. With a `bank` images are compared with its good parts, or with each sample's own
        references: `decide`, `tell` and `maps` say how (see `GoodParts`). Raises `InputError` for options
        that do not go together and for a model that cannot be used, `SetupError` for what is not installed.
        """
        if fast and votes > 1:
            raise InputError(f"{votes} fast scores are all the same; ask for votes or for fast, not both")
        if bank is None and (decide or tell):
            raise InputError(
                "who decides (--decide) and what the prompt says (--evidence) is about good parts to compare "
                "with, and there are none; give --bank FILE or --good IMAGES (from Python: bank=)"
            )
        from anomalyr1.engines.loading import load_engine

        prompts.style_id(style or prompts.DEFAULT_STYLE, text)  # refused before the weights are loaded
        sampling = VOTING if votes > 1 else GREEDY
        if fast:
            sampling = Sampling(fast=True)
        sam2 = Sam2.load() if masks == "sam2" and not fast else None
        runner = load_engine(engine, model, revision, max_pixels)
        prompt = choose_prompt(runner, style, text)
        is_here = engine.partition(":")[0] in ("local", "vllm")
        look = TaughtLook.read(Path(runner.fingerprint(sampling).model)) if is_here else None
        good_parts = GoodParts.of(bank, runner, prompt, decide, tell, maps) if bank else NO_GOOD_PARTS
        return cls(
            runner,
            masks,
            *prompt,
            sampling,
            sam2=sam2,
            votes=votes,
            threshold=threshold,
            look=look,
            good_parts=good_parts,
        )

    def __call__(
        self,
        image: str | Path | Pixels,
        knowledge: str = "",
        references: Sequence[str | Path | Pixels] = (),
        sample_id: str = "",
    ) -> Inspection:
        """Inspect one image: a file, an array (grey or RGB, see `arrays`) or an image of Pillow's.

        The inspection goes by `sample_id`, else by the file's path or by "image-DIGEST" of the pixels. Raises
        `InputError` when a file is missing, pixels are none, or `references` is no list of pictures; what
        fails later is in the inspection's `error`.
        """
        require_pictures(references)
        # 1. Pixels are images that were opened already, under paths at which no file lies.
        loaded: dict[Path, LoadedImage] = {}
        paths = []
        for source in (image, *references):
            if isinstance(source, str | Path):
                paths.append(Path(source))
                continue
            picture = load_pixels(source)
            loaded[picture.path] = picture
            paths.append(picture.path)
        # 2. All others are files.
        samples, _ = samples_of_images(paths[:1], paths[1:], knowledge)
        require_files(samples, loaded)
        if sample_id:
            samples = [samples[0].model_copy(update={"id": sample_id})]
        return self.inspect(samples, loaded=loaded)[0]

    def run(
        self,
        samples: Sequence[Sample],
        out: str | Path,
        progress: Callable[[int, Inspection], None] = lambda done, inspection: None,
        context: str = "",
        own_questions: bool = False,
        retry_failed: bool = False,
    ) -> list[Inspection]:
        """Inspect all samples into the inspections file `out`; those already there are not inspected again,
        with `retry_failed` only those that did not fail.

        Batches lie at fixed places of `samples`, and a batch that a kill cut is computed as a whole again, so
        a resumed file equals an uninterrupted one: the process takes the number of threads that the file was
        begun with, and keeps it. `progress` gets the number of inspections done and the
        newest of them. `context` is a digest of what all samples were given beside their image (see
        `samples_of_images`); resuming under another one is refused. With `own_questions` each sample is asked
        its own questions, as evaluation does, instead of the two of an inspection.

        Raises `InputError` before anything is inspected: for missing files, ids that are not unique, votes on
        own questions, and a threshold that was made for other scores; `SetupError` where the first samples
        all fail in one way that no input explains.
        """
        if own_questions and self.votes > 1:
            raise InputError(
                f"a sample's own questions are asked once, not {self.votes} times; leave votes out"
            )
        require_files(samples)
        require_unique(samples)
        _take_threads_of(out)
        fingerprint = self.fingerprint(context)
        if self.threshold is not None:
            self.threshold.require_same(fingerprint)
        with Writer(out, fingerprint, retry_failed) as writer:
            require_unchanged(samples, writer.done, out)
            for start in range(0, len(samples), self.batch):
                batch = samples[start : start + self.batch]
                self._inspect_into(writer, batch, own_questions)
                for done, sample in enumerate(batch, start=start + 1):
                    progress(done, writer.done[sample.id])
            return [writer.done[sample.id] for sample in samples]

    def inspect(
        self,
        samples: Sequence[Sample],
        own_questions: bool = False,
        loaded: Mapping[Path, LoadedImage] = MappingProxyType({}),
    ) -> list[Inspection]:
        """Inspect samples in one call of the engine; what fails becomes an inspection with an error.

        `loaded` holds images that were opened already, by the paths that samples name; the others are opened.
        """
        try:
            return self._ask(samples, own_questions, loaded)
        except SetupError:
            raise
        except FAILURES as error:
            if len(samples) == 1:
                return [_failed(samples[0], error)]
        # One bad sample does not take its neighbours along: each is asked alone.
        return [
            inspection for sample in samples for inspection in self.inspect([sample], own_questions, loaded)
        ]

    def fingerprint(self, context: str = "") -> Fingerprint:
        """What a run of this inspector depends on."""
        engine = self.engine.fingerprint(self.sampling)
        changes = {
            "style": prompts.style_id(self.style, self.text, self.good_parts.tell),
            "given": context,
            "evidence": self.good_parts.digest,
            "masks": self.masks,
            "versions": engine.versions | self._versions(),
            "sampling": engine.sampling + (f", {self.votes} samples" if self.votes > 1 else ""),
        }
        if self.threshold is not None:
            changes["threshold"] = self.threshold.digest
        if taught := taught_of(self.engine):
            changes["taught"] = taught.otherwise(str(changes["style"]), engine.max_pixels)
        return engine.model_copy(update=changes)

    def _versions(self) -> dict[str, str]:
        """The versions of what computes pixels and masks and guards, whatever the engine."""
        versions = {name: metadata.version(name) for name in VERSIONS}
        if self.masks == "sam2":
            versions["sam2"] = (self.sam2.source if self.sam2 else "") or "not known"
        if self.look is not None:
            versions["taught_images"] = self.look.digest
        return versions

    def _inspect_into(self, writer: Writer, batch: Sequence[Sample], own_questions: bool) -> None:
        """Inspect a batch, unless all of it is done, and write what is not there yet."""
        if all(sample.id in writer.done for sample in batch):
            return
        inspections = self.inspect(batch, own_questions)
        _require_sound([*islice(writer.done.values(), ALIKE), *inspections])
        for inspection in inspections:
            if inspection.sample_id not in writer.done:
                writer.append(inspection)

    def _ask(
        self, samples: Sequence[Sample], own_questions: bool, loaded: Mapping[Path, LoadedImage]
    ) -> list[Inspection]:
        # 1. Open every image once.
        paths = list(dict.fromkeys(path for sample in samples for path in (sample.image, *sample.references)))
        room = Room(BATCH_PIXELS) if len(samples) > 1 else None  # what has no room is asked alone
        files = [path for path in paths if path not in loaded]
        with ThreadPoolExecutor(THREADS) as pool:
            opened = dict(zip(files, pool.map(partial(open_image, room=room), files), strict=True))
        images = {**loaded, **opened}
        # 2. Ask all questions in one call, but none about a picture that no policy should judge.
        doubts: list[Doubt | None] = [None] * len(samples)
        run = self.engine.fingerprint(self.sampling)
        if not own_questions:  # an exam wants every answer
            family = FAMILIES.get(run.family)
            doubts = [doubt_of_picture(images[sample.image].rgb, family, self.look) for sample in samples]
        evidence_of = [
            None if doubt else self.good_parts.measure(sample, images[sample.image])
            for sample, doubt in zip(samples, doubts, strict=True)
        ]
        prompts_of = []
        for sample, doubt, evidence in zip(samples, doubts, evidence_of, strict=True):
            text = self.good_parts.write_words(evidence, images[sample.image].size_wh, run)
            prompts_of.append([] if doubt else self._prompts(sample, own_questions, text))
        all_prompts = [prompt for sample_prompts in prompts_of for prompt in sample_prompts]
        completions = iter(self.engine.complete(all_prompts, images, self.sampling) if all_prompts else ())
        # 3. Judge each sample by its completions.
        inspections = []
        for sample, sample_prompts, doubt, evidence in zip(
            samples, prompts_of, doubts, evidence_of, strict=True
        ):
            replies = list(islice(completions, len(sample_prompts)))
            image = images[sample.image]
            if doubt:
                inspections.append(_unasked(sample, image, doubt))
            else:
                inspections.append(
                    self._judge(sample, image, sample_prompts, replies, own_questions, evidence)
                )
        return inspections

    def _prompts(self, sample: Sample, own_questions: bool, evidence: str) -> list[prompts.Prompt]:
        """What is asked about a sample; boxes are not asked for without reasoning, which makes none."""
        questions = sample.questions if own_questions else prompts.inspection_questions(sample.id)
        askable = [question for question in questions if question.options or not self.sampling.fast]
        return [
            prompts.build(sample, question, self.style, self.text, evidence)
            for question in askable
            for _ in range(self.votes)
        ]

    def _judge(
        self,
        sample: Sample,
        image: LoadedImage,
        sample_prompts: Sequence[prompts.Prompt],
        completions: Sequence[Completion],
        own_questions: bool,
        evidence: Evidence | None,
    ) -> Inspection:
        """The inspection of one sample by the completions of its prompts, beside evidence."""
        errors = [completion.error for completion in completions if completion.error]
        if errors:
            return _failed(sample, InputError(errors[0]))
        # 1. Read the completions.
        counts: Counter[str] = Counter()
        replies = [
            _read_reply(prompt, completion, counts)
            for prompt, completion in zip(sample_prompts, completions, strict=True)
        ]
        counts["exif_orientation_applied"] += int(image.orientation != 1)
        counts["bit_depth_reduced"] += int(image.window is not None)
        # 2. Come to a verdict.
        if own_questions:
            opinion = verdicts.of_questions([prompt.question for prompt in sample_prompts], replies)
        else:
            opinion = verdicts.conclude(replies[: self.votes], replies[self.votes :], image.size_wh)
        if evidence is not None and not own_questions:
            opinion, evidence_counts = self.good_parts.decide_on(opinion, evidence, image)
            counts.update(evidence_counts)
        verdict, reason = opinion.verdict, opinion.reason
        if self.threshold is not None:
            verdict, reason = self.good_parts.judge(self.threshold, opinion, evidence)
        # 3. Make the masks of its boxes.
        masks: tuple[Mask, ...] | None = None if opinion.boxes is None else ()
        if opinion.boxes:
            masks = outlines_of(evidence, opinion.boxes) if self.masks == "default" else None
        if opinion.boxes and masks is None:
            masks, mask_counts = masks_for(image.rgb, opinion.boxes[:MAX_MASKS], self.masks, self.sam2)
            counts.update(mask_counts)
            counts["boxes_without_mask"] = max(0, len(opinion.boxes) - MAX_MASKS)
        return Inspection(
            sample_id=sample.id,
            verdict=verdict,
            score=opinion.score,
            score_from=opinion.score_from,
            votes=opinion.votes,
            reason=reason,
            boxes=opinion.boxes,
            masks=masks,
            evidence=evidence,
            replies=tuple(replies),
            counts={name: n for name, n in sorted(counts.items()) if n},
            image_sha256=image.sha256,
        )


def _read_reply(prompt: prompts.Prompt, completion: Completion, counts: Counter[str]) -> Reply:
    """A completion as a reply; what is to be counted is added to `counts`."""
    answer = completion.answer
    counts.update(answer.counts)
    counts.update(prompt.counts)
    counts.update({answer.status: 1, "cut_off": int(completion.finish == "length")})
    return Reply(
        question_id=prompt.question.id,
        completion=completion.text,
        answer=answer,
        finish=completion.finish,
        option_scores=completion.option_scores,
    )


def _unasked(sample: Sample, image: LoadedImage, doubt: Doubt) -> Inspection:
    """The inspection of a picture about which the policy was not asked."""
    return Inspection(
        sample_id=sample.id,
        verdict="unsure",
        reason=verdicts.unsure_because(f"{doubt.words}; the policy was not asked"),
        counts={doubt.name: 1},
        image_sha256=image.sha256,
    )


def _failed(sample: Sample, error: Exception) -> Inspection:
    kind = "" if isinstance(error, InputError) else type(error).__name__
    message = f"{kind}: {error}" if kind else str(error)
    return Inspection(
        sample_id=sample.id,
        verdict="unsure",
        reason=f"Unsure because the inspection failed: {message}",
        counts={UNEXPECTED + kind: 1} if kind else {},
        error=message,
        image_sha256=digest_if_readable(sample.image),
    )


def _require_sound(inspections: Sequence[Inspection]) -> None:
    """Raise `SetupError` where the first `ALIKE` inspections all failed in one way that no input explains."""
    kinds = [{name for name in i.counts if name.startswith(UNEXPECTED)} for i in inspections[:ALIKE]]
    if len(kinds) == ALIKE and set.intersection(*kinds):
        raise SetupError(
            f"the first {ALIKE} samples all failed in one way ({inspections[0].error}), so the fault lies "
            "with the model or this installation, not with the images, and the run stops; "
            "try another model, or see: anomalyr1 doctor"
        )


def _take_threads_of(path: str | Path) -> None:
    """Compute with as many threads as the file was begun with: sums in another order end in other bits."""
    begun = records.fingerprint_of(path)
    threads = begun.versions.get("threads", "") if begun else ""
    if re.fullmatch(r"[1-9][0-9]{0,2}", threads):  # whoever wrote the file wrote this, too
        import torch

        torch.set_num_threads(int(threads))
