"""Shared prefixes give TRL's numbers: log-probabilities, entropies, gradients, and what is sampled.

ANOMALYR1_BATCHES=200 runs more random batches than the few of every day.
"""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
import torch

from anomalyr1.shared_prefix import score
from anomalyr1.shared_prefix.score import suppress_tokens
from anomalyr1.types import InputError
from support import groups
from support.groups import grouped

BATCHES = int(os.environ.get("ANOMALYR1_BATCHES", "3"))
CASES = list(
    itertools.product(("qwen2_5_vl", "qwen3_vl"), (False, True), (False, True))
)  # family, adapter, gradient checkpointing


def differences(model, given, seed, forms):
    """Largest differences from TRL, a row a form: log-probabilities, entropies, gradients (relative)."""
    log_probs, entropies = groups.by_trl(model, given)
    expected = groups.gradients(model, log_probs, entropies, seed)
    rows = []
    for form in forms:
        own, own_entropies = model(groups=grouped(given), form=form)
        found = groups.gradients(model, own, own_entropies, seed)
        relative = (found - expected).norm() / expected.norm().clamp(min=1e-6)
        rows.append(
            [
                float((own - log_probs).abs().max()),
                float((own_entropies - entropies).abs().max()),
                float(relative),
            ]
        )
    return np.array(rows)


@pytest.mark.parametrize(("family", "lora", "checkpointing"), CASES)
def test_both_forms_equal_trl(family, lora, checkpointing):
    model, policy = groups.policy(family, lora, checkpointing)
    rng = np.random.default_rng(0)
    for seed in range(BATCHES):
        given = groups.batch(rng, policy.processor)
        found = differences(model, given, seed, ["packed"] if checkpointing else ["branched", "packed"])
        assert (found <= (1e-5, 1e-5, 1e-4)).all(), (seed, found)


def test_a_broken_mask_is_seen(monkeypatch):
    def causal(owners, _, dtype):
        hidden = torch.ones(owners.shape[1], owners.shape[1]).triu(1) * torch.finfo(dtype).min
        return hidden.expand(len(owners), 1, -1, -1)

    model, policy = groups.policy("qwen2_5_vl")
    given = groups.batch(np.random.default_rng(5), policy.processor, groups=2, empty=False)
    assert (differences(model, given, 0, ["packed"])[0] < 1e-4).all()
    monkeypatch.setattr(score, "attention_mask", causal)
    broken = differences(model, given, 0, ["packed"])[0]
    assert broken[0] > 1e-3 and broken[2] > 1e-2


def test_suppressed_tokens_leave_the_distribution(tmp_path):
    from safetensors.torch import load_file

    model, policy = groups.policy("qwen2_5_vl")
    ids = list(policy.suppressed_ids)
    given = groups.batch(np.random.default_rng(3), policy.processor, groups=2, empty=False)
    whole = model(**{"input_ids": given.ids, "attention_mask": given.mask, **given.fields()}).logits / 0.9
    whole[..., ids] = -torch.inf
    expected = torch.log_softmax(whole[:, -given.length - 1 : -1], -1).gather(
        -1, given.ids[:, -given.length :, None]
    )[..., 0]
    suppress_tokens(model, ids)
    for log_probs in (groups.by_trl(model, given)[0], model(groups=grouped(given), form="branched")[0]):
        counts = (given.mask[:, -given.length :] == 1) & ~torch.isin(
            given.ids[:, -given.length :], torch.tensor(ids)
        )
        assert torch.allclose(log_probs[counts], expected[counts], atol=1e-5)
    model.save_pretrained(tmp_path)
    assert "lm_head.bias" not in load_file(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="have a bias of their own"):
        suppress_tokens(model, ids)


def test_a_wrapped_head_is_refused():
    from peft import LoraConfig, get_peft_model

    model, _ = groups.policy("qwen2_5_vl")
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj", "lm_head"], r=2)).get_base_model()
    with pytest.raises(InputError, match=r"leave it out of lora\.target_modules and lora\.modules_to_save"):
        score.install_scoring(wrapped)


def test_tokens_are_suppressed_where_the_head_lies_in_shards():
    """DeepSpeed's ZeRO-3 leaves an empty weight with its shape beside it."""
    model, policy = groups.policy("qwen2_5_vl")
    rows = len(model.lm_head.weight)
    model.lm_head.weight = torch.nn.Parameter(torch.empty(0))
    model.lm_head.weight.ds_shape = torch.Size([rows, 64])
    suppress_tokens(model, policy.suppressed_ids)
    assert (
        model.lm_head.bias.nonzero()[:, 0].tolist() == sorted(policy.suppressed_ids)
        and len(model.lm_head.bias) == rows
    )
