"""Adapters merged, and checkpoints of whole weights, in plain transformers."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from anomalyr1.cli.main import app
from anomalyr1.policy.load import load_policy
from anomalyr1.policy.taught import Taught, read_taught
from anomalyr1.training import checkpoints
from anomalyr1.training.grpo import SharedPrefixGRPOTrainer
from anomalyr1.training.merge import merge_adapter
from anomalyr1.training.recipes import dump_recipe
from anomalyr1.types import InputError
from support import groups, grpo_runs, runs, tiny


def asked(processor):
    import numpy as np

    made = groups.batch(np.random.default_rng(3), processor, groups=2)
    return {"input_ids": made.ids, "attention_mask": made.mask, **made.fields()}


def adapted(folder, family):
    """A model with a random adapter, saved to `folder`."""
    from peft import LoraConfig, get_peft_model

    policy = load_policy(str(tiny.folder_of(family)))
    torch.manual_seed(0)
    model = get_peft_model(
        policy.model,
        LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], r=4, init_lora_weights=False),
    ).eval()
    model.save_pretrained(folder)
    return policy, model


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_merged_model_is_its_base_with_the_adapter(tmp_path, family):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    policy, model = adapted(tmp_path / "run" / "final", family)
    cap = 12_544 if family == "qwen2_5_vl" else 262_144
    recipe = runs.RECIPE.model_copy(update={"model": str(tiny.folder_of(family)), "max_pixels": cap})
    (tmp_path / "run" / "recipe.yaml").write_text(
        json.dumps(recipe.model_dump(mode="json")), encoding="utf-8"
    )
    said = CliRunner().invoke(
        app, ["merge", str(tmp_path / "run"), "--out", str(tmp_path / "merged")], standalone_mode=False
    )
    assert said.return_value == 0, said.exception
    batch = asked(policy.processor)
    with torch.no_grad():
        expected = model(**batch).logits
        with model.disable_adapter():
            assert float((model(**batch).logits - expected).abs().max()) > 0.1  # the adapter matters
        plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
        assert float((plain(**batch).logits - expected).abs().max()) < 1e-4
        ours = load_policy(str(tmp_path / "merged"))
        assert float((ours.model(**batch).logits - expected).abs().max()) < 1e-4
    processor = AutoProcessor.from_pretrained(tmp_path / "merged")
    assert (
        type(processor) is type(policy.processor) and processor.image_processor.size["longest_edge"] == cap
    )  # as it was trained
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "run"]  # nothing unfinished is left


def test_what_the_run_taught_travels_with_the_merged_model(tmp_path):
    """Also from an unfinished run, whose prompt file may be gone by then."""
    adapted(tmp_path / "run" / "final", "qwen2_5_vl")
    taught = Taught(
        anomalyr1="0.11",
        style="ours",
        text="{image}\n{question}",
        max_pixels=6272,
        base="nano",
        licence="own",
    )
    recipe = runs.RECIPE.model_copy(update={"model": str(tiny.folder_of()), "prompt": "gone.txt"})
    (tmp_path / "run" / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"taught": taught.model_dump()}))
    merged = merge_adapter(tmp_path / "run", tmp_path / "merged")
    assert read_taught(merged) == taught and (merged / "README.md").is_file()
    assert load_policy(str(merged)).max_pixels == 6272
    (tmp_path / "run" / "run.json").write_text(json.dumps({"taught": {"style": 1}}))
    with pytest.raises(InputError, match=r"run\.json.: taught: "):
        merge_adapter(tmp_path / "run", tmp_path / "more")


def test_an_adapter_alone_and_its_type(tmp_path):
    """The base is what the adapter's own configuration names, and the sum is kept in the base's type."""
    base = tiny.build(tmp_path / "base")
    policy = load_policy(str(base), dtype="bfloat16")
    policy.model.save_pretrained(base)
    adapted(tmp_path / "adapter", "qwen2_5_vl")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)}))
    merged = merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    assert json.loads((merged / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_policy(str(merged), dtype="bfloat16").model.dtype == torch.bfloat16


def test_what_cannot_be_merged(tmp_path):
    adapted(tmp_path / "adapter", "qwen2_5_vl")
    base = str(tiny.folder_of())
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        merge_adapter(tmp_path / "adapter", tmp_path / "out", base)
    with pytest.raises(InputError, match="holds no adapter"):
        merge_adapter(tmp_path / "out", tmp_path / "x", base)
    with pytest.raises(InputError, match="is not a folder"):
        merge_adapter(tmp_path / "absent", tmp_path / "x", base)
    with pytest.raises(InputError, match="does not fit 'nano'"):
        merge_adapter(tmp_path / "adapter", tmp_path / "x", "nano")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(InputError, match="only safetensors are loaded"):
        merge_adapter(tmp_path / "adapter", tmp_path / "x", base)
    assert not (tmp_path / "x").exists()


def test_a_damaged_adapter_is_refused_by_name(tmp_path):
    adapted(tmp_path / "adapter", "qwen2_5_vl")
    base, config = str(tiny.folder_of()), tmp_path / "adapter" / "adapter_config.json"
    weights, settings = tmp_path / "adapter" / "adapter_model.safetensors", json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"lora_alpha": 1e308}))
    with pytest.raises(InputError, match="not finite"):
        merge_adapter(tmp_path / "adapter", tmp_path / "x", base)
    config.write_text(json.dumps(settings))
    merge_adapter(tmp_path / "adapter", tmp_path / "control", base)
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(InputError, match="does not fit"):
        merge_adapter(tmp_path / "adapter", tmp_path / "x", base)
    assert not (tmp_path / "x").exists()


def test_a_run_that_stopped_gives_its_newest_complete_checkpoint_and_says_so(tmp_path):
    run = tmp_path / "run"
    for step in (5, 10, 15):
        adapted(run / f"checkpoint-{step}", "qwen2_5_vl")
        checkpoints.seal(run / f"checkpoint-{step}")
    (run / "checkpoint-15" / checkpoints.MARKER).unlink()
    (run / "recipe.yaml").write_text(
        dump_recipe(runs.RECIPE.model_copy(update={"model": str(tiny.folder_of())}))
    )
    said: list[str] = []
    merge_adapter(run, tmp_path / "merged", say=said.append)
    assert said == [
        "checkpoint-15 is passed over: it was not finished (no marker)", ("the run is not finished: its "
            "adapter at checkpoint-10 is taken"),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"checkpoint-15' is no complete checkpoint \(it was not finished"):
        merge_adapter(run / "checkpoint-15", tmp_path / "other")
    merge_adapter(run / "checkpoint-5", tmp_path / "other")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_checkpoint_of_whole_weights_in_plain_transformers(tmp_path, family):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    made = grpo_runs.trainer(
        SharedPrefixGRPOTrainer, tmp_path, family, max_steps=1, save_strategy="steps", save_steps=1
    )
    made.train()
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint-1", output_loading_info=True)
    plain, loading = found
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    theirs, ours = plain.state_dict(), made.model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert AutoProcessor.from_pretrained(tmp_path / "checkpoint-1").tokenizer is not None
