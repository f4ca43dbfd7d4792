"""The trainer against TRL's: whole runs, steps without signal, groups in microbatches, advantages with
rewards that do not apply.
"""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch

from anomalyr1.training import checkpoints, group_order, grpo
from anomalyr1.training.grpo import SharedPrefixGRPOTrainer
from anomalyr1.training.zero_variance import length_figures
from support.grpo_runs import SIZE, checksum, rows, trainer, weights


@pytest.mark.parametrize(
    ("family", "lora", "settings"),
    [
        ("qwen2_5_vl", False, {"beta": 0.04, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1}),
        ("qwen3_vl", True, {"gradient_checkpointing": True, "num_iterations": 2, "loss_type": "grpo"}),
    ],
)
def test_a_run_lands_where_trl_lands(tmp_path, family, lora, settings):
    from trl import GRPOTrainer

    theirs = trainer(GRPOTrainer, tmp_path, family, lora=lora, **settings)
    theirs.train()
    ours = trainer(
        SharedPrefixGRPOTrainer, tmp_path, family, lora=lora, own={"suppressed_ids": ()}, **settings
    )
    start = weights(ours)
    ours.train()
    assert ours.forms["trl"] == 0
    assert ours.forms["packed"] > 0 or not settings.get("gradient_checkpointing")
    assert [one.get("reward") for one in ours.state.log_history] == [
        one.get("reward") for one in theirs.state.log_history
    ]
    assert float((weights(ours) - weights(theirs)).abs().max()) < 1e-5
    assert float((weights(ours) - start).abs().max()) > 1e-4  # and that is not where it began


LOSSES = {
    "dapo": {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "num_iterations": 1},
    "grpo": {"scale_rewards": "none", "mask_truncated_completions": True},
    "bnpo": {"scale_rewards": "batch", "gradient_accumulation_steps": 2},
    "dr_grpo": {"beta": 0.04},
    "luspo": {"importance_sampling_level": "sequence"},
    "sapo": {"importance_sampling_level": "sequence"},
    "cispo": {"epsilon_high": 5.0},
    "vespo": {},
}
"""What else is set with each loss."""


def test_all_losses_of_trl_are_compared():
    from trl import GRPOConfig

    told = (
        GRPOConfig.__dataclass_fields__["loss_type"]
        .metadata["help"]
        .partition("Supported values are ")[2]
        .partition(".")[0]
    )
    assert set(re.findall(r"'(\w+)'", told)) == set(LOSSES)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_moves_weights_as_trls_does(tmp_path, loss, monkeypatch):
    """Two steps on the same rollouts, of which some end and some are cut off."""
    from trl import GRPOTrainer

    def whole_groups(batch):  # TRL shuffles completions, we groups: let the microbatches be the same
        order = group_order.shuffle_groups(len(batch["prompt_ids"]), SIZE)
        return {name: group_order.reorder(value, order) for name, value in batch.items()}

    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", whole_groups)
    settings = {
        "max_steps": 2, "num_iterations": 2, "gradient_accumulation_steps": 1, "loss_type": loss, "optim": "sgd", "learning_rate": 0.05,
        "weight_decay": 0.0, "max_grad_norm": 0.0, **LOSSES[loss],
    }  # fmt: skip
    made = {}
    for kind, own in ((GRPOTrainer, None), (SharedPrefixGRPOTrainer, {"suppressed_ids": ()})):
        one = made[kind] = trainer(kind, tmp_path, own=own, **settings)
        one.eos_token_ids = one.generation_config.eos_token_id = list(range(60))
        start = weights(one)
        one.train()
    ours, theirs = made[SharedPrefixGRPOTrainer], made[GRPOTrainer]
    assert ours.forms["trl"] == 0
    assert 0 < ours.state.log_history[0]["completions/clipped_ratio"] < 1
    assert ours.state.log_history[0]["loss"] == pytest.approx(theirs.state.log_history[0]["loss"], abs=1e-5)
    moved = weights(theirs) - start
    assert float((weights(ours) - weights(theirs)).norm()) < 1e-4 * float(moved.norm())  # and that is not 0


def test_rollouts_of_vllm_give_the_same_step(tmp_path, monkeypatch):
    """vLLM itself was never run: a stand-in for TRL's `VLLMGeneration` returns completions that transformers
    wrote.
    """
    settings = {"mixed": True, "max_steps": 1, "gradient_accumulation_steps": 1}
    plain = trainer(SharedPrefixGRPOTrainer, tmp_path, **settings)
    drawn, sampled, asked = [], {}, []
    write, read = plain._generate_single_turn, plain._get_per_token_logps_and_entropies

    def written(prompt_ids, *rest):
        drawn.append((prompt_ids, write(prompt_ids, *rest)[0]))
        return drawn[-1][1], None

    def scored(model, ids, mask, keep, *rest, **fields):
        found = read(model, ids, mask, keep, *rest, **fields)
        for row, real, log_probs in zip(ids, mask.bool(), found[0].detach(), strict=True):
            sampled[tuple(row[real].tolist())] = log_probs[real[-keep:]].tolist()
        return found

    plain._generate_single_turn, plain._get_per_token_logps_and_entropies = written, scored
    plain.train()

    class StandIn:
        def __init__(self, **_):
            self.synced = 0

        def sync_weights(self):
            self.synced += 1

        def generate(self, prompts, images, num_generations, profiler=None):
            asked.append((prompts, images, num_generations))
            completions = drawn[0][1]
            log_probs = [
                [[one] for one in sampled[tuple(prompt + own)]]
                for prompt, own in zip(prompts, completions, strict=True)
            ]
            return prompts, completions, log_probs, None

    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", StandIn)
    other = trainer(SharedPrefixGRPOTrainer, tmp_path, use_vllm=True, vllm_mode="colocate", **settings)
    start = weights(other)
    other.train()
    ((prompts, images, size),) = asked
    assert (prompts, size, other.vllm_generation.synced) == (drawn[0][0], SIZE, 1)
    shown = other.processing_class.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert [one is None for one in images] == [
        shown not in prompt for prompt in prompts
    ]  # it takes no empty list
    assert (
        other.forms["trl"] == 0 and other.forms["branched"] + other.forms["packed"] == 2
    )  # for the ratio, and with gradients
    ratio = [
        value
        for name, value in other.state.log_history[0].items()
        if name.startswith("sampling/importance_sampling_ratio")
    ]
    assert ratio and ratio == pytest.approx([1.0] * len(ratio), abs=1e-4)
    assert other.state.log_history[0]["loss"] == pytest.approx(plain.state.log_history[0]["loss"], abs=1e-6)
    assert float((weights(other) - weights(plain)).norm()) < 1e-3 * float((weights(plain) - start).norm())


def test_rollouts_in_mixed_precision(tmp_path):
    """Weights in float32 and `bf16: true`: every product is in bfloat16, those of the prompt's reading too,
    as in TRL's rollouts.
    """
    made = trainer(SharedPrefixGRPOTrainer, tmp_path, bf16=True, max_steps=1)
    start, kinds = weights(made), set()
    layer = made.model.model.language_model.layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda module, given, found: kinds.add(found.dtype))
    made.train()
    assert kinds == {torch.bfloat16} and weights(made).dtype == torch.float32
    assert made.forms["trl"] == 0 and not torch.equal(weights(made), start)


def test_prompts_with_and_without_images(tmp_path):
    made = trainer(SharedPrefixGRPOTrainer, tmp_path, mixed=True, max_steps=2)
    made.train()
    assert made.forms["trl"] == 0


@pytest.mark.parametrize(
    "reward",
    [
        lambda completion_ids, **_: [0.5] * len(completion_ids),
        lambda completion_ids, **_: [None] * len(completion_ids),
    ],
)
def test_steps_without_signal_do_not_move_weights(tmp_path, reward):
    def first_only(**fields):
        calls.append(1)
        return checksum(**fields) if len(calls) == 1 else reward(**fields)

    ends = {}
    for name, steps in (("one", 1), ("three", 3), ("unguarded", 3)):
        calls: list[int] = []
        made = trainer(SharedPrefixGRPOTrainer, tmp_path, reward=first_only, max_steps=steps)
        if name == "unguarded":
            made.remove_callback(grpo._KeepWeightsWithoutSignal)
        made.train()
        ends[name] = weights(made)
    assert torch.equal(ends["one"], ends["three"])
    assert not torch.equal(ends["one"], ends["unguarded"])  # momentum and weight decay


def test_steps_whose_completions_are_all_cut_off_do_not_move_weights(tmp_path):
    made = trainer(
        SharedPrefixGRPOTrainer,
        tmp_path,
        max_steps=2,
        mask_truncated_completions=True,
        own={"suppressed_ids": range(320, 337)},
    )
    start = weights(made)
    made.train()
    assert all(
        one["completions/clipped_ratio"] == 1 and one["reward_std"] > 0 for one in made.state.log_history[:2]
    )
    assert torch.equal(weights(made), start)


def test_another_model_takes_trls_path(tmp_path, caplog):
    made = trainer(SharedPrefixGRPOTrainer, tmp_path, max_steps=1)
    made._shares = False
    made.train()
    assert set(made.forms) == {"trl"}
    assert [
        record.message.count("TRL's own path is used")
        for record in caplog.records
        if record.name == grpo.__name__
    ] == [1]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_microbatch_that_shares_nothing(tmp_path, sharded):
    """Where weights lie in shards no process takes TRL's path alone."""
    made = trainer(
        SharedPrefixGRPOTrainer,
        tmp_path,
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=SIZE,
    )
    if sharded:
        made._agree = lambda costs: costs
    made.train()
    assert (made.forms["trl"] == 0) == sharded


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    """Stopped in its second epoch, with dropout, momentum and two generation batches an epoch."""
    settings = {
        "max_steps": 5,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 3,
        "lora": True,
    }
    whole = trainer(SharedPrefixGRPOTrainer, tmp_path / "whole", **settings)
    whole.train()
    last, notes = checkpoints.newest(tmp_path / "whole")
    assert (last.name, notes) == ("checkpoint-5", [])
    assert not (tmp_path / "whole" / "checkpoint-2").exists()
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    (tmp_path / "again" / "checkpoint-5" / checkpoints.MARKER).unlink()  # killed while it saved
    damaged = tmp_path / "again" / "checkpoint-4" / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    found, notes = checkpoints.newest(tmp_path / "again")
    assert found.name == "checkpoint-3" and len(notes) == 2
    again = trainer(SharedPrefixGRPOTrainer, tmp_path / "again", **settings)
    again.train(resume_from_checkpoint=str(found))
    assert torch.equal(weights(again), weights(whole))
    assert checkpoints.fault(tmp_path / "again" / "checkpoint-5") is None


def test_checkpoints_only_where_a_generation_batch_ends(tmp_path, caplog):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "num_iterations": 2}
    trainer(SharedPrefixGRPOTrainer, tmp_path, **settings).train()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("checkpoint")] == [
        "checkpoint-2"
    ]
    assert "no checkpoint at step 1" in caplog.text


def test_the_order_of_an_epoch_is_that_of_an_uninterrupted_run():
    from trl.trainer.utils import RepeatSampler

    theirs = RepeatSampler(range(7), 2, batch_size=3, repeat_count=2, seed=5)
    orders = [list(theirs) for _ in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    for epoch, order in ((0.0, orders[0]), (2.0, orders[2]), (1.5, orders[1]), (1.9999999, orders[2])):
        fresh = RepeatSampler(range(7), 2, batch_size=3, repeat_count=2, seed=5)
        assert list(group_order.ResumableSampler(fresh, lambda epoch=epoch: epoch)) == order


def test_groups_stay_whole_when_shuffled():
    order = group_order.shuffle_groups(24, SIZE)
    assert sorted(order.tolist()) == list(range(24))
    blocks = (order.view(-1, SIZE) // SIZE).tolist()
    assert all(len(set(block)) == 1 for block in blocks)
    assert len({tuple(group_order.shuffle_groups(24, SIZE).tolist()) for _ in range(9)}) > 1
    torch.manual_seed(0)
    torch.randperm(24)
    after = torch.rand(1)
    torch.manual_seed(0)
    group_order.shuffle_groups(24, SIZE)
    assert torch.equal(torch.rand(1), after)  # draws what TRL draws


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_no_number_stops_the_run_by_name(tmp_path, bad):
    from anomalyr1.training.reward_functions import CompletionReader, TrainingQuestion, reward_functions
    from anomalyr1.types import InputError, Question

    asked = [
        TrainingQuestion(f"part-{i}", Question(id=f"q{i}", kind="grounding", text="?"), None)
        for i in range(8)
    ]
    (function,) = reward_functions(
        {"mine": lambda answer, question: bad if question.id == "q3" else 0.5}, CompletionReader(asked)
    )
    made = trainer(
        SharedPrefixGRPOTrainer,
        tmp_path,
        reward=lambda completions, **_: function(completions, list(range(8)) * 2),
    )
    with pytest.raises(InputError, match="reward 'mine' of sample 'part-3' is "):
        made.train()


@pytest.mark.parametrize("way", ["keep", "skip"])
def test_groups_without_signal(tmp_path, way):
    """Every second group earns the same; its KL term counts only where the group is kept."""
    seen = []

    def half(completion_ids, **_):
        return [0.1 if i // SIZE % 2 else sum(ids) % 7 / 7 for i, ids in enumerate(completion_ids)]

    made = trainer(
        SharedPrefixGRPOTrainer, tmp_path, reward=half, beta=0.04, max_steps=1,
        own={"zero_variance": way, "on_group": seen.append, "suppressed_ids": ()},
    )  # fmt: skip
    made.model.train()
    scored = made._generate_and_score_completions(
        [{**rows()[i], "row": i} for i in range(4) for _ in range(SIZE)]
    )
    flat = [all(one == 0 for one in group.advantages) for group in seen]
    assert flat == [False, True, False, True] and [group.row for group in seen] == [0, 1, 2, 3]
    lengths = scored["completion_mask"].sum(1).view(-1, SIZE).sum(1)
    assert [bool(one) for one in lengths] == [True, way == "keep"] * 2
    assert int(scored["num_items_in_batch"]) == int(scored["completion_mask"].sum())


def test_resampled_groups_are_drawn_once_more(tmp_path):
    calls, seen = [], []

    def first_flat(completion_ids, **_):
        calls.append(len(completion_ids))
        return (
            [0.5] * len(completion_ids) if len(calls) == 1 else [sum(ids) % 7 / 7 for ids in completion_ids]
        )

    made = trainer(
        SharedPrefixGRPOTrainer,
        tmp_path,
        reward=first_flat,
        own={"zero_variance": "resample", "on_group": seen.append},
    )
    made.model.train()
    drawn = []
    once = made._generate_single_turn
    made._generate_single_turn = lambda *given: drawn.append(once(*given)) or drawn[-1]
    scored = made._generate_and_score_completions(
        [{**rows()[i], "row": i} for i in (0, 1) for _ in range(SIZE)]
    )
    assert calls == [2 * SIZE, 2 * SIZE] and len(drawn) == 2
    ids = [
        row[keep].tolist()
        for row, keep in zip(scored["completion_ids"], scored["completion_mask"].bool(), strict=True)
    ]
    assert ids == drawn[1][0] != drawn[0][0]
    assert made._metrics["train"]["signal/resampled"] == [1.0]
    lengths = [len(own) for own in ids]
    for name, value in (("mean", sum(lengths) / len(lengths)), ("min", min(lengths)), ("max", max(lengths))):
        assert made._metrics["train"][f"completions/{name}_length"] == [value]  # of the draw that counts
    ended = [own[-1] in (*made.eos_token_ids, made._tokenizer.pad_token_id) for own in ids]
    assert made._metrics["train"]["completions/clipped_ratio"] == [pytest.approx(1 - sum(ended) / len(ended))]
    assert made._metrics["train"].keys() >= set(length_figures([[1]], ()))
    assert any(any(group.advantages) for group in seen)


def test_advantages_of_groups_with_rewards_that_do_not_apply(tmp_path, monkeypatch):
    from trl import GRPOTrainer

    count = 5000
    n = count * SIZE
    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.where(rng.random((n, 2)) < 0.3, np.nan, rng.random((n, 2)))).float()
    values.view(count, SIZE, 2)[::50] = torch.nan  # groups to which no reward applies
    made = trainer(SharedPrefixGRPOTrainer, tmp_path, reward=[checksum, checksum])
    monkeypatch.setattr(
        made, "_generate", lambda prompts: ([[1]] * n, [[2]] * n, None, [""] * n, None, {}, None, [None] * n)
    )
    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", lambda *_: values)  # below what ours adds
    asked = [{"prompt": [{"role": "user", "content": "?"}]}] * n
    found = made._generate_and_score_completions(asked)["advantages"].view(count, SIZE)
    assert torch.isfinite(found).all()
    unscored = values.isnan().all(1).view(count, SIZE)
    assert unscored.all(1).sum() >= count // 50 and (found[unscored] == 0).all()
    whole = ~unscored.any(1)
    total = values.nansum(1).view(count, SIZE)[whole]
    expected = (total - total.mean(1, keepdim=True)) / (total.std(1, keepdim=True) + 1e-4)
    assert torch.allclose(found[whole], expected, atol=1e-4)
    partly = unscored.any(1) & ~unscored.all(1)
    for group in partly.nonzero()[:, 0].tolist():  # those without a reward do not count in the others' mean
        own = values.nansum(1).view(count, SIZE)[group][~unscored[group]]
        if len(own) > 1:
            assert torch.allclose(
                found[group][~unscored[group]], (own - own.mean()) / (own.std() + 1e-4), atol=1e-4
            )
