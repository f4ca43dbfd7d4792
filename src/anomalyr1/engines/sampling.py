"""The next token of each completion, and how likely the options were where one was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anomalyr1 import answers
from anomalyr1.engines.engine import Sampling
from anomalyr1.engines.option_tokens import Letters, forced_scores, likeliest


class Chooser:
    """Greedy or sampled tokens, never a suppressed one; notes the options' probabilities wherever an option letter is written."""

    def __init__(
        self,
        seeds: Sequence[int],
        sampling: Sampling,
        suppressed_ids: Sequence[int],
        letters: Letters,
        options: Sequence[str],
    ) -> None:
        """`seeds` and `options` (the letters of each question's options) are by place in the call."""
        self._draw = Draw(seeds, sampling) if sampling.temperature > 0 else None
        self._suppressed = list(suppressed_ids)
        self._letters = letters
        self._options = options
        self._steps = [0] * len(seeds)
        self._noted: list[list[tuple[int, str, dict[str, float]]]] = [[] for _ in seeds]

    def __call__(self, logits: Tensor, places: Sequence[int]) -> list[int]:
        """Logits (N, V) of the completions at `places` of the call -> the next token of each."""
        logits[:, self._suppressed] = -torch.inf
        drawn = self._draw(logits, places) if self._draw else logits
        tokens: list[int] = drawn.argmax(dim=-1).tolist()
        for own, place, token in zip(logits, places, tokens, strict=True):
            written = self._letters.tokens.get(token) if self._options[place] else None
            if written is not None and written.letter in self._options[place]:
                scores = self._letters.scores(own, written.lead, self._options[place])
                if scores is not None:
                    self._noted[place].append((self._steps[place], written.lead, scores))
            self._steps[place] += 1
        return tokens

    def scores_at(
        self, place: int, text: str, options: Sequence[str], length_before: Callable[[int], int]
    ) -> dict[str, float] | None:
        """The options' probabilities where the completion `text` gives its answer; None where that is no letter.

        `length_before` gives the length of the text before a step.
        """
        at = answers.choice_at(text, options) if self._noted[place] else None
        if at is None:
            return None
        found = [scores for step, lead, scores in self._noted[place] if length_before(step) + len(lead) == at]
        return found[0] if found else None


class FastChooser:
    """The likeliest option letter; `scores` has the probabilities of all, by place in the call."""

    def __init__(self, next_ids: Sequence[dict[str, int]]) -> None:
        """`next_ids`: by place in the call, the token of each option letter."""
        self._next_ids = next_ids
        self.scores: dict[int, dict[str, float]] = {}

    def __call__(self, logits: Tensor, places: Sequence[int]) -> list[int]:
        """Logits (N, V) of the completions at `places` of the call -> the token of each one's likeliest letter."""
        for own, place in zip(logits, places, strict=True):
            self.scores[place] = forced_scores(own, self._next_ids[place])
        return [self._next_ids[place][self.letter(place)] for place in places]

    def letter(self, place: int) -> str:
        """The likeliest letter."""
        return likeliest(self.scores[place])


class Draw:
    """Sampling: scores plus Gumbel noise, whose largest entry is a sample of the softmax.

    Every completion has its own generator, so that no other changes what it draws.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._sampling = sampling

    def __call__(self, scores: Tensor, places: Sequence[int]) -> Tensor:
        """Scores (N, V) of the completions at `places` -> scores (N, V) whose argmax is the drawn token."""
        logits = scores.double() / self._sampling.temperature
        if self._sampling.top_p < 1:
            ordered, order = logits.sort(dim=-1, descending=True, stable=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(
                -1
            )  # the probability of all likelier tokens
            out = torch.zeros_like(logits, dtype=torch.bool).scatter(
                -1, order, before >= self._sampling.top_p
            )
            logits = logits.masked_fill(out, -torch.inf)
        generators = [self._generators[place] for place in places]
        uniform = torch.stack(
            [torch.rand(scores.shape[-1], dtype=torch.float64, generator=one) for one in generators]
        )
        return logits - torch.log(-torch.log(uniform)).to(logits.device)
