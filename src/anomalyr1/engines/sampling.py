"""The next token of each completion, and how likely the options were where one was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anomalyr1.engines.engine import Sampling
from anomalyr1.engines.option_tokens import OptionTokens


class _LetterStep(NamedTuple):
    """A token that wrote an option letter, and what the options' probabilities were there."""

    step: int
    marks: str
    """The marks that the token writes before the letter."""
    scores: dict[str, float]


class Chooser:
    """Greedy or sampled tokens, never a suppressed one.

    It notes the options' probabilities wherever an option letter is written. Completions are named by their
    places in the call.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        sampling: Sampling,
        suppressed_ids: Sequence[int],
        option_tokens: OptionTokens,
        options: Sequence[str],
    ) -> None:
        """`seeds` and `options` (the letters of each question's options) are one for each completion."""
        self._sampler = GumbelSampler(seeds, sampling) if sampling.temperature > 0 else None
        self._suppressed_ids = list(suppressed_ids)
        self._option_tokens = option_tokens
        self._options = options
        self._steps = [0] * len(seeds)
        self._letter_steps: list[list[_LetterStep]] = [[] for _ in seeds]

    def __call__(self, logits: Tensor, places: Sequence[int]) -> list[int]:
        """Logits (N, V) of the completions at `places` of the call -> the next token of each."""
        # 1. Choose.
        logits[:, self._suppressed_ids] = -torch.inf
        ranked = self._sampler(logits, places) if self._sampler else logits  # (N, V)
        tokens: list[int] = ranked.argmax(dim=-1).tolist()
        # 2. Note the options' probabilities where the token writes one of them.
        for token_logits, place, token in zip(logits, places, tokens, strict=True):  # (V,)
            letters = self._options[place]
            letter_token = self._option_tokens.tokens.get(token) if letters else None
            if letter_token is not None and letter_token.letter in letters:
                scores = self._option_tokens.scores(token_logits, letter_token.marks, letters)
                if scores is not None:
                    step = _LetterStep(self._steps[place], letter_token.marks, scores)
                    self._letter_steps[place].append(step)
            self._steps[place] += 1
        return tokens

    def scores_at(
        self, place: int, letter_at: int | None, length_before: Callable[[int], int]
    ) -> dict[str, float] | None:
        """The options' probabilities where a completion gives its answer; None where that is no letter.

        `letter_at` is the character of that letter; `length_before` gives the length of the text before a
        step.
        """
        if letter_at is None:
            return None
        for step in self._letter_steps[place]:
            if length_before(step.step) + len(step.marks) == letter_at:
                return step.scores
        return None


class FastChooser:
    """The likeliest option letter; `scores` has the probabilities of all, by place in the call."""

    def __init__(self, letter_ids: Sequence[dict[str, int]]) -> None:
        """`letter_ids`: for each completion of the call, the token of each option letter."""
        self._letter_ids = letter_ids
        self.scores: dict[int, dict[str, float]] = {}

    def __call__(self, logits: Tensor, places: Sequence[int]) -> list[int]:
        """Logits (N, V) of the completions at `places` of the call -> the token of each likeliest letter."""
        for token_logits, place in zip(logits, places, strict=True):  # (V,)
            letter_ids = self._letter_ids[place]
            scores = token_logits[list(letter_ids.values())].double().softmax(0)
            self.scores[place] = dict(zip(letter_ids, scores.tolist(), strict=True))
        return [self._letter_ids[place][self.letter(place)] for place in places]

    def letter(self, place: int) -> str:
        """The likeliest letter of the completion at `place`; the first of equals."""
        scores = self.scores[place]
        return max(scores, key=lambda letter: (scores[letter], -ord(letter)))


class GumbelSampler:
    """Sampling as scores plus Gumbel noise, whose largest entry is a sample of the softmax.

    Every completion has its own generator, so that no other changes what it draws.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._sampling = sampling

    def __call__(self, logits: Tensor, places: Sequence[int]) -> Tensor:
        """Logits (N, V) of the completions at `places` -> scores (N, V) whose argmax is the sampled token."""
        scores = logits.double() / self._sampling.temperature
        # 1. Nucleus: drop each token once the likelier ones have the probability top_p together.
        if self._sampling.top_p < 1:
            ordered, order = scores.sort(dim=-1, descending=True, stable=True)
            likelier = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            dropped = torch.zeros_like(scores, dtype=torch.bool)
            dropped = dropped.scatter(-1, order, likelier >= self._sampling.top_p)
            scores = scores.masked_fill(dropped, -torch.inf)
        # 2. Gumbel noise from each completion's own generator.
        vocabulary = scores.shape[-1]
        uniform = torch.stack(
            [
                torch.rand(vocabulary, dtype=torch.float64, generator=self._generators[place])
                for place in places
            ]
        )  # (N, V)
        return scores - torch.log(-torch.log(uniform)).to(scores.device)
