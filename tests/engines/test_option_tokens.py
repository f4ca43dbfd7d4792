"""Which tokens write an option letter, and how the letters compete."""

import pytest
import torch

from anomalyr1.engines.option_tokens import OptionTokens


class Tokens:
    """A tokenizer with these tokens, which writes the longest that fits."""

    def __init__(self, *tokens):
        self.tokens = tokens

    def get_vocab(self):
        return {token.replace(" ", "Ġ"): id_ for id_, token in enumerate(self.tokens)}

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens).replace("Ġ", " ")

    def __call__(self, text, add_special_tokens):
        ids = []
        while text:
            token = max((token for token in self.tokens if text.startswith(token)), key=len)
            ids.append(self.tokens.index(token))
            text = text[len(token) :]
        return {"input_ids": ids}


def test_letters_compete_after_the_same_marks():
    letters = OptionTokens(Tokens("A", "B", ">A", ">B", " A", "B.", "AB", "x"))
    logits = torch.tensor([1.0, 0.0, 5.0, 5.0, 9.0, 0.0, 9.0, 9.0])
    assert letters.scores(logits, ">", "AB") == {"A": 0.5, "B": 0.5}
    plain = letters.scores(logits, "", "AB")
    assert plain["B"] == pytest.approx(2 / (2 + 2.718281828))  # "B" and "B." both write B
    assert letters.scores(logits, " ", "AB") is None  # there is no " B"
    assert 6 not in letters.tokens and 7 not in letters.tokens


def test_how_an_opening_and_a_letter_are_written():
    assert OptionTokens(Tokens("<a", ">", ">A", ">B", "A", "B")).encode_opening("<a>", "AB") == (
        [0],
        {"A": 2, "B": 3},
    )
    assert OptionTokens(Tokens("<a", ">", "A", "B")).encode_opening("<a>", "AB") == ([0, 1], {"A": 2, "B": 3})
    assert OptionTokens(Tokens("<a", ">", ">A", "A", "B")).encode_opening("<a>", "AB") == (
        [0, 1],
        {"A": 3, "B": 4},
    )  # uneven: the letter alone
    assert OptionTokens(Tokens("A", "B")).encode_opening("", "AB") == ([], {"A": 0, "B": 1})
