"""The engine that replays recorded completions: for tests, scoring under other rules, and audits."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from anomalyr1 import records
from anomalyr1.answers import parse_with_place
from anomalyr1.engines.engine import GREEDY, Completion, Sampling
from anomalyr1.images.door import LoadedImage
from anomalyr1.images.frames import FAMILIES, Frame
from anomalyr1.prompts import Prompt
from anomalyr1.types import Fingerprint, InputError, Reply


class ReplayEngine:
    """Serves the completions of an inspections file, by sample and question, in the order of the record.

    Each is served once: a question that was answered K times can be asked K times. Token counts are not
    recorded, so they are 0.
    """

    name = "replay"

    def __init__(self, path: str | Path) -> None:
        """Read the file. Raises `InputError` when it is no inspections file or its family is not known."""
        self._path = Path(path)
        self._fingerprint, inspections = records.read(self._path)
        if self._fingerprint.family not in FAMILIES:
            raise InputError(
                f"{str(path)!r}: the model family {self._fingerprint.family!r} is not known; "
                f"known are {', '.join(FAMILIES)}"
            )
        self._replies: dict[tuple[str, str], deque[Reply]] = {}
        for inspection in inspections:
            for reply in inspection.replies:
                self._replies.setdefault((inspection.sample_id, reply.question_id), deque()).append(reply)

    def fingerprint(self, sampling: Sampling = GREEDY) -> Fingerprint:
        """The fingerprint of the recorded run, with this engine's name; `sampling` changes nothing."""
        return self._fingerprint.model_copy(update={"engine": self.name})

    def complete(
        self, prompts: Sequence[Prompt], images: Mapping[Path, LoadedImage], sampling: Sampling = GREEDY
    ) -> list[Completion]:
        """One recorded completion a prompt, in their order, read again; `sampling` changes nothing.

        The frame is the one the recorded run had; None when `images` lacks the inspected image. Raises
        `InputError` for a question that was not recorded, or not recorded that often; then none of the call's
        completions is used up.
        """
        self._require_replies(prompts)
        return [self._next_completion(prompt, images) for prompt in prompts]

    def _require_replies(self, prompts: Sequence[Prompt]) -> None:
        times_asked = Counter[tuple[str, str]]()
        for prompt in prompts:
            key = (prompt.sample_id, prompt.question.id)
            times_asked[key] += 1
            replies_left = len(self._replies.get(key, ()))
            if times_asked[key] > replies_left:
                state = f"has only {replies_left} completions left"
                if key not in self._replies:
                    state = "was never answered"
                raise InputError(
                    f"{str(self._path)!r}: question {key[1]!r} of sample {key[0]!r} {state} in it; "
                    "replay the samples and questions of the recorded run, or run them with a model"
                )

    def _next_completion(self, prompt: Prompt, images: Mapping[Path, LoadedImage]) -> Completion:
        reply, frame = self._replies[prompt.sample_id, prompt.question.id].popleft(), None
        if prompt.images and prompt.images[-1] in images:
            family, max_pixels = FAMILIES[self._fingerprint.family], self._fingerprint.max_pixels
            frame = Frame.of(images[prompt.images[-1]].size_wh, family, max_pixels)
        answer, _ = parse_with_place(reply.completion, prompt.question.options, frame)
        return Completion(reply.completion, answer, frame, 0, 0, reply.finish, reply.option_scores)
