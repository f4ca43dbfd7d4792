"""The engine that replays recorded completions: for tests, scoring again under other rules, and audits. Needs no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from anomalyr1.engines.engine import GREEDY, Completion, Sampling
from anomalyr1.images import FAMILIES, Frame, LoadedImage
from anomalyr1.prompts import Prompt
from anomalyr1.records import read
from anomalyr1.types import Fingerprint, InputError, Reply


class ReplayEngine:
    """Serves the completions of an inspections file, by sample and question, in the order in which they were recorded.

    Each is served once: a question that was answered K times can be asked K times. Token counts are not
    recorded, so they are 0.
    """

    name = "replay"

    def __init__(self, path: str | Path) -> None:
        """Read the file. Raises `InputError` when it is no inspections file or its model family is not known."""
        self._path = Path(path)
        self._recorded, inspections = read(self._path)
        if self._recorded.family not in FAMILIES:
            raise InputError(
                f"{str(path)!r}: the model family {self._recorded.family!r} is not known; known are {', '.join(FAMILIES)}"
            )
        self._left: dict[tuple[str, str], deque[Reply]] = {}
        for inspection in inspections:
            for reply in inspection.replies:
                self._left.setdefault((inspection.sample_id, reply.question_id), deque()).append(reply)

    def fingerprint(self, sampling: Sampling = GREEDY) -> Fingerprint:
        """The fingerprint of the recorded run, with this engine's name; `sampling` changes nothing."""
        return self._recorded.model_copy(update={"engine": self.name})

    def complete(
        self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling = GREEDY
    ) -> list[Completion]:
        """One recorded completion a prompt, in their order; `sampling` changes nothing.

        The frame is the one the recorded run had; None when `images` lacks the inspected image. Raises
        `InputError` for a question that was not recorded, or not recorded that often; then none of the call's
        completions is used up.
        """
        self._require(prompts)
        replies = [self._left[prompt.sample_id, prompt.question.id].popleft() for prompt in prompts]
        return [
            Completion(reply.completion, self._frame(prompt, images), 0, 0, reply.finish, reply.option_scores)
            for prompt, reply in zip(prompts, replies, strict=True)
        ]

    def _require(self, prompts: Sequence[Prompt]) -> None:
        wanted: dict[tuple[str, str], int] = {}
        for prompt in prompts:
            key = (prompt.sample_id, prompt.question.id)
            wanted[key] = wanted.get(key, 0) + 1
            left = len(self._left.get(key, ()))
            if wanted[key] > left:
                known = "was never answered" if key not in self._left else f"has only {left} completions left"
                raise InputError(
                    f"{str(self._path)!r}: question {key[1]!r} of sample {key[0]!r} {known} in it; replay the samples and questions of the "
                    "recorded run, or run them with a model"
                )

    def _frame(self, prompt: Prompt, images: Mapping[Path, LoadedImage]) -> Frame | None:
        if not prompt.images or prompt.images[-1] not in images:
            return None
        family, size_wh = FAMILIES[self._recorded.family], images[prompt.images[-1]].size_wh
        return Frame.of(size_wh, family, self._recorded.max_pixels)
