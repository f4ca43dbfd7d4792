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

_RAW_TOKEN = re.compile(r"[^A-Za-z0-9]{0,4}[A-Z][^A-Za-z0-9]{0,4}")
_LETTER_TEXT = re.compile(r"(\W*)([A-Z])(\W*)")


class LetterToken(NamedTuple):
    """What a token writes: marks, one capital letter, and no other letter or digit."""

    marks: str
    letter: str


class OptionTokens:
    """The tokens of a tokenizer that write one capital letter."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def tokens(self) -> dict[int, LetterToken]:
        """Every token that writes one capital letter, by its id."""
        letter_tokens = {}
        for token, id_ in self._tokenizer.get_vocab().items():
            if not _RAW_TOKEN.fullmatch(token):
                continue
            # Bytes stand for themselves only in ASCII, so what looks right is looked at again as text.
            text = _LETTER_TEXT.fullmatch(self._tokenizer.convert_tokens_to_string([token]))
            if text:
                letter_tokens[id_] = LetterToken(text[1], text[2])
        return letter_tokens

    @cached_property
    def _ids(self) -> dict[LetterToken, list[int]]:
        ids: dict[LetterToken, list[int]] = {}
        for id_, letter_token in sorted(self.tokens.items()):
            ids.setdefault(letter_token, []).append(id_)
        return ids

    def scores(self, logits: Tensor, marks: str, letters: str) -> dict[str, float] | None:
        """The probability of each of `letters` after `marks`, normalised over them, from logits (V,).

        None when the tokenizer lacks one of them.
        """
        ids = [self._ids.get(LetterToken(marks, letter), []) for letter in letters]
        if not ids or not all(ids):
            return None
        weights = torch.stack([logits[letter_ids].double().logsumexp(0) for letter_ids in ids])  # (letters,)
        return dict(zip(letters, weights.softmax(0).tolist(), strict=True))

    def encode_opening(self, opening: str, letters: str) -> tuple[list[int], dict[str, int]]:
        """How the tokenizer writes `opening` and then one of `letters`.

        Returns the ids that all share, and the next id of each letter.
        """
        ids = {letter: self._encode(opening + letter) for letter in letters}
        shared = min(len(letter_ids) for letter_ids in ids.values()) - 1
        one_more = all(len(letter_ids) == shared + 1 for letter_ids in ids.values())
        if one_more and len({tuple(letter_ids[:shared]) for letter_ids in ids.values()}) == 1:
            return ids[letters[0]][:shared], {letter: letter_ids[-1] for letter, letter_ids in ids.items()}
        # The letter changes how the opening is cut into tokens: write them apart.
        return self._encode(opening), {letter: self._encode(letter)[0] for letter in letters}

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return ids
