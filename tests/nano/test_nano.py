"""The packed forward pass against Hugging Face's, resumed runs, what is taught, and the shipped policy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import few_shot_tuning
import numpy as np
import pytest
import torch
from PIL import Image

from anomalyr1 import answers, boxes, prompts
from anomalyr1.drawn.defects import LOGICAL
from anomalyr1.drawn.draw import LEGAL, draw
from anomalyr1.drawn.words import SPLITS
from anomalyr1.engines.local import LocalEngine
from anomalyr1.nano import exam, helper_losses, initial_weights, layers, lessons, loop, make, packing
from anomalyr1.nano.helper_losses import SightCode, SightLosses, cell_targets
from anomalyr1.nano.model import NanoShape, load_model, make_model, make_processor, make_tokenizer
from anomalyr1.nano.packing import PrefixRow, QuestionBranch
from anomalyr1.nano.pool import FAMILY, Pool, draw_example, draw_shard
from anomalyr1.nano.recipe import NanoRecipe, add_to_curve
from anomalyr1.nano.square_lessons import cut_squares
from anomalyr1.policy.folders import BUNDLED
from anomalyr1.policy.load import Policy, load_policy
from anomalyr1.training import completions, scoring
from anomalyr1.types import LETTERS, InputError, Sample

SHIPPED = BUNDLED["nano"]
TINY = NanoShape(
    text_width=128, text_layers=2, text_mlp=96, sight_width=48, sight_layers=3, sight_mlp=96, vocabulary=400
)
SEEDS = 9_000_000_000  # met neither in training nor in its examinations


def drawn(count, category=None, with_reference=True):
    return [draw_example(SEEDS + i, category, with_reference, TINY.max_pixels) for i in range(count)]


@pytest.fixture(scope="module")
def tiny():
    """A model with random weights large enough to make every path matter, and its processor."""
    texts = [
        prompts.STYLES["ours"].text,
        prompts.GROUNDING_TEXT,
        "This means: Yes, so the answer is A. 0123456789",
    ] * 5
    tokenizer = make_tokenizer(texts, TINY.vocabulary)
    model = make_model(tokenizer, TINY)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=draw))
    return model.eval(), make_processor(tokenizer, TINY)


def rows_of(writer, examples, reference, rng):
    samples = [one.sample_in_prompt(knowledge=True, reference=reference) for one in examples]
    asked = [lessons.choose_questions(sample, 3, rng) for sample in samples]
    gold = [
        [completions.gold(sample, question, one.look, one.frame, rng) for question in questions]
        for one, sample, questions in zip(examples, samples, asked, strict=True)
    ]
    rows = [
        writer.row(sample, questions, lessons.token_grid(one.frame.model_wh), texts)
        for one, sample, questions, texts in zip(examples, samples, asked, gold, strict=True)
    ]
    return rows, samples, asked


def hf_inputs(processor, sample, question, images, completion=""):
    chat = processor.apply_chat_template(
        prompts.build(sample, question).messages, tokenize=False, add_generation_prompt=True
    )
    return processor(
        text=[chat + completion], images=[Image.fromarray(image) for image in images], return_tensors="pt"
    )


def branch_differences(model, processor, reference, batch_change=None):
    """Largest difference of each branch's logits from those of Hugging Face's forward of the branch alone."""
    writer, rng = lessons.RowWriter(processor), np.random.default_rng(1)
    examples = drawn(3)
    rows, samples, asked = rows_of(writer, examples, reference, rng)
    pictures = [one.images_in_prompt(reference) for one in examples]
    batch = packing.pack(rows, model)
    batch = batch if batch_change is None else batch_change(batch)
    found, at = [], 0
    with torch.inference_mode():
        seen = [packing.encode_images(model.model.visual, [image])[0] for some in pictures for image in some]
        mine = packing.learned_logits(model, packing.hidden_states(model, batch, seen)[0], batch)
        for row, sample, questions, images in zip(rows, samples, asked, pictures, strict=True):
            for branch, question in zip(row.branches, questions, strict=True):
                n = len(branch.completion)
                text = processor.tokenizer.decode(branch.completion)
                theirs = hf_inputs(processor, sample, question, images, text)
                assert theirs["input_ids"][0].tolist() == row.prefix + branch.prompt + branch.completion
                found.append(float((model(**theirs).logits[0, -n - 1 : -1] - mine[at : at + n]).abs().max()))
                at += n
    return found


def test_norm_and_rotary_embedding_have_the_gradients_of_plain_code():
    draw = torch.Generator().manual_seed(3)
    x, weight = (
        torch.randn(shape, generator=draw, dtype=torch.double, requires_grad=True)
        for shape in ((2, 3, 16), (16,))
    )
    angles = torch.randn(2, 3, 4, generator=draw, dtype=torch.double)
    assert torch.allclose(
        layers.rms_norm(x, weight, 1e-6), torch.nn.functional.rms_norm(x, (16,), weight, 1e-6)
    )
    places = layers.rotary(angles, 2, torch.double)
    first, second = x.view(2, 3, 2, 2, 4).unbind(3)
    cos, sin = angles.cos()[:, :, None], angles.sin()[:, :, None]
    plain = torch.stack([first * cos - second * sin, second * cos + first * sin], 3)
    assert torch.allclose(layers.rotate(x, places), plain.reshape(2, 3, 16))
    assert torch.allclose(layers.rotate(x[..., :8], places), plain.reshape(2, 3, 16)[..., :8])  # fewer heads
    assert torch.autograd.gradcheck(lambda x, weight: layers.rms_norm(x, weight, 1e-6), (x, weight))
    assert torch.autograd.gradcheck(lambda x: layers.rotate(x, places), (x,))


@pytest.mark.parametrize("reference", [False, True])
def test_packed_forward_equals_hugging_face(tiny, reference):
    assert max(branch_differences(*tiny, reference)) < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        lambda b: replace(b, mask=torch.ones_like(b.mask).tril()),  # branches see each other
        lambda b: replace(
            b, positions=torch.arange(b.ids.shape[1]).expand_as(b.positions).contiguous()
        ),  # positions go on
    ],
)
def test_packing_without_its_guards_differs(tiny, change):
    assert max(branch_differences(*tiny, False, change)) > 1e-2


def test_an_examination_reads_what_hugging_face_writes(tiny, monkeypatch):
    monkeypatch.setattr(exam, "MAX_NEW_TOKENS", 12)
    model, processor = tiny
    policy = Policy(model, processor, FAMILY, TINY.max_pixels, "tiny", "")
    one = drawn(1)[0]
    sample = one.sample_in_prompt(knowledge=False, reference=True)
    asked = list(prompts.gold_inspection_questions(sample))
    mine = exam.ask(LocalEngine(policy), [exam.ExamQuestion(one, sample, question) for question in asked])
    for question, answer in zip(asked, mine, strict=True):
        inputs = hf_inputs(processor, sample, question, one.images_in_prompt(reference=True))
        whole = model.generate(
            **inputs, max_new_tokens=12, do_sample=False, suppress_tokens=list(policy.suppressed_ids)
        )
        theirs = whole[0, inputs["input_ids"].shape[1] :]
        assert answer.raw == processor.tokenizer.decode(theirs, skip_special_tokens=True)


class Killed(Exception):
    """Stands for a kill between two steps."""


def run_tiny(folder, tokenizer, kill_at=None, average=0.0):
    """Four steps of a tiny text model on fixed rows; `kill_at` ends it before that step."""
    model = make_model(tokenizer, TINY, seed=3)
    calls = []

    def lesson(rng):
        if kill_at is not None and len(calls) == kill_at:
            raise Killed
        calls.append(1)
        rows = [
            PrefixRow(
                rng.integers(20, 200, 9).tolist(),
                (),
                [QuestionBranch(rng.integers(20, 200, 4).tolist(), rng.integers(20, 200, 6).tolist())],
            )
        ]
        batch = packing.pack(rows * 2, model)
        scored = packing.learned_logits(model, packing.hidden_states(model, batch, [])[0], batch)
        return {"total": torch.nn.functional.cross_entropy(scored, batch.targets)}

    plan = loop.StagePlan(
        learning_rate=1e-2, minutes=0, steps=4, warmup=2, save_minutes=0, log_every=1, average=average
    )
    loop.run("text", folder, plan, model.model.language_model, lesson)
    return model.state_dict()


@pytest.mark.parametrize("average", [0.0, 0.6])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny, tmp_path, average):
    tokenizer = tiny[1].tokenizer
    whole = run_tiny(tmp_path / "whole", tokenizer, average=average)
    with pytest.raises(Killed):
        run_tiny(tmp_path / "killed", tokenizer, kill_at=2, average=average)
    halfway = torch.load(tmp_path / "killed" / "text.pt", weights_only=True)
    assert halfway["clock"]["step"] == 2
    resumed = run_tiny(tmp_path / "killed", tokenizer, average=average)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "killed" / "losses.jsonl").read_text().count("\n") == 4
    ends = [
        torch.load(tmp_path / folder / "text.pt", weights_only=True)["master"]["masters"]
        for folder in ("whole", "killed")
    ]
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    assert not any(
        torch.equal(one, early)
        for one, early in zip(ends[0], halfway["master"]["masters"], strict=True)
        if one.ndim > 1
    )


def test_what_is_left_is_the_running_mean():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    master = loop.MasterWeights(
        {"weight": weight}, loop.StagePlan(learning_rate=0.1, minutes=1, average=0.75), torch.bfloat16
    )
    states = [master.masters[0].detach().clone()]
    for _ in range(3):
        weight.grad = torch.ones_like(weight)
        master.step(0.1)
        states.append(master.masters[0].detach().clone())
        assert torch.equal(weight, states[-1].to(torch.bfloat16))
    expected = states[0]
    for state in states[1:]:
        expected = 0.75 * expected + 0.25 * state
    master.publish(mean=True)
    assert torch.equal(weight, expected.to(torch.bfloat16)) and not torch.equal(
        weight, states[-1].to(torch.bfloat16)
    )
    master.publish()
    assert torch.equal(weight, states[-1].to(torch.bfloat16))


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    (tmp_path / "recipe.json").write_text(NanoRecipe().model_dump_json())
    with pytest.raises(InputError, match="--resume"):
        make.train(tmp_path, NanoRecipe())
    with pytest.raises(InputError, match="questions"):
        make.train(tmp_path, NanoRecipe(questions=9), resume=True)


def test_minutes_stretch_every_stage():
    recipe = NanoRecipe().scaled(6)
    assert recipe.both.minutes + max(recipe.text.minutes, recipe.sight.minutes) == pytest.approx(6)


def test_what_is_taught_reads_as_it_was_meant():
    silent = read = 0
    for one in drawn(40, with_reference=False):
        sample, rng = one.sample, np.random.default_rng(0)
        place = boxes.place(sample.boxes[0], one.frame.original_wh) if sample.boxes else None
        for question in (*prompts.gold_inspection_questions(sample), *sample.questions):
            text = completions.reasoning(sample, question, one.look, place, rng)
            answer = answers.parse(
                answers.write(text, question.answer or sample.boxes, one.frame), question.options, one.frame
            )
            assert answer.status == "strict"
            assert answer.says_defect is sample.anomalous, text
            assert answer.choice == question.answer
            assert sample.category in text
            if question.kind == "grounding":
                assert answer.conclusion is None
                assert len(answer.boxes) == len(sample.boxes)
                assert answer.place == place, text
                continue
            assert answer.conclusion in (question.answer, None), text
            silent, read = silent + (answer.conclusion is None), read + 1
    assert silent < 0.15 * read


def test_unknown_truth_is_not_written_about():
    sample = Sample(id="x", image=Path("x.png"), category="gear")
    with pytest.raises(InputError, match="known truth"):
        completions.evidence(sample, "", None, np.random.default_rng(0))


def test_drills_and_tags_point_at_the_right_letters(tiny):
    writer, rng = lessons.RowWriter(tiny[1]), np.random.default_rng(2)
    question = lessons.make_up_question(rng, ["red", "ring", "bolt", "edge", "wide"])
    row = writer.drill(drawn(1, "washer")[0].sample, question, rng)
    assert len(row.branches) == len(question.options)
    for branch, letter in zip(row.branches, question.letters, strict=True):
        counted = [token for token, weight in zip(branch.completion, branch.weights, strict=True) if weight]
        assert [writer.tokenizer.decode([token]).strip() for token in counted] == [letter]
    numbers = writer.option_numbers(
        np.array([[*row.prefix, *row.branches[0].prompt, *row.branches[0].completion]])
    )[0]
    for i, option in enumerate(question.options):
        text = writer.tokenizer.decode(
            [token for token, n in zip(row.prefix, numbers, strict=False) if n == i]
        )
        assert text == f"{LETTERS[i]}. {option}"


def test_shuffled_options_keep_their_answer():
    rng = np.random.default_rng(0)
    for question in drawn(1)[0].sample.questions:
        other = lessons.shuffle_options(question, rng)
        if question.answer is not None:
            assert (
                other.options[LETTERS.index(other.answer)] == question.options[LETTERS.index(question.answer)]
            )


def test_cells_follow_the_boxes():
    one = next(e for e in drawn(20) if e.sample.anomalous and e.sample.defect not in LOGICAL)
    found = cell_targets([one.truth])
    defective = found.kind[0] > 0
    assert bool(defective.any())
    x1, y1, x2, y2 = (float(n) for n in one.truth.boxes_xyxy[0])
    assert found.edges[0][defective].tolist().count([x1, y1, x2, y2]) >= 1
    row, column = (int(n) for n in found.place[int(defective.nonzero()[0])])
    assert x1 < 28 * (column + 1) and y1 < 28 * (row + 1) and x2 > 28 * column and y2 > 28 * row
    code = SightCode(64).tokens([one.truth], found)
    assert code.shape == (1, found.kind.shape[1], 64)
    assert set(SightLosses(64, 32, 12, 12)(code, found)) == {"kind", "category", "quarter", "reach"}


def test_unreliable_reasoning_contradicts_or_is_silent_as_often_as_it_says():
    fates, rng = [], np.random.default_rng(0)
    for one in drawn(60, with_reference=False):
        place = boxes.place(one.sample.boxes[0], one.frame.original_wh) if one.sample.boxes else None
        for question in prompts.gold_inspection_questions(one.sample):
            text = completions.unreliable(one.sample, question, one.look, place, rng)
            answer = answers.parse(
                answers.write(text, question.answer or one.sample.boxes, one.frame),
                question.options,
                one.frame,
            )
            assert answer.status == "strict"
            assert question.answer is None or answer.choice == question.answer  # the answer stays right
            silent = answer.says_defect is None and answer.conclusion is None
            fates.append(
                "silent"
                if silent
                else "agrees"
                if answer.says_defect is one.sample.anomalous
                else "contradicts"
            )
    shares = {fate: fates.count(fate) / len(fates) for fate in set(fates)}
    assert 0.15 < shares["contradicts"] < 0.35
    assert 0.03 < shares["silent"] < 0.2


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    draw_shard(folder, 0, 24, TINY.max_pixels)
    return Pool(folder)


def test_crops_show_what_their_truth_says(pool):
    tower_side = TINY.window // packing.CELL
    found = cut_squares(pool, 60, tower_side, np.random.default_rng(0))
    assert len(found) == 120
    assert {one.image.shape for one in found} == {(TINY.window, TINY.window, 3)}
    assert sum(one.truth.kind > 0 for one in found[::2]) > 40
    for bad, good in zip(found[::2], found[1::2], strict=True):
        assert good.truth.kind == 0 and good.truth.cover.max() == 0
        change = np.abs(bad.image.astype(int) - good.image.astype(int)).max(axis=2)
        inside = np.kron(bad.truth.cover > 0.5, np.ones((14, 14), bool))
        if inside.any():  # the change lies where the cover and the boxes say, flips included
            assert inside.all() or change[inside].mean() > change[~inside].mean()
            rows, columns = np.nonzero(bad.truth.cover > 0.5)
            x, y = 14 * columns[0] + 7, 14 * rows[0] + 7
            assert any(
                x1 - 14 <= x <= x2 + 14 and y1 - 14 <= y <= y2 + 14 for x1, y1, x2, y2 in bad.truth.boxes_xyxy
            )


def test_a_tower_sees_a_square_alone_as_within_its_image(tiny):
    tower, size = tiny[0].model.visual, TINY.window
    one = next(e for e in drawn(30) if min(e.image.shape[:2]) >= 2 * size)
    with torch.inference_mode():
        whole = packing.encode_images(tower, [one.image])[0].view(*lessons.token_grid(one.frame.model_wh), -1)
        alone = packing.encode_images(tower, [np.ascontiguousarray(one.image[size : 2 * size, :size])])[0]
    cells_of_side = size // packing.CELL
    assert torch.allclose(
        whole[cells_of_side : 2 * cells_of_side, :cells_of_side].flatten(0, 1), alone, atol=1e-4
    )


def test_the_start_whitens_patches_and_looks_at_neighbours():
    tokenizer = make_tokenizer(["abc 0123456789"] * 5, 300)
    tower = make_model(tokenizer, TINY).model.visual
    some = packing.patches([drawn(1, "washer")[0].image], TINY.patch)[0]
    initial_weights.whiten(tower, some)
    seen = some @ tower.patch_embed.proj.weight.sum(2).flatten(1).T
    second = (seen.T @ seen / len(seen)).detach()
    assert torch.allclose(second, torch.diag(second.diagonal()), atol=1e-3)  # uncorrelated
    assert 0.5 < float(second.diagonal()[0]) <= 1.001
    initial_weights.look_around(tower)
    q, k, _ = tower.blocks[0].attn.qkv.bias.view(3, -1, TINY.sight_head).detach()
    places = layers.rotary(packing._axial_angles(tower, (2, 2)), 1, torch.float32)
    side = TINY.window // TINY.patch
    turned = [layers.rotate(part[0].expand(len(places.cos), -1), places) for part in (q, k)]
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    order = [axis.view(2, 4, 2, 4).permute(0, 2, 1, 3).flatten() for axis in (rows, columns)]
    looked = (turned[0] @ turned[1].T).argmax(1)
    step = initial_weights.NEIGHBOURS[0]
    inner = [i for i in range(len(looked)) if 2 <= order[0][i] < side - 2 and 2 <= order[1][i] < side - 2]
    assert all((order[0][looked[i]] - order[0][i], order[1][looked[i]] - order[1][i]) == step for i in inner)


def test_heads_tell_rows_and_columns_from_the_start():
    model, writer = new_policy()
    initial_weights.tell_place(model)
    one = drawn(1)[0]
    h, w = lessons.token_grid(one.frame.model_wh)
    row = writer.row(
        one.sample_in_prompt(True, False), [prompts.gold_inspection_questions(one.sample)[0]], (h, w), None
    )
    batch = packing.pack([row], model)
    tokens = 0.6 * torch.randn(h * w, TINY.text_width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        _, inside = packing.hidden_states(model, batch, [tokens])
    opening = row.prefix.index(model.config.vision_start_token_id)
    looks = inside[0].attention[0, :, batch.last_image_at[1], opening].view(-1, h, w)
    assert (looks[0].mean(1).diff() < 0).all() and (
        looks[1].mean(0).diff() < 0
    ).all()  # less, row by row and column by column
    assert float(looks[0].std(1).mean()) < float(looks[0].std(0).mean()) / 2  # hardly by the other axis


def test_equal_words_find_each_other_from_the_start():
    model, writer = new_policy()
    language = model.model.language_model
    ids = torch.tensor([writer.encode("0 7 3 9 4 5 2 8 3")])
    before, after = [], []
    for found in (before, after):
        batch = packing.pack([PrefixRow(ids[0].tolist(), (), [])], model)
        with torch.inference_mode():
            _, inside = packing.hidden_states(model, batch, [])
        looks, same = inside[1].attention[0, 0, -1, :-1], ids[0, :-1] == ids[0, -1]
        found.append(float(looks[same].mean() / looks[~same].mean()))
        initial_weights.tell_place(model)
        initial_weights.match_words(language)
    assert before[0] < 1.5 and after[0] > 3


def test_what_followed_a_word_before_is_written_again_from_the_start():
    model, writer = new_policy(192)
    language = model.model.language_model
    initial_weights.tell_place(model)
    initial_weights.match_words(language)
    digits = [writer.encode(digit)[0] for digit in "0123456789"]

    def continued():
        """In how many of ten orders of digits, ended by one of them, what followed it is the likeliest."""
        found = 0
        for seed in range(10):
            order = [digits[i] for i in np.random.default_rng(seed).permutation(10)]
            batch = packing.pack([PrefixRow([*order, order[2]], (), [])], model)
            with torch.inference_mode():
                states, _ = packing.hidden_states(model, batch, [])
                scores = states[0, -1] @ language.embed_tokens.weight[order].T
            likely = scores.argsort(descending=True).tolist()
            found += next(i for i in likely if i != 2) == 3  # 2 is the word itself: embeddings are tied
        return found

    before = continued()
    initial_weights.copy_words(language)
    assert before <= 3 and continued() >= 8


def pair_of(model, writer, one):
    """A packed prompt with a reference, and image tokens: those inspected are the reference's, shuffled."""
    row = writer.row(
        one.sample_in_prompt(True, True),
        [prompts.gold_inspection_questions(one.sample)[0]],
        lessons.token_grid(one.frame.model_wh),
        None,
    )
    batch = packing.pack([row], model)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(len(batch.last_image_at[1]), TINY.text_width, generator=draw)
    order = torch.randperm(len(tokens), generator=draw)
    return batch, [tokens, tokens[order]], order


def test_cells_find_their_like_in_the_reference_from_the_start():
    model, writer = new_policy(192)
    batch, tokens, order = pair_of(model, writer, drawn(1)[0])
    tokens = [torch.cat([one, one.flip(1)[:, :64]], 1) for one in tokens]  # to the width of 192
    columns = batch.image_at[1].view(2, -1)

    def found():
        """Share of cells that look most at their like in the reference, and of looks that stay inside."""
        with torch.inference_mode():
            _, outputs = packing.hidden_states(model, batch, tokens)
        looks = outputs[initial_weights.COMPARERS[0]].attention[0, 1, columns[1]]
        hit = (looks[:, columns[0]].argmax(1) == order).float().mean()
        return float(hit), float(looks[:, columns[1]].sum(1).mean())

    before = found()[0]
    initial_weights.compare_images(model.model.language_model)
    hit, own = found()
    assert before < 0.5 and hit > 0.9 and own < 0.05


def test_the_comparing_head_is_told_where_to_look():
    model, writer = new_policy()
    one = drawn(1)[0]
    batch, _, _ = pair_of(model, writer, one)
    truths, columns = cell_targets([one.truth]), batch.image_at[1].view(2, -1)
    looks = torch.zeros(1, 2, batch.ids.shape[1], batch.ids.shape[1])
    looks[0, 0, columns[1], columns[0]] = 1
    right = helper_losses.comparing_loss(looks, batch, truths)["compare"]
    wrong = helper_losses.comparing_loss(looks.roll(len(columns[0]) // 2, -1), batch, truths)["compare"]
    assert float(right) < 0.01 and float(wrong) > 4
    row = writer.row(
        one.sample_in_prompt(True, False),
        [prompts.gold_inspection_questions(one.sample)[0]],
        lessons.token_grid(one.frame.model_wh),
        None,
    )
    assert helper_losses.comparing_loss(looks, packing.pack([row], model), truths) == {}


def test_tones_are_read_from_the_images():
    hints = SightLosses(64, 32, 12, 12)
    images = [np.full((56, 84, 3), 255 * helper_losses.TONE_MEAN, np.float32).round().astype(np.uint8)] * 2
    hints.requires_grad_(False).tone.bias.zero_()
    tokens = torch.zeros(2, 6, 64)
    assert float(hints.tones(tokens, images)) < 1e-4
    images = [image.copy() for image in images]
    images[1][14:28, 28:42] = 255  # one quarter of twelve cells
    assert float(hints.tones(tokens, images)) == pytest.approx(
        (0.55 / helper_losses.TONE_SPREAD - 0.5) / 48, rel=0.02
    )


def new_policy(text_width=TINY.text_width):
    texts = [prompts.STYLES["ours"].text, "This means: Yes, so the answer is A. 0123456789"] * 5
    tokenizer = make_tokenizer(texts, TINY.vocabulary)
    shape = TINY.model_copy(update={"text_layers": 6, "text_width": text_width})
    return make_model(tokenizer, shape), lessons.RowWriter(make_processor(tokenizer, shape))


def test_controls_tell_one_who_looks_and_reads_from_one_who_does_not(monkeypatch):
    """Who looks is wrong about another image, and names an object that the knowledge names."""
    known = drawn(8, "washer")
    size = known[0].image.shape
    known = [replace(one, image=np.resize(one.image, size), frame=known[0].frame) for one in known]
    truth = {one.image.tobytes(): one.sample for one in known}
    assert {one.sample.anomalous for one in known} == {True, False}

    def seeing(example, sample, question):
        """Truth of the pixels; names nothing without knowledge."""
        if question.kind == "anomaly detection":
            return "A" if truth[example.image.tobytes()].anomalous else "B"
        return question.answer if sample.knowledge else None

    def blind(example, sample, question):
        return question.answer if question.kind == "anomaly detection" else "A"

    def controls(policy):
        def ask(engine, asked, seed=None):
            letters = [policy(*one) for one in asked]
            return [
                answers.parse(
                    f"<think>Seen.</think><answer>{letter}</answer>" if letter else "", one[2].options
                )
                for letter, one in zip(letters, asked, strict=True)
            ]

        monkeypatch.setattr(exam, "ask", ask)
        return exam.measure_controls(None, known, drawn(2, "bearing"))

    looked, guessed = controls(seeing), controls(blind)
    assert (
        looked["balanced accuracy with another image"] < 1 == guessed["balanced accuracy with another image"]
    )
    assert looked["same text when shuffled"] == 1 > guessed["same text when shuffled"]
    assert (
        looked["unseen object named without knowledge"],
        looked["unseen object named with knowledge"],
    ) == (0, 1)


def test_what_is_read_leniently_is_wrong_in_an_examination(monkeypatch):
    (one, two), gold = drawn(2, "bearing"), {True: "A", False: "B"}
    texts = {True: "<think>Seen.</think><answer>{}</answer>", False: "The answer is ({})."}
    for strict in (True, False):
        said = lambda engine, asked, seed, strict=strict: [  # noqa: E731
            answers.parse(texts[strict].format(gold[bool(sample.anomalous)]), question.options)
            for _, sample, question in asked
        ]
        monkeypatch.setattr(exam, "ask", said)
        found = exam.examine(None, [one, two], extras=0, boxes=False)
        assert found["strict"] == strict
        assert {found[name] for name in ("defect found", "good passed") if name in found} == {float(strict)}


def test_balanced_accuracy_needs_both_kinds():
    assert scoring.summary({"defect found": 0.8, "good passed": 0.6})["balanced accuracy"] == pytest.approx(
        0.7
    )
    assert "balanced accuracy" not in scoring.summary({"defect found": 0.8})


def test_a_point_of_the_curve_stands_once(tmp_path):
    for step, value in ((5, 0.1), (5, 0.2), (9, 0.3)):
        for split in ("seen", "dev"):
            add_to_curve(tmp_path, loop.Clock(step, 60.0 * step), {"split": split, "value": value})
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [(one["step"], one["split"], one["value"]) for one in lines] == [
        (5, "seen", 0.2), (5, "dev", 0.2), (9, "seen", 0.3), (9, "dev", 0.3),
    ]  # fmt: skip


def test_a_resumed_run_may_be_longer_but_not_another(tmp_path):
    note = tmp_path / "recipe.json"
    begun = NanoRecipe()
    note.write_text(begun.model_dump_json())
    make._require_same_recipe(note, begun.scaled(200))
    for stage, change in (
        ("both", {"average": 0.5}),
        ("text", {"learning_rate": 1e-3}),
        ("raw", {"seed": 9}),
    ):
        other = begun.model_copy(update={stage: getattr(begun, stage).model_copy(update=change)})
        with pytest.raises(InputError, match=f"other values of {stage}.{next(iter(change))};"):
            make._require_same_recipe(note, other)
    with pytest.raises(InputError, match=r"other values of reference_share, shape\.text_layers;"):
        changed = {"shape": begun.shape.model_copy(update={"text_layers": 4}), "reference_share": 0.1}
        make._require_same_recipe(note, begun.model_copy(update=changed))


def test_a_process_that_draws_and_fails_stops_the_run(tmp_path, monkeypatch):
    """Its shards would be missing, whatever the other one draws."""
    broken = NanoRecipe(images=8, shard=4, first_images=8, shape=TINY.model_copy(update={"max_pixels": -1}))
    with pytest.raises(RuntimeError, match="a process that draws has failed"):
        make._start_drawing(tmp_path, broken)


def test_raw_needs_a_finished_run_and_its_recipe(tmp_path, capsys):
    for more, message in (
        ([], "holds no finished policy for --raw"),
        (["--minutes", "5"], "takes neither --minutes nor --recipe"),
    ):
        with pytest.raises(SystemExit):
            make.main(["--out", str(tmp_path), "--raw", *more])
        assert message in capsys.readouterr().err


def test_few_images_move_the_policy(tiny):
    examples = [replace(e, sample=e.sample.model_copy(update={"boxes": None})) for e in drawn(8, "washer")]
    size = examples[0].image.shape
    examples = [replace(e, image=np.resize(e.image, size), frame=examples[0].frame) for e in examples]

    def tuned(steps):
        model = make_model(tiny[1].tokenizer, TINY, seed=5)
        writer = lessons.RowWriter(tiny[1])
        few_shot_tuning.tune(model, writer, examples, steps=steps, learning_rate=1e-2, batch=2)
        return model.state_dict()

    one, again, four = tuned(1), tuned(1), tuned(4)
    assert one["lm_head.weight"].dtype == torch.float32
    for name in ("lm_head.weight", "model.visual.blocks.0.attn.qkv.weight"):
        assert torch.equal(one[name], again[name]) and not torch.equal(one[name], four[name])


@pytest.mark.parametrize("folder", BUNDLED.values(), ids=list(BUNDLED))
def test_the_shipped_folders_are_small_and_plain(folder):
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    } <= names
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 25e6
    assert not any(path.suffix in (".bin", ".pt", ".pkl", ".py") for path in folder.iterdir())
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("Apache-2.0", "drawn", "reasoning agrees"))


def test_the_raw_policy_sees_what_the_other_sees():
    ours, raw = (load_model(folder)[0].model.visual.state_dict() for folder in BUNDLED.values())
    assert all(torch.equal(ours[name], raw[name]) for name in ours)


def test_the_shipped_policy_answers_in_plain_transformers():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(SHIPPED)
    model = AutoModelForImageTextToText.from_pretrained(SHIPPED, dtype=torch.float32)
    assert (type(processor).__name__, model.config.model_type) == ("Qwen2_5_VLProcessor", "qwen2_5_vl")
    image = Image.fromarray(draw(SEEDS).image)
    sample = Sample(id="x", image=Path("x.png"))
    messages = prompts.build(sample, prompts.inspection_questions("x")[0]).messages
    messages[-1]["content"] = [
        part | ({"image": image} if part["type"] == "image" else {}) for part in messages[-1]["content"]
    ]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**inputs, max_new_tokens=128)[0, inputs["input_ids"].shape[1] :]
    assert (
        answers.parse(processor.decode(ids, skip_special_tokens=True), prompts.VERDICT_OPTIONS).status
        == "strict"
    )


def test_the_shipped_policy_sees():
    # what it sees best: the bounds are generous, the examination is elsewhere
    kinds = ("stain", "contamination", "discoloration")
    examples = []
    for i in range(24):
        category = SPLITS["seen"][i % 12]
        legal = [kind for kind in kinds if kind in LEGAL[category]]
        examples.append(
            draw_example(
                SEEDS + 100 + i, category, False, TINY.max_pixels, legal[i % len(legal)] if i % 2 else None
            )
        )
    figures = exam.examine(LocalEngine(load_policy(str(SHIPPED))), examples, extras=0)
    assert figures["strict"] >= 0.95
    assert figures["balanced accuracy"] >= 0.6
