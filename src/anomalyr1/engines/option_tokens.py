"""Option letters among a tokenizer's tokens: what the probability of an option is read from.

A policy may write a letter as a token of its own or together with a mark before it: in `<answer>B</answer>`
Qwen's tokenizer may make one token of `>B`. So the options compete among the tokens that write a letter after
the same marks, wherever the policy wrote one itself.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

_RAW = re.compile(r"[^A-Za-z0-9]{0,4}[A-Z][^A-Za-z0-9]{0,4}")
_TEXT = re.compile(r"(\W*)([A-Z])(\W*)")


class Letter(NamedTuple):
    """What a token writes: marks, one capital letter, and no other letter or digit."""

    lead: str
    letter: str


class Letters:
    """The tokens of a tokenizer that write one capital letter."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def tokens(self) -> dict[int, Letter]:
        """Every token that writes one capital letter, by its id."""
        found = {}
        for token, id_ in self._tokenizer.get_vocab().items():
            # Bytes stand for themselves only in ASCII, so what looks right is looked at again as text.
            if _RAW.fullmatch(token) and (
                match := _TEXT.fullmatch(self._tokenizer.convert_tokens_to_string([token]))
            ):
                found[id_] = Letter(match[1], match[2])
        return found

    @cached_property
    def _ids(self) -> dict[Letter, list[int]]:
        ids: dict[Letter, list[int]] = {}
        for id_, letter in sorted(self.tokens.items()):
            ids.setdefault(letter, []).append(id_)
        return ids

    def scores(self, logits: Tensor, lead: str, letters: str) -> dict[str, float] | None:
        """The probability of each of `letters` after the marks `lead`, normalised over them, from logits (V,).

        None when the tokenizer lacks one of them.
        """
        ids = [self._ids.get(Letter(lead, letter), []) for letter in letters]
        if not ids or not all(ids):
            return None
        weights = torch.stack([logits[own].double().logsumexp(0) for own in ids])
        return dict(zip(letters, weights.softmax(0).tolist(), strict=True))

    def forced(self, opening: str, letters: str) -> tuple[list[int], dict[str, int]]:
        """How the tokenizer writes `opening` and then one of `letters`: the ids that all share, and the next one of each letter."""
        whole = {letter: self._encode(opening + letter) for letter in letters}
        shared = min(len(ids) for ids in whole.values()) - 1
        if (
            all(len(ids) == shared + 1 for ids in whole.values())
            and len({tuple(ids[:shared]) for ids in whole.values()}) == 1
        ):
            return whole[letters[0]][:shared], {letter: ids[-1] for letter, ids in whole.items()}
        return self._encode(opening), {letter: self._encode(letter)[0] for letter in letters}

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return ids


def likeliest(scores: dict[str, float]) -> str:
    """The letter with the largest probability; the first of equals."""
    return max(scores, key=lambda letter: (scores[letter], -ord(letter)))


def forced_scores(logits: Tensor, next_ids: dict[str, int]) -> dict[str, float]:
    """The probability of each letter's token, normalised over them, from logits (V,)."""
    weights = logits[list(next_ids.values())].double().softmax(0)
    return dict(zip(next_ids, weights.tolist(), strict=True))
