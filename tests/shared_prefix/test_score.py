"""Shared prefixes give TRL's numbers: log-probabilities, entropies, gradients, and what is sampled.

ANOMALYR1_BATCHES=200 runs more random batches than the few of every day.
"""

from __future__ import annotations

import dataclasses
import itertools
import os

import numpy as np
import pytest
import torch

from anomalyr1.shared_prefix import rollouts
from anomalyr1.shared_prefix import score as shared_prefix
from anomalyr1.shared_prefix.groups import choose, divided, find_groups, parts
from anomalyr1.shared_prefix.score import suppress
from anomalyr1.types import InputError
from support import groups

BATCHES = int(os.environ.get("ANOMALYR1_BATCHES", "3"))
CASES = list(
    itertools.product(("qwen2_5_vl", "qwen3_vl"), (False, True), (False, True))
)  # family, adapter, gradient checkpointing


def grouped(given):
    return find_groups(
        given.ids,
        given.mask,
        given.length,
        given.images.get("pixel_values"),
        given.images.get("image_grid_thw"),
        given.num_images,
    )


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
    def causal(segments, dtype):
        hidden = torch.ones(segments.shape[1], segments.shape[1]).triu(1) * torch.finfo(dtype).min
        return hidden.expand(len(segments), 1, -1, -1)

    model, policy = groups.policy("qwen2_5_vl")
    given = groups.batch(np.random.default_rng(5), policy.processor, groups=2, empty=False)
    assert (differences(model, given, 0, ["packed"])[0] < 1e-4).all()
    monkeypatch.setattr(shared_prefix, "branch_mask", causal)
    broken = differences(model, given, 0, ["packed"])[0]
    assert broken[0] > 1e-3 and broken[2] > 1e-2


def test_rows_of_a_group_need_not_stand_together():
    model, policy = groups.policy("qwen3_vl")
    given = groups.batch(np.random.default_rng(1), policy.processor, groups=3)
    found = grouped(given)
    order = torch.randperm(len(given.ids), generator=torch.Generator().manual_seed(0))
    pixels = [found.pixels[found.group_of[i]] for i in order]
    grids = [found.grids[found.group_of[i]] for i in order]
    mixed = find_groups(
        given.ids[order],
        given.mask[order],
        given.length,
        torch.cat(pixels),
        torch.cat(grids),
        [len(one) for one in grids],
    )
    assert len(mixed.prompts) == 3
    for form in ("branched", "packed"):
        expected, _ = model(groups=found, form=form)
        assert torch.allclose(model(groups=mixed, form=form)[0], expected[order], atol=1e-5)
    pieces = [model(groups=part, form="branched")[0] for part in parts(found, 4)]
    assert torch.allclose(torch.cat(pieces), expected, atol=1e-5)


def test_long_completions_are_packed_in_several_rows():
    model, policy = groups.policy("qwen2_5_vl")
    config, short = (
        model.config.get_text_config(),
        grouped(groups.batch(np.random.default_rng(4), policy.processor, groups=2)),
    )
    assert len(divided(config, short).prompts) == 2
    rows, draw = len(short.group_of), torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 400, (rows,), generator=draw)
    completions, written = (
        torch.randint(0, 250, (rows, 400), generator=draw),
        torch.arange(400) < lengths[:, None],
    )
    long = dataclasses.replace(short, completions=completions, written=written)
    rare = divided(config, long)
    assert len(rare.prompts) > 2
    for i, own in enumerate(rare.group_of.tolist()):
        assert (
            rare.prompts[own] is long.prompts[long.group_of[i]]
            and rare.pixels[own] is long.pixels[long.group_of[i]]
        )
    with torch.inference_mode():
        assert torch.allclose(
            model(groups=long, form="packed")[0], model(groups=long, form="branched")[0], atol=1e-5
        )


def test_the_same_question_about_another_image_is_another_group():
    ids, mask = torch.tensor([[1, 9, 2, 5]] * 3), torch.ones(3, 4, dtype=torch.long)
    pixels, grids = (
        torch.tensor([[0.0]] * 4 + [[0.0]] * 3 + [[1e-7]] + [[0.0]] * 4),
        torch.tensor([[1, 2, 2]] * 3),
    )
    assert find_groups(ids, mask, 1, pixels, grids, [1, 1, 1]).group_of.tolist() == [0, 1, 0]
    assert find_groups(ids, mask, 1).group_of.tolist() == [0, 0, 0]


def test_the_form_is_what_can_be_run():
    model, policy = groups.policy("qwen2_5_vl")
    found = grouped(groups.batch(np.random.default_rng(2), policy.processor, groups=2))
    assert choose(model, found) in ("branched", "packed")
    assert choose(model, found, "packed") == "packed"
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    assert choose(model, found, "packed") == "branched"
    model.gradient_checkpointing_enable()
    assert choose(model, found) is None
    model.config.get_text_config()._attn_implementation = "sdpa"
    assert choose(model, found, "branched") == "packed"
    assert choose(model.eval(), found, "branched") == "branched"


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
    suppress(model, ids)
    for log_probs in (groups.by_trl(model, given)[0], model(groups=grouped(given), form="branched")[0]):
        counts = (given.mask[:, -given.length :] == 1) & ~torch.isin(
            given.ids[:, -given.length :], torch.tensor(ids)
        )
        assert torch.allclose(log_probs[counts], expected[counts], atol=1e-5)
    model.save_pretrained(tmp_path)
    assert "lm_head.bias" not in load_file(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="have a bias of their own"):
        suppress(model, ids)


def test_a_wrapped_head_is_refused():
    from peft import LoraConfig, get_peft_model

    model, _ = groups.policy("qwen2_5_vl")
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj", "lm_head"], r=2)).get_base_model()
    with pytest.raises(InputError, match=r"leave it out of lora\.target_modules and lora\.modules_to_save"):
        shared_prefix.install(wrapped)


def test_processes_take_one_form():
    model, policy = groups.policy("qwen2_5_vl")
    drawn = (
        groups.batch(np.random.default_rng(seed), policy.processor, groups=2, empty=False)
        for seed in range(9)
    )
    given = grouped(next(one for one in drawn if one.length > 1))
    own = []
    for sums, form in (([2.0, 1.0], "packed"), ([1.0, 2.0], "branched")):
        assert (
            choose(model, given, agree=lambda costs, sums=sums: own.append(costs) or torch.tensor(sums))
            == form
        )
    assert torch.isfinite(own[0]).all()
    one = dataclasses.replace(given, completions=given.completions[:, :1], written=given.written[:, :1])
    assert choose(model, one) == "branched"  # a single pass, unlike that of longer completions
    assert choose(model, one, agree=lambda costs: costs) == "packed"


def test_tokens_are_suppressed_where_the_head_lies_in_shards():
    """DeepSpeed's ZeRO-3 leaves an empty weight with its shape beside it."""
    model, policy = groups.policy("qwen2_5_vl")
    rows = len(model.lm_head.weight)
    model.lm_head.weight = torch.nn.Parameter(torch.empty(0))
    model.lm_head.weight.ds_shape = torch.Size([rows, 64])
    suppress(model, policy.suppressed_ids)
    assert (
        model.lm_head.bias.nonzero()[:, 0].tolist() == sorted(policy.suppressed_ids)
        and len(model.lm_head.bias) == rows
    )


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    "settings",
    [
        {
            "temperature": 0.8,
            "top_p": 0.9,
            "top_k": 50,
            "min_p": 0.01,
            "repetition_penalty": 1.2,
            "min_new_tokens": 3,
        },
        {"temperature": 1.3, "top_k": 0},
    ],
)
def test_rollouts_are_what_generate_samples_from_repeated_prompts(family, settings):
    from transformers import GenerationConfig

    model, policy = groups.policy(family)
    tokenizer = policy.processor.tokenizer
    config = GenerationConfig(
        max_new_tokens=8,
        do_sample=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=list(policy.stop_ids),
        **settings,
    )
    for seed in range(2):
        given = groups.batch(np.random.default_rng(seed), policy.processor, groups=3)
        prompts, mask = given.ids[:, : -given.length], given.mask[:, : -given.length]
        torch.manual_seed(seed)
        inputs = {**given.fields(), "mm_token_type_ids": given.kinds[:, : -given.length]}
        expected = model.generate(input_ids=prompts, attention_mask=mask, generation_config=config, **inputs)
        found = grouped(given)
        fields = {
            "pixel_values": torch.cat([one for one in found.pixels if one.numel()]),
            "image_grid_thw": torch.cat(found.grids),
        }
        unasked = rollouts.prompts_as_groups(
            [one.tolist() for one in found.prompts],
            fields,
            found.group_of.tolist(),
            model.config.image_token_id,
            4,
        )
        torch.manual_seed(seed)
        assert torch.equal(rollouts.roll_out(model, unasked, config), expected[:, prompts.shape[1] :])


def test_distinct_prompts():
    assert rollouts.distinct(["a", "a", "b", "a"]) == (["a", "b", "a"], [0, 0, 1, 2])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_an_image_is_prepared_once(family, monkeypatch):
    processor = groups.policy(family)[1].processor
    first, second = groups.pictures(np.random.default_rng(0), 2)
    texts = [groups.IMAGE * count + "yes" for count in (2, 0, 1, 2)]
    shown = [[first, second], [], [second], [first, second]]
    expected = processor(text=texts, images=shown, padding=True, return_tensors="pt")
    inner, seen = processor.image_processor, []
    call = type(inner).__call__

    def counted(self, images, **rest):
        seen.append(len(images))
        return call(self, images, **rest)

    monkeypatch.setattr(type(inner), "__call__", counted)
    with rollouts.each_image_once(processor):
        found = processor(text=texts, images=shown, padding=True, return_tensors="pt")
    assert seen == [1, 1]
    assert processor.image_processor is inner
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
