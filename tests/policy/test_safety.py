"""Booby-trapped model folders: each is refused with its reason, and nothing in it ever runs."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest

from anomalyr1.policy import folders, rules, safety
from anomalyr1.policy.load import load_policy
from anomalyr1.types import InputError
from support import tiny


class Bomb:
    """A pickle that touches a file when it is read."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (Path.touch, (self.canary,))


def edit(file, **changes):
    document = json.loads(file.read_text())
    document.update(changes)
    file.write_text(json.dumps(document))


def edit_part(file, part, **changes):
    document = json.loads(file.read_text())
    document[part].update(changes)
    file.write_text(json.dumps(document))


def code(canary):
    return (
        f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n"
        "from transformers import PretrainedConfig, Qwen2Tokenizer\n"
        "class EvilConfig(PretrainedConfig):\n    model_type = 'evil'\n"
        "class EvilTokenizer(Qwen2Tokenizer):\n    pass\n"
    )


def escape(canary):
    """A template that runs a command where Jinja is not sandboxed."""
    return "{{ cycler.__init__.__globals__.os.system('touch " + str(canary) + "') }}"


def header(tensors, data=b"\0" * 64):
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(begin, end, shape=None):
    return {"dtype": "F32", "shape": shape or [(end - begin) // 4], "data_offsets": [begin, end]}


def pickle_weights(folder, canary):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))


def pickle_beside(folder, canary):
    (folder / "training_args.bin").write_bytes(pickle.dumps(Bomb(canary)))


def pickle_deep_down(folder, canary):
    (folder / "global_step1").mkdir()
    (folder / "global_step1" / "MP_RANK_00.PT").write_bytes(pickle.dumps(Bomb(canary)))


def pickle_renamed(folder, canary):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(canary)))


def keras_weights(folder, canary):
    (folder / "tf_model.h5").write_bytes(b"\x89HDF\r\n")


def compiled_code(folder, canary):
    (folder / "kernel.so").write_bytes(b"\x7fELF")


def python_file(folder, canary):
    (folder / "modeling_evil.py").write_text(code(canary))


def python_file_of_generate(folder, canary):
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code(canary))


def auto_map_in_config(folder, canary):
    edit(folder / "config.json", auto_map={"AutoConfig": "evil/repository--configuration.EvilConfig"})


def auto_map_nested(folder, canary):
    edit_part(folder / "config.json", "text_config", auto_map={"AutoConfig": "configuration.EvilConfig"})


def auto_map_of_tokenizer(folder, canary):
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "evil/repository--tokenization.EvilTokenizer"]},
    )


def auto_map_of_image_processor(folder, canary):
    edit_part(
        folder / "processor_config.json",
        "image_processor",
        auto_map={"AutoImageProcessor": "processing.Evil"},
    )


def trust_in_config(folder, canary):
    edit_part(folder / "config.json", "vision_config", trust_remote_code=True)


def foreign_processor(folder, canary):
    edit(folder / "processor_config.json", processor_class="EvilProcessor")


def foreign_image_processor(folder, canary):
    edit_part(folder / "processor_config.json", "image_processor", image_processor_type="EvilImageProcessor")


def foreign_tokenizer(folder, canary):
    edit(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer")


def kernel_from_the_hub(folder, canary):
    edit_part(folder / "config.json", "text_config", _attn_implementation_internal="evil/kernels:forward")


def kernel_of_experts(folder, canary):
    edit(folder / "config.json", experts_implementation={"text_config": "evil/kernels"})


def adapter(folder, canary):
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "evil/base"})
    )


def second_model(folder, canary):
    edit(folder / "processor_config.json", audio_tokenizer={"audio_tokenizer_name_or_path": "evil/audio"})


def quantised(folder, canary):
    edit(folder / "config.json", quantization_config={"quant_method": "gptq"})


def redirected_weights(folder, canary):
    edit(folder / "config.json", transformers_weights="../../elsewhere/model.safetensors")


def redirected_tokenizer(folder, canary):
    edit(folder / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.json"])


def linked_weights(folder, canary):
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def linked_config(folder, canary):
    (folder / "config.json").rename(folder.parent / "elsewhere.json")
    (folder / "config.json").symlink_to("../elsewhere.json")


def linked_through_fake_cache(folder, canary):
    """A snapshot whose blob store is itself a link elsewhere."""
    snapshot = folder.parent / "models--a--b" / "snapshots" / folder.name
    snapshot.parent.mkdir(parents=True)
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "models--a--b" / "blobs").symlink_to(folder.parent / "elsewhere")
    shutil.move(folder, snapshot)
    (snapshot / "model.safetensors").rename(folder.parent / "elsewhere" / "0")
    (snapshot / "model.safetensors").symlink_to(folder.parent / "models--a--b" / "blobs" / "0")
    return snapshot


def linked_folder(folder, canary):
    (folder / "more").symlink_to(folder.parent, target_is_directory=True)


def link_that_circles(folder, canary):
    (folder / "vocab.json").symlink_to("vocab.json")


def pipe_as_file(folder, canary):
    os.mkfifo(folder / "vocab.json")  # whoever opens it waits for ever


def shard_above_the_folder(folder, canary):
    (folder / "model.safetensors").rename(folder.parent / "shard.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "../shard.safetensors"}})
    )


def shard_at_the_root(folder, canary):
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "/etc/passwd"}})
    )


def shard_is_a_pickle(folder, canary):
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "shard.data"}})
    )
    (folder / "shard.data").write_bytes(pickle.dumps(Bomb(canary)))


def header_beyond_limit(folder, canary):
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 200_000_000))
        file.truncate(300_000_000)  # a hole, no bytes on the disk


def header_beyond_file(folder, canary):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 4096) + b"{}")


def header_not_json(folder, canary):
    (folder / "model.safetensors").write_bytes(header(b"not json"))


def header_is_a_list(folder, canary):
    (folder / "model.safetensors").write_bytes(header(b"[1, 2]"))


def tensors_overlap(folder, canary):
    (folder / "model.safetensors").write_bytes(header({"a": tensor(0, 40), "b": tensor(32, 64)}))


def tensor_beyond_file(folder, canary):
    (folder / "model.safetensors").write_bytes(header({"a": tensor(0, 4096)}))


def tensor_of_wrong_size(folder, canary):
    (folder / "model.safetensors").write_bytes(header({"a": tensor(0, 64, [2**40, 2**40])}))


def tensor_twice(folder, canary):
    (folder / "model.safetensors").write_bytes(
        header(b'{"a": ' + json.dumps(tensor(0, 64)).encode() + b', "a": 1}')
    )


def template_escape(folder, canary):
    (folder / "chat_template.jinja").write_text(escape(canary))


def template_escape_in_json(folder, canary):
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": escape(canary)}))


def template_escape_in_list(folder, canary):
    edit(folder / "tokenizer_config.json", chat_template=[{"name": "default", "template": escape(canary)}])


def template_too_large(folder, canary):
    (folder / "chat_template.jinja").write_text("x" * 2_000_000)


def config_not_json(folder, canary):
    (folder / "config.json").write_text("model_type: qwen2_5_vl")


def config_not_text(folder, canary):
    (folder / "config.json").write_bytes(b'{"model_type": "\xff"}')


def config_is_a_list(folder, canary):
    (folder / "generation_config.json").write_text("[]")


def config_too_large(folder, canary):
    edit(folder / "config.json", padding="x" * 9_000_000)


def config_too_deep(folder, canary):
    (folder / "config.json").write_text('{"a":' * 200 + "1" + "}" * 200)


def config_bottomless(folder, canary):
    (folder / "config.json").write_text("[" * 1_000_000)


def config_of_long_numbers(folder, canary):
    (folder / "config.json").write_text('{"hidden_size": ' + "9" * 100_000 + "}")


def config_key_twice(folder, canary):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        text.replace("{", '{"auto_map": null, "auto_map": {"AutoConfig": "a.B"},', 1)
    )


def config_of_other_model(folder, canary):
    edit(folder / "config.json", model_type="llama")


def config_of_other_part(folder, canary):
    edit_part(folder / "config.json", "text_config", model_type="llama")


def config_of_other_class(folder, canary):
    edit(folder / "config.json", architectures=["EvilForConditionalGeneration"])


def config_of_a_billion_layers(folder, canary):
    edit_part(folder / "config.json", "text_config", num_hidden_layers=10**9)


def change_tokenizer(folder, **changes):
    edit(folder / "tokenizer.json", **changes)


def labels(folder, canary):
    edit(folder / "config.json", num_labels=10**9)


def labels_in_a_part(folder, canary):
    edit_part(folder / "config.json", "text_config", num_labels=10**9)


def names_of_labels(folder, canary):
    edit(folder / "config.json", id2label={str(n): "x" for n in range(100_000)})


def list_of_layers(folder, canary):
    edit_part(folder / "config.json", "vision_config", fullatt_block_indexes=list(range(100_000)))


def unknown_number(folder, canary):
    edit(folder / "config.json", number_of_what_comes_next=10**9)


def number_that_is_none(folder, canary):
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"hidden_size": 64', '"hidden_size": NaN')
    )


def number_as_text(folder, canary):
    edit_part(folder / "config.json", "text_config", vocab_size="1000000000")


def windows_of_no_width(folder, canary):
    edit_part(folder / "config.json", "vision_config", window_size=0)


def patches_of_no_width(folder, canary):
    edit_part(folder / "processor_config.json", "image_processor", patch_size=0)


def layers_without_weights(folder, canary):
    layers = {"num_hidden_layers": 512, "layer_types": ["full_attention"] * 512}
    edit_part(folder / "config.json", "text_config", **layers, intermediate_size=2**20)


def embeddings_without_weights(folder, canary):
    edit_part(folder / "config.json", "text_config", vocab_size=4_000_000)


def weights_without_layers(folder, canary):
    """A sparse shard that would be hashed: a terabyte that takes no room."""
    size = 2**40
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header({"a": tensor(0, size)}, b""))
        file.truncate(file.tell() + size)


def hole_behind_the_tensors(folder, canary):
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(2**40)


def gap_between_tensors(folder, canary):
    (folder / "model.safetensors").write_bytes(header({"a": tensor(0, 4), "b": tensor(32, 64)}))


def many_tensors(folder, canary):
    empty = {f"t{n}": tensor(0, 0, [0]) for n in range(20_001)}
    (folder / "model.safetensors").write_bytes(header(empty, b""))


def many_headers(folder, canary):
    text = json.dumps({"__metadata__": {"a": "x" * 15_000_000}}).encode()
    for number in range(5):
        (folder / f"more{number}.safetensors").write_bytes(header(text, b""))


def many_added_tokens(folder, canary):
    added = [{"id": 400 + n, "content": f"<{n}>", "special": True} for n in range(20_000)]
    change_tokenizer(folder, added_tokens=added)


def added_tokens_in_the_configuration(folder, canary):
    edit(folder / "tokenizer_config.json", extra_special_tokens=[f"<{n}>" for n in range(100_000)])


def added_tokens_in_a_table(folder, canary):
    (folder / "added_tokens.json").write_text(json.dumps({f"<{n}>": 400 + n for n in range(100_000)}))


def long_added_token(folder, canary):
    edit(folder / "tokenizer_config.json", extra_special_tokens=["x" * 1_000_000])


def merges_of_a_million(folder, canary):
    (folder / "merges.txt").write_text("a b\n" * 1_000_000)


def normalizer_that_panics(folder, canary):
    change_tokenizer(folder, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})


def normalizer_that_aborts(folder, canary):
    change_tokenizer(folder, normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="})


def normalizer_in_a_sequence(folder, canary):
    inner = {"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    change_tokenizer(folder, normalizer={"type": "NFC", "normalizers": [inner]})


def pattern_that_backtracks(folder, canary):
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    change_tokenizer(folder, pre_tokenizer={"type": "Sequence", "pretokenizers": [split]})


def decoder_of_another_kind(folder, canary):
    change_tokenizer(folder, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})


def model_of_another_kind(folder, canary):
    change_tokenizer(folder, model={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0})


def padding_without_end(folder, canary):
    fixed = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0, "pad_token": "a"}
    change_tokenizer(folder, padding={**fixed, "pad_to_multiple_of": None, "pad_type_id": 0})


def tokenizer_elsewhere(folder, canary):
    edit(folder / "tokenizer_config.json", tokenizer_file="/etc/passwd")


def vocabulary_elsewhere(folder, canary):
    edit(folder / "tokenizer_config.json", vocab_file="/etc/passwd")


def type_that_is_a_function(folder, canary):
    edit(folder / "config.json", dtype="load")


def brackets(folder, canary):
    (folder / "vocab.json").write_text('{"a": [' + "[]," * 8_000_000 + "[]]}")


def much_json(folder, canary):
    for number in range(10):
        (folder / f"{number}.json").write_text('{"a": "' + "x" * 7_500_000 + '"}')


def long_key(folder, canary):
    (folder / "config.json").write_text(json.dumps({"a" * 100_000: 1}))


CODE, PICKLE, KEY = "run code of the folder", "can run code when it is read", "has the key"
DIFFERENT, AMOUNT = "does not fit the file", "parameters, its config.json describes"
TRAPS = [
    # trap, the file the message names, its reason
    (pickle_weights, "pytorch_model.bin", PICKLE),
    (pickle_beside, "training_args.bin", "leave it as it is"),
    (pickle_deep_down, "MP_RANK_00.PT", PICKLE),
    (pickle_renamed, "model.safetensors", "its header claims"),
    (keras_weights, "tf_model.h5", PICKLE),
    (compiled_code, "kernel.so", CODE),
    (python_file, "modeling_evil.py", CODE),
    (python_file_of_generate, "generate.py", CODE),
    (auto_map_in_config, "config.json", CODE),
    (auto_map_nested, "config.json", CODE),
    (auto_map_of_tokenizer, "tokenizer_config.json", CODE),
    (auto_map_of_image_processor, "processor_config.json", CODE),
    (trust_in_config, "config.json", CODE),
    (foreign_processor, "processor_config.json", "processor_class is 'EvilProcessor'"),
    (foreign_image_processor, "processor_config.json", "image_processor_type is 'EvilImageProcessor'"),
    (foreign_tokenizer, "tokenizer_config.json", "tokenizer_class is 'EvilTokenizer'"),
    (kernel_from_the_hub, "config.json", "'evil/kernels:forward', expected one of sdpa"),
    (kernel_of_experts, "config.json", "'evil/kernels'}, expected one of sdpa"),
    (adapter, "adapter_config.json", "merge_and_unload"),
    (second_model, "processor_config.json", "a second model"),
    (quantised, "config.json", "not quantised"),
    (redirected_weights, "config.json", "redirects where the weights"),
    (redirected_tokenizer, "tokenizer_config.json", "redirects where the tokenizer"),
    (linked_weights, "model.safetensors", "leaves the folder"),
    (linked_config, "config.json", "leaves the folder"),
    (linked_through_fake_cache, "model.safetensors", "leaves the folder"),
    (linked_folder, "more", "leaves the folder"),
    (link_that_circles, "vocab.json", "a broken link"),
    (pipe_as_file, "vocab.json", "found a device, pipe"),
    (
        shard_above_the_folder,
        "model.safetensors.index.json",
        "'../shard.safetensors', expected the plain name",
    ),
    (shard_at_the_root, "model.safetensors.index.json", "'/etc/passwd', expected the plain name"),
    (shard_is_a_pickle, "model.safetensors.index.json", "'shard.data', expected the plain name"),
    (header_beyond_limit, "model.safetensors", "its header claims 200,000,000 bytes"),
    (header_beyond_file, "model.safetensors", "its header claims 4,096 bytes, in a file of 10 bytes"),
    (header_not_json, "model.safetensors", "expected JSON"),
    (header_is_a_list, "model.safetensors", "its header is not a JSON object"),
    (tensors_overlap, "model.safetensors", "the tensors 'a' and 'b' overlap"),
    (tensor_beyond_file, "model.safetensors", DIFFERENT),
    (tensor_of_wrong_size, "model.safetensors", DIFFERENT),
    (tensor_twice, "model.safetensors", "the key 'a' stands twice"),
    (template_escape, "chat_template.jinja", "reaches for Python's internals (__init__)"),
    (template_escape_in_json, "chat_template.json", "reaches for Python's internals (__init__)"),
    (template_escape_in_list, "tokenizer_config.json", "reaches for Python's internals (__init__)"),
    (template_too_large, "chat_template.jinja", "no real model's is larger"),
    (config_not_json, "config.json", "expected JSON"),
    (config_not_text, "config.json", "expected text in UTF-8"),
    (config_is_a_list, "generation_config.json", "expected a JSON object, found list"),
    (config_too_large, "config.json", "no real model's is larger"),
    (config_too_deep, "config.json", "nested deeper than 50"),
    (config_bottomless, "config.json", "nested deeper than 50"),
    (config_of_long_numbers, "config.json", "expected JSON"),
    (config_key_twice, "config.json", "the key 'auto_map' stands twice"),
    (config_of_other_model, "config.json", "model_type is 'llama'; supported are qwen2_5_vl"),
    (config_of_other_part, "config.json", "a part has model_type 'llama'"),
    (config_of_other_class, "config.json", "EvilForConditionalGeneration"),
    (config_of_a_billion_layers, "config.json", "num_hidden_layers is 1000000000"),
    (labels, "config.json", "num_labels is 1000000000, expected a number from 0 to 1,024"),
    (labels_in_a_part, "config.json", "num_labels is 1000000000"),
    (names_of_labels, "config.json", "100,000 entries under 'id2label'"),
    (list_of_layers, "config.json", "100,000 entries under 'fullatt_block_indexes'"),
    (unknown_number, "config.json", "number_of_what_comes_next is 1000000000"),
    (number_that_is_none, "config.json", "hidden_size is nan"),
    (number_as_text, "config.json", "vocab_size is '1000000000'"),
    (windows_of_no_width, "config.json", "window_size is 0, expected a number from 28"),
    (patches_of_no_width, "processor_config.json", "patch_size is 0"),
    (layers_without_weights, "model", AMOUNT),
    (embeddings_without_weights, "model", AMOUNT),
    (weights_without_layers, "model", AMOUNT),
    (hole_behind_the_tensors, "model.safetensors", "its tensors take"),
    (gap_between_tensors, "model.safetensors", "the tensors 'a' and 'b' have a gap"),
    (many_tensors, "model.safetensors", "20,001 tensors"),
    (many_headers, "model", "the headers of its safetensors"),
    (many_added_tokens, "tokenizer.json", "20,000 entries under 'added_tokens'"),
    (added_tokens_in_the_configuration, "tokenizer_config.json", "100,000 entries"),
    (added_tokens_in_a_table, "added_tokens.json", "100,000 entries"),
    (long_added_token, "tokenizer_config.json", "1,000,000 characters in one text"),
    (merges_of_a_million, "merges.txt", "1,000,000 merges"),
    (normalizer_that_panics, "tokenizer.json", "normalizer has the type 'Precompiled'"),
    (normalizer_that_aborts, "tokenizer.json", "normalizer has the type 'Precompiled'"),
    (normalizer_in_a_sequence, "tokenizer.json", "normalizer has the type 'Precompiled'"),
    (pattern_that_backtracks, "tokenizer.json", "by the pattern '(a+)+$'"),
    (decoder_of_another_kind, "tokenizer.json", "decoder has the type 'WordPiece'"),
    (model_of_another_kind, "tokenizer.json", "model has the type 'Unigram'"),
    (padding_without_end, "tokenizer.json", "Fixed is 1000000000000"),
    (tokenizer_elsewhere, "tokenizer_config.json", "redirects where the tokenizer"),
    (vocabulary_elsewhere, "tokenizer_config.json", "redirects where the tokenizer"),
    (type_that_is_a_function, "config.json", "dtype is 'load', expected one of float32"),
    (brackets, "vocab.json", "more than 500,000 lists and objects"),
    (much_json, "model", "bytes of JSON"),
    (long_key, "config.json", "100,000 characters in one text"),
]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(tiny.folder_of(), tmp_path / "model"))


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("trap", "file", "reason"), TRAPS, ids=[trap.__name__ for trap, _, _ in TRAPS])
def test_trap_is_refused_and_never_springs(folder, canary, trap, file, reason):
    safety.check_folder(folder)  # clean before
    folder = trap(folder, canary) or folder
    with pytest.raises(InputError) as caught:
        load_policy(str(folder))
    message = str(caught.value)
    assert reason in message
    assert f"{file}'" in message.split(": ")[0]  # names the file first
    assert len(message) < 1000
    assert not canary.exists()


def test_there_are_enough_traps():
    assert len(TRAPS) >= 25


# Negative controls: the traps are live.


def test_pickles_spring_when_read(folder, canary):
    import torch

    pickle_weights(folder, canary)
    with pytest.raises(RuntimeError):  # no checkpoint, but by then it has run
        torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert canary.exists()


def test_auto_map_springs_when_trusted(folder, canary, tmp_path, monkeypatch):
    from transformers import AutoConfig, dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (folder / "configuration.py").write_text(code(canary))
    edit(folder / "config.json", auto_map={"AutoConfig": "configuration.EvilConfig"}, model_type="evil")
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert canary.exists()


def test_the_template_springs_outside_a_sandbox(canary):
    jinja2.Environment(autoescape=False).from_string(escape(canary)).render()
    assert canary.exists()


@pytest.mark.parametrize(
    "trap",
    [
        pickle_beside,
        python_file,
        trust_in_config,
        linked_weights,
        linked_config,
        template_escape,
        config_key_twice,
    ],
)
def test_without_the_check_transformers_takes_the_folder(folder, canary, trap, monkeypatch):
    monkeypatch.setattr(folders, "check_folder", lambda folder, kind: "qwen2_5_vl")
    trap(folder, canary)
    assert load_policy(str(folder)).family.name == "qwen2_5_vl"


def test_without_the_check_the_reason_is_lost(folder, canary, monkeypatch):
    monkeypatch.setattr(folders, "check_folder", lambda folder, kind: "qwen2_5_vl")
    header_not_json(folder, canary)
    with pytest.raises(InputError, match="transformers cannot load this model"):  # still typed
        load_policy(str(folder))


@pytest.mark.parametrize("trap", [normalizer_that_panics, normalizer_that_aborts])
def test_normalizers_spring_when_loaded(folder, canary, trap):
    """The second one aborts the process where memory is limited."""
    trap(folder, canary)
    program = f"import tokenizers; tokenizers.Tokenizer.from_file({str(folder / 'tokenizer.json')!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert b"PanicException" in done.stderr or done.returncode < 0


def test_labels_cost_what_they_claim(folder):
    from transformers import AutoConfig

    edit(folder / "config.json", num_labels=100_000)
    assert len(AutoConfig.from_pretrained(folder).id2label) == 100_000


def test_the_pattern_of_tokenizers_is_transformers_own():
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    assert PRETOKENIZE_REGEX in rules.TOKENIZER_PATTERNS


# What real folders look like passes.


def link_within(folder):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors").symlink_to("weights.safetensors")


def readme(folder):
    (folder / "README.md").write_text("# A model")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    (folder / "LICENSE").write_text("Apache")


def keys_without_value(folder):
    edit(folder / "config.json", auto_map=None, use_kernels=False, _attn_implementation="flash_attention_2")
    edit(folder / "tokenizer_config.json", processor_class=None)


def token_named_like_a_key(folder):
    document = json.loads((folder / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(document["model"]["vocab"] | {"auto_map": 9999}))
    (folder / "added_tokens.json").write_text(json.dumps({"trust_remote_code": 1}))


def as_released(folder):
    """Values and keys of the published configurations that the tiny folders do not have."""
    edit_part(
        folder / "config.json",
        "text_config",
        rope_theta=5_000_000,
        max_position_embeddings=262_144,
        sliding_window=32_768,
        max_window_layers=70,
    )
    edit_part(folder / "config.json", "vision_config", in_chans=3, spatial_patch_size=14, depth=2)
    edit(folder / "config.json", torch_dtype="bfloat16", vision_token_id=151_654, rms_norm_eps=1e-6)
    edit(
        folder / "tokenizer_config.json",
        model_max_length=int(1e30),
        add_prefix_space=False,
        errors="replace",
        split_special_tokens=False,
        unk_token=None,
        added_tokens_decoder={str(n): {"content": f"<{n}>", "special": True} for n in range(300)},
    )
    sizes = {"min_pixels": 3136, "max_pixels": 12_845_056, "size": {"longest_edge": 16_777_216}}
    (folder / "preprocessor_config.json").write_text(json.dumps({"patch_size": 14, "merge_size": 2} | sizes))
    (folder / "video_preprocessor_config.json").write_text(
        json.dumps({"size": {"longest_edge": 786_432_000, "shortest_edge": 4096}, "max_frames": 768})
    )
    (folder / "generation_config.json").write_text(
        json.dumps({"repetition_penalty": 1.05, "top_k": 1, "eos_token_id": [151_645, 151_643]})
    )
    change_tokenizer(
        folder,
        normalizer={"type": "NFC"},
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": rules.TOKENIZER_PATTERNS[0]}, "behavior": "Isolated"},
                {"type": "ByteLevel", "use_regex": False},
            ],
        },
        post_processor={"type": "ByteLevel", "trim_offsets": False},
    )


def of_training(folder):
    """What trainers and people leave beside a model."""
    (folder / "trainer_state.json").write_text(
        json.dumps({"log_history": [{"step": n} for n in range(9000)]})
    )
    (folder / "all_results.json").write_text(json.dumps({"total_flos": 123_456_789_012_345_678}))


def own_template(folder):
    (folder / "chat_template.json").write_text(
        json.dumps({"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"})
    )


def pretty_shards(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}})
    )


@pytest.mark.parametrize(
    "change",
    [
        as_released,
        of_training,
        link_within,
        readme,
        keys_without_value,
        token_named_like_a_key,
        own_template,
        pretty_shards,
    ],
)
def test_honest_folder_passes(folder, change):
    change(folder)
    assert safety.check_folder(folder) == "qwen2_5_vl"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("config.json", "config.json is missing"),
        ("tokenizer_config.json", "tokenizer_config.json is missing"),
        ("processor_config.json", "preprocessor_config.json is missing"),
        ("model.safetensors", "no weights found"),
    ],
)
def test_folder_that_is_not_whole(folder, name, reason):
    (folder / name).unlink()
    with pytest.raises(InputError, match=reason):
        safety.check_folder(folder)


def test_shard_that_is_missing(folder):
    pretty_shards(folder)
    (folder / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(InputError, match="the download is not complete"):
        safety.check_folder(folder)


def test_too_many_tokens(folder, monkeypatch):
    monkeypatch.setattr(safety, "MOST_TOKENS", 100)
    with pytest.raises(InputError, match=r"tokenizer\.json': .* entries of its vocab"):
        safety.check_folder(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps({f"w{n}": n for n in range(101)}))
    with pytest.raises(InputError, match=r"vocab\.json': 101 tokens"):
        safety.check_folder(folder)


def test_too_many_files(folder, monkeypatch):
    monkeypatch.setattr(safety, "_MAX_FILES", 3)
    with pytest.raises(InputError, match="more than 3 files"):
        safety.check_folder(folder)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_families(family):
    assert safety.check_folder(tiny.folder_of(family)) == family
