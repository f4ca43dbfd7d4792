"""Which token looks at which, and what lies where."""

import pytest
import torch

from anomalyr1.shared_prefix.layout import PADDING, attention_mask, pad_left

# Two prompt tokens, two of branch 1, two of branch 2, padding.
ROW = torch.tensor([[0, 0, 1, 1, 2, 2, PADDING]])


def looks(owners, query_owners):
    mask = attention_mask(owners, query_owners, torch.float32)
    assert set(mask.unique().tolist()) <= {0.0, torch.finfo(torch.float32).min}
    return ["".join("x" if value == 0 else "." for value in row) for row in mask[0, 0].tolist()]


def test_a_branch_sees_the_prefix_and_itself():
    assert looks(ROW, [ROW]) == [
        "x......",
        "xx.....",
        "xxx....",
        "xxxx...",
        "xx..x..",  # nothing of branch 1
        "xx..xx.",
        "xx....x",  # padding sees itself, so that no row of the mask is empty; nobody sees it
    ]


def test_new_columns_see_the_branches_that_they_name():
    owners = torch.cat([ROW, torch.tensor([[3, 4]])], 1)  # a completion of question 1 and one of question 2
    assert looks(owners, [torch.tensor([[3, 4]]), torch.tensor([[1, 2]])]) == ["xxxx...x.", "xx..xx..x"]


def test_no_real_token_looks_at_padding():
    owners = torch.tensor([[PADDING, 0, 1, PADDING, 1, 2, PADDING]])
    seen = looks(owners, [owners])
    for column in (1, 2, 4, 5):
        assert [seen[column][padding] for padding in (0, 3, 6)] == [".", ".", "."]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mask_has_the_models_dtype(dtype):
    assert attention_mask(ROW, [ROW], dtype).dtype is dtype


def test_rows_end_together():
    ids, is_token = pad_left([torch.tensor([5, 6, 7]), torch.tensor([8])], filler=9)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert is_token.tolist() == [[1, 1, 1], [0, 0, 1]]
