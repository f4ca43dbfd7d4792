"""Which completions answer which prompt, and in which form they are read."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from anomalyr1.shared_prefix.groups import choose_form, find_groups, repeat_prompts, split_rows
from support import groups
from support.groups import grouped


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
    pieces = [model(groups=part, form="branched")[0] for part in split_rows(found, 4)]
    assert torch.allclose(torch.cat(pieces), expected, atol=1e-5)


def test_long_completions_are_packed_in_several_rows():
    model, policy = groups.policy("qwen2_5_vl")
    config, short = (
        model.config.get_text_config(),
        grouped(groups.batch(np.random.default_rng(4), policy.processor, groups=2)),
    )
    assert len(repeat_prompts(config, short).prompts) == 2
    rows, draw = len(short.group_of), torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 400, (rows,), generator=draw)
    completions, is_token = (
        torch.randint(0, 250, (rows, 400), generator=draw),
        torch.arange(400) < lengths[:, None],
    )
    long = dataclasses.replace(short, completions=completions, is_token=is_token)
    rare = repeat_prompts(config, long)
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
    assert choose_form(model, found) in ("branched", "packed")
    assert choose_form(model, found, "packed") == "packed"
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    assert choose_form(model, found, "packed") == "branched"
    model.gradient_checkpointing_enable()
    assert choose_form(model, found) is None
    model.config.get_text_config()._attn_implementation = "sdpa"
    assert choose_form(model, found, "branched") == "packed"
    assert choose_form(model.eval(), found, "branched") == "branched"


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
            choose_form(model, given, agree=lambda costs, sums=sums: own.append(costs) or torch.tensor(sums))
            == form
        )
    assert torch.isfinite(own[0]).all()
    one = dataclasses.replace(given, completions=given.completions[:, :1], is_token=given.is_token[:, :1])
    assert choose_form(model, one) == "branched"  # a single pass, unlike that of longer completions
    assert choose_form(model, one, agree=lambda costs: costs) == "packed"


def test_a_piece_keeps_what_is_scored():
    _, policy = groups.policy("qwen2_5_vl")
    found = grouped(groups.batch(np.random.default_rng(6), policy.processor, groups=3, empty=False))
    scored = found.is_token & (torch.rand(found.is_token.shape) < 0.5)
    pieces = list(split_rows(dataclasses.replace(found, scored=scored), 2))
    assert len(pieces) > 1
    assert torch.equal(torch.cat([piece.scored for piece in pieces]), scored)
    assert all(piece.scored is None for piece in split_rows(found, 2))
