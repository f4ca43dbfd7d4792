"""What is sampled behind a prompt that is read once is what `generate` samples behind repeated ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomalyr1.shared_prefix import rollouts
from support import groups
from support.groups import grouped


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
    assert rollouts.drop_repeats(["a", "a", "b", "a"]) == (["a", "b", "a"], [0, 0, 1, 2])


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
