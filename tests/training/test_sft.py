"""SFT: the packed loss and its gradients are those of questions asked one by one; only completions are
learned.
"""

from __future__ import annotations

import pytest
import torch

from anomalyr1 import prompts
from anomalyr1.answers.completion import parse
from anomalyr1.data import sources
from anomalyr1.policy.load import load_policy
from anomalyr1.rewards import REWARDS
from anomalyr1.shared_prefix.groups import choose_form
from anomalyr1.shared_prefix.score import install_scoring
from anomalyr1.training import dataset, sft
from anomalyr1.types import InputError
from support import tiny, training_runs


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    recipe = training_runs.recipe("sft")
    whole = training_runs.gathered(
        sources.load_sources(recipe.data, tmp_path_factory.mktemp("drawn"))[:2], recipe
    )
    few = [[task for task in whole.tasks if task.sample.id == sample.id][:3] for sample in whole.samples]
    return dataset.TrainingSet(
        whole.samples, [task for own in few for task in own], whole.pictures, whole.counts
    )


def made(family, lora, checkpointing):
    from peft import LoraConfig, get_peft_model

    policy = load_policy(
        str(tiny.folder_of(family)), max_pixels=12_544 if family == "qwen2_5_vl" else 262_144
    )
    install_scoring(policy.model)
    model = policy.model
    if lora:
        torch.manual_seed(0)
        model = get_peft_model(
            model, LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)
        )
    model.train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return policy, model


def gradients(model):
    found = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
    model.zero_grad()
    return found


def one_by_one(policy, model, lessons):
    """The loss by transformers' own forward, a question at a time, with its images again for each."""
    total, tokens = 0.0, 0
    for index in range(len(lessons)):
        row = lessons[index]
        shown = [
            dataset.resize(dataset.open_image(path).rgb, policy.family, policy.max_pixels)[0]
            for path in row.tasks[0].prompt.images
        ]
        for task, completion in zip(row.tasks, row.completions, strict=True):
            text = policy.processor.apply_chat_template(
                task.prompt.messages, tokenize=False, add_generation_prompt=True
            )
            given = policy.processor(text=[text], images=shown, do_resize=False, return_tensors="pt")
            length = given["input_ids"].shape[1]
            ids = torch.cat([given["input_ids"], torch.tensor([completion])], 1)
            kinds = torch.cat(
                [given["mm_token_type_ids"], torch.zeros(1, len(completion), dtype=torch.long)], 1
            )
            images = {name: given[name] for name in ("pixel_values", "image_grid_thw")}
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=kinds,
                use_cache=False,
                **images,
            ).logits
            total = total + torch.nn.functional.cross_entropy(
                logits[0, length - 1 : -1], torch.tensor(completion), reduction="sum"
            )
            tokens += len(completion)
    return total / tokens, tokens


@pytest.mark.parametrize(
    ("family", "lora", "checkpointing", "form"),
    [
        ("qwen2_5_vl", False, False, "branched"),
        ("qwen2_5_vl", True, True, "packed"),
        ("qwen3_vl", False, True, "packed"),
        ("qwen3_vl", True, False, "branched"),
    ],
)
def test_packed_equals_one_by_one(material, family, lora, checkpointing, form):
    policy, model = made(family, lora, checkpointing)
    lessons = sft.EncodedSamples(material, policy, seed=0)
    batch = sft.PrefixCollator(policy)([lessons[index] for index in range(len(lessons))])
    groups = batch["groups"]
    assert len(groups.prompts) == len(lessons) < len(groups.completions)  # a prefix a sample
    assert form == "packed" or choose_form(policy.model, groups, "branched") == "branched"
    log_probs, _ = model(groups=groups, form=form, entropy=False)
    learned = batch["labels"] != sft.IGNORED
    packed = -log_probs.sum() / learned.sum()
    packed.backward()
    ours = gradients(model)
    whole, tokens = one_by_one(policy, model, lessons)
    whole.backward()
    theirs = gradients(model)
    assert int(learned.sum()) == tokens
    assert float((packed - whole).detach().abs()) < 1e-5
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


def test_a_broken_mask_is_seen(material, monkeypatch):
    from anomalyr1.shared_prefix import score as shared_prefix

    policy, model = made("qwen2_5_vl", False, True)
    lessons = sft.EncodedSamples(material, policy, seed=0)
    groups = sft.PrefixCollator(policy)([lessons[0]])["groups"]
    right, _ = model(groups=groups, form="packed", entropy=False)
    whole = shared_prefix.branch_mask
    monkeypatch.setattr(
        shared_prefix, "branch_mask", lambda segments, dtype: whole(segments.clamp(max=0), dtype)
    )  # branches see each other
    wrong, _ = model(groups=groups, form="packed", entropy=False)
    assert float((right - wrong).abs().max()) > 1e-3


def test_only_completions_are_learned(material):
    policy, _ = made("qwen2_5_vl", False, False)
    lessons = sft.EncodedSamples(material, policy, seed=0)
    row = lessons[0]
    labels = sft.PrefixCollator(policy)([row])["labels"]
    for own, completion, task in zip(labels, row.completions, row.tasks, strict=True):
        assert own[own != sft.IGNORED].tolist() == completion
        text = policy.processor.tokenizer.decode(completion, skip_special_tokens=True)
        frame = material.frame(task.sample, policy.family, policy.max_pixels)
        rewards = ("roam_boxes", "format") if task.question.kind == "grounding" else ("accuracy", "format")
        answer = parse(text, task.question.options, frame)
        assert [REWARDS[name](answer, task.question) for name in rewards] == [1.0, 1.0]


def test_the_users_own_text_is_taken_and_special_tokens_in_it_are_refused(material):
    policy, _ = made("qwen2_5_vl", False, False)
    task = material.tasks[0]

    def taught(text):
        question = task.question.model_copy(update={"completion": text})
        changed = dataset.Task(task.sample, question, prompts.build(task.sample, question))
        return sft.EncodedSamples(
            dataset.TrainingSet(material.samples, [changed], material.pictures, {}), policy, seed=0
        )[0].completions[0]

    own = "<think>I say so.</think><answer>A</answer>"
    assert policy.processor.tokenizer.decode(taught(own)) == own + "<|im_end|>"
    with pytest.raises(InputError, match="writes a special token"):
        taught("<think></think><answer>A</answer><|im_end|>")


def test_prompts_without_a_common_image_stand_alone():
    image = 7
    assert sft.common_prefix([[1, image, 2, 3], [1, image, 2, 4]], image) == {(0, 1): [1, image, 2]}
    assert sft.common_prefix([[1, 3, image, 2], [1, 4, image, 2]], image) == {
        (0,): [1, 3, image, 2],
        (1,): [1, 4, image, 2],
    }
    assert sft.common_prefix([[1, image, 3], [1, image, 4]], image) == {
        (0,): [1, image, 3],
        (1,): [1, image, 4],
    }  # nothing behind the image
