"""Completions from one prefill equal those of one prompt at a time, and so do the options' probabilities."""

import functools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalyr1.engines.engine import Sampling
from anomalyr1.engines.local import LocalEngine
from anomalyr1.images.door import LoadedImage
from anomalyr1.policy.load import load_policy
from anomalyr1.prompts import Prompt
from anomalyr1.shared_prefix import decode
from anomalyr1.types import Question, SetupError
from support import reference, tiny

torch.set_num_threads(1)

WORDS = ("defect", "scratch", "where", "part", "Is there any", "good", "yes or no", "option A", "box")


@functools.cache
def policy_of(family):
    return load_policy(str(tiny.folder_of(family)), device="cpu")


def drawn(number):
    rng = np.random.default_rng(number)
    size_wh = tuple(int(side) for side in rng.integers(40, 320, 2))
    pixels = rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)
    return LoadedImage(Path(f"{number}.png"), Image.fromarray(pixels).resize(size_wh), "PNG", "RGB", 1, None)


IMAGES = {image.path: image for image in map(drawn, range(12))}


def ask(paths, text, options=()):
    parts = [
        part for path in paths for part in ({"type": "text", "text": f"{path.stem}: "}, {"type": "image"})
    ]
    parts.append({"type": "text", "text": text})
    question = Question(id=f"{paths}{text}", kind="anomaly detection", text=text, options=options)
    return Prompt("s", question, [{"role": "user", "content": parts}], tuple(paths))


def jobs_of(seed, count):
    """Ragged prompts: none to three images, one to six questions behind each, some of them more than once."""
    rng = random.Random(seed)
    asked = []
    while len(asked) < count:
        paths = rng.sample(sorted(IMAGES), rng.choice((0, 1, 1, 1, 2, 3)))
        for _ in range(rng.randint(1, 6)):
            text = " ".join(rng.choices(WORDS, k=rng.randint(1, 30)))
            asked += [ask(paths, text)] * rng.choice((1, 1, 1, 4))
    rng.shuffle(asked)
    return asked[:count]


def ids_written(monkeypatch, engine, prompts, sampling):
    """The ids of all completions, whole."""
    rows = {}
    plain = engine._completion
    monkeypatch.setattr(
        engine, "_completion", lambda job, row, *rest: rows.update({job.index: row}) or plain(job, row, *rest)
    )
    engine.complete(prompts, IMAGES, sampling)
    return [rows[index] for index in range(len(prompts))]


STOPPING = {"qwen2_5_vl": 2.6, "qwen3_vl": 2.2}
"""Factors on the stop token's row of the tiny models' random heads with which some of their completions end
early."""


def stopping(family, tmp_path):
    """A policy whose stop token is about as likely as the others: completions end at different lengths."""
    policy = load_policy(str(tiny.build(tmp_path / family, family, seed=5)), device="cpu")
    head = policy.model.lm_head.weight.data
    with torch.no_grad():
        head[policy.stop_ids[0]] *= STOPPING[family]
    return policy


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_200_ragged_jobs_equal_generate_on_one_prompt_at_a_time(family, monkeypatch, tmp_path):
    policy = stopping(family, tmp_path)
    asked = jobs_of(1, 200)
    written = ids_written(
        monkeypatch, LocalEngine(policy, batch_tokens=3000), asked, Sampling(max_new_tokens=8)
    )
    alone = functools.cache(lambda place: reference.generated(policy, asked[place], IMAGES, 8))
    first = {prompt.question.id: place for place, prompt in reversed(list(enumerate(asked)))}
    assert written == [alone(first[prompt.question.id]) for prompt in asked]
    assert len({len(row) for row in written}) > 4  # rows ended at many lengths
    assert len(set(map(tuple, written))) > 60


@pytest.mark.parametrize("break_it", ["positions", "mask"])
def test_the_comparison_sees_a_wrong_position_and_a_wrong_mask(break_it, monkeypatch):
    """The control: branches that start one place late, or that see each other, write something else."""
    policy = policy_of("qwen2_5_vl")
    asked = jobs_of(2, 30)
    right = ids_written(monkeypatch, LocalEngine(policy), asked, Sampling(max_new_tokens=8))
    if break_it == "positions":
        plain = decode._prefill
        monkeypatch.setattr(decode, "_prefill", lambda *given: [start + 1 for start in plain(*given)])
    else:
        plain_mask = decode._RowCache.mask
        monkeypatch.setattr(
            decode._RowCache,
            "mask",
            lambda self, owners, *questions: plain_mask(self, owners.clamp(max=1), *questions),
        )
    assert ids_written(monkeypatch, LocalEngine(policy), asked, Sampling(max_new_tokens=8)) != right


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_image_is_encoded_once(family, monkeypatch):
    policy = policy_of(family)
    plain, patches = policy.model.model.get_image_features, []
    monkeypatch.setattr(
        policy.model.model,
        "get_image_features",
        lambda p, g, **more: patches.append(len(p)) or plain(p, g, **more),
    )
    one, two = sorted(IMAGES)[:2]
    asked = [
        ask(paths, text) for paths in ((one,), (one, two), (two, one)) for text in ("a b", "c", "c d e")
    ] * 2
    engine = LocalEngine(policy)
    engine.complete(asked, IMAGES, Sampling(max_new_tokens=3))
    assert sum(patches) == sum(
        len(patches) for patches, _, _ in engine._pixels([IMAGES[path] for path in (one, two)])
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_finished_completions_are_not_computed_further(family, monkeypatch, tmp_path):
    policy = stopping(family, tmp_path)
    fed = []
    plain = decode._forward
    monkeypatch.setattr(
        decode,
        "_forward",
        lambda m, c, ids, p, mask: fed.append(ids.numel()) or plain(m, c, ids, p, mask),
    )
    paths = sorted(IMAGES)[:4]
    written = ids_written(
        monkeypatch,
        LocalEngine(policy),
        [ask((path,), "good part") for path in paths],
        Sampling(max_new_tokens=30),
    )
    lengths = [len(row) for row in written]
    assert len(set(lengths)) > 1
    steps = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    # One column a row; a row that ended is dropped at the latest when a quarter of the rows have ended.
    assert all(width <= max(1, live) * 4 / 3 + 1e-9 for width, live in zip(fed[1:], steps, strict=True))


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def spelling(request, tmp_path_factory):
    """A policy that likes to write the letters A to D."""
    folder = tiny.build(tmp_path_factory.mktemp("letters") / request.param, request.param, seed=3)
    policy = load_policy(str(folder), device="cpu")
    ids = policy.processor.tokenizer.convert_tokens_to_ids(list("ABCD"))
    with torch.no_grad():
        policy.model.lm_head.weight[ids] *= 6
    return policy


def test_option_probabilities_equal_a_forward_on_one_prompt_at_a_time(spelling, monkeypatch):
    rng = random.Random(4)
    asked = [
        ask(
            rng.sample(sorted(IMAGES), rng.choice((1, 1, 2))),
            " ".join(rng.choices(WORDS, k=rng.randint(1, 20))),
            ("x", "y", "z", "w"),
        )
        for _ in range(40)
    ]
    engine, ids = (
        LocalEngine(spelling, batch_tokens=3000),
        spelling.processor.tokenizer.convert_tokens_to_ids(list("ABCD")),
    )
    written = ids_written(monkeypatch, engine, asked, Sampling(max_new_tokens=1))
    scored = [
        completion.option_scores for completion in engine.complete(asked, IMAGES, Sampling(max_new_tokens=1))
    ]
    assert sum(one is not None for one in scored) >= 10
    for prompt, row, scores in zip(asked, written, scored, strict=True):
        assert (scores is not None) == (row[0] in ids)
        if scores:
            exact = reference.next_logits(spelling, prompt, IMAGES, [])[ids].double().softmax(0)
            assert torch.allclose(torch.tensor(list(scores.values()), dtype=torch.float64), exact, atol=1e-5)
            assert max(scores, key=scores.get) == "ABCD"[ids.index(row[0])]


@pytest.mark.parametrize("opening", ["", "<think></think><answer>"])
def test_fast_scores_equal_a_forward_on_one_prompt_at_a_time(spelling, opening):
    asked = [ask((path,), "good or not", ("x", "y", "z")) for path in IMAGES]
    asked = [Prompt(p.sample_id, p.question, p.messages, p.images, {}, opening) for p in asked]
    completions = LocalEngine(spelling).complete(asked, IMAGES, Sampling(fast=True))
    encode = functools.partial(spelling.processor.tokenizer, add_special_tokens=False)
    for prompt, completion in zip(asked, completions, strict=True):
        context = encode(opening)["input_ids"] if opening else []
        ids = [encode(letter)["input_ids"][-1] for letter in "ABC"]
        exact = reference.next_logits(spelling, prompt, IMAGES, context)[ids].double().softmax(0)
        assert torch.allclose(
            torch.tensor(list(completion.option_scores.values()), dtype=torch.float64), exact, atol=1e-5
        )
        best = max(completion.option_scores, key=completion.option_scores.get)
        assert completion.text == (f"<think></think><answer>{best}</answer>" if opening else best)
    assert (
        len({round(max(completion.option_scores.values()), 3) for completion in completions}) > 1
    )  # they follow the picture


def test_models_that_cannot_share_are_refused(monkeypatch):
    policy = policy_of("qwen2_5_vl")
    config = policy.model.config.get_text_config()
    monkeypatch.setattr(config, "layer_types", ["full_attention", "sliding_attention"])
    with pytest.raises(SetupError, match="sliding windows"):
        LocalEngine(policy)
    monkeypatch.undo()
    monkeypatch.setattr(policy.model.model, "forward", lambda input_ids: None)
    with pytest.raises(SetupError, match="pip install"):
        LocalEngine(policy)
