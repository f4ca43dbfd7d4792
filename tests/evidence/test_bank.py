"""Banks: learned, kept, opened again, and refused where a file is no bank."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from anomalyr1.evidence.bank import Bank
from anomalyr1.types import InputError
from support.good_parts import SETTINGS, part, save_parts


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return save_parts(tmp_path_factory.mktemp("good"), 12)


@pytest.fixture(scope="module")
def bank(good):
    return Bank.learn(good, SETTINGS)


@pytest.fixture
def file(bank, tmp_path):
    bank.write(tmp_path / "parts.bank")
    return tmp_path / "parts.bank"


def test_a_spot_is_strange(bank):
    strange, usual = bank.measure(part(99, spot=True)).evidence, bank.measure(part(98)).evidence
    assert strange.score > usual.score and strange.is_strange
    assert strange.ratio > 1 and strange.regions
    box = strange.regions[0].box
    assert box.x1 < 70 < box.x2 and box.y1 < 48 < box.y2
    assert (strange.learned, strange.held_out) == (8, 4)


def test_a_path_an_array_and_a_picture_are_the_same(bank, good):
    by_path = bank.measure(good[0]).evidence
    with Image.open(good[0]) as image:
        assert bank.measure(image).evidence == bank.measure(np.asarray(image)).evidence == by_path


def test_what_is_read_is_what_was_written(bank, file, good):
    again = Bank.read(file)
    assert again.digest == bank.digest
    assert again.measure(good[0]).evidence == bank.measure(good[0]).evidence
    again.write(file.with_name("again.bank"))
    assert file.with_name("again.bank").read_bytes() == file.read_bytes()
    assert Bank.learn(good, SETTINGS).digest == bank.digest


def test_a_flipped_bit_is_seen_wherever_it_is(file):
    data = file.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    rng = np.random.default_rng(0)
    places = [*range(8), *rng.integers(8, header, 150), *rng.integers(header, len(data), 50), len(data) - 1]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(flipped)
        with pytest.raises(InputError, match=r"bank|damaged|JSON|form"):
            Bank.read(file)
    file.write_bytes(data)
    Bank.read(file)  # control


def rewritten(file, change):
    """The file with its record and tensors changed, and the digest made to fit."""
    import hashlib

    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    record = json.loads(header["__metadata__"]["anomalyr1_bank"].partition(" ")[2])
    bank = Bank.read(file)
    tensors = {name: getattr(bank, name).clone() for name in ("patches", "part_of_patch", "pooled")}
    change(record, tensors)
    text = json.dumps(record)
    content = save(tensors)
    body = content[8 + struct.unpack("<Q", content[:8])[0] :]
    sha = hashlib.sha256(text.encode() + body).hexdigest()
    file.write_bytes(save(tensors, {"anomalyr1_bank": f"{sha} {text}"}))


def transposed(record, tensors):
    tensors["patches"] = tensors["patches"].T.contiguous()


def not_finite(record, tensors):
    tensors["patches"][3, 3] = float("nan")


def other_type(record, tensors):
    tensors["patches"] = tensors["patches"].float()


def fewer_owners(record, tensors):
    tensors["part_of_patch"] = tensors["part_of_patch"][:-1].clone()
    record["shapes"]["part_of_patch"] = [len(tensors["part_of_patch"])]


def owner_of_nothing(record, tensors):
    tensors["part_of_patch"][0] = 1000


def further_tensor(record, tensors):
    tensors["further"] = torch.zeros(3)


def other_weights(record, tensors):
    record["backbone_digest"] = "sha256:0"


def other_network(record, tensors):
    record["settings"]["backbone"] = "os:system"


def newer(record, tensors):
    record["version"] = 2


def unknown_field(record, tensors):
    record["later"] = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (transposed, "expected float16"),
        (not_finite, "not finite"),
        (other_type, "expected float16"),
        (fewer_owners, "do not go together"),
        (owner_of_nothing, "do not go together"),
        (further_tensor, "expected"),
        (other_weights, "other weights"),
        (other_network, "which is code"),
        (newer, "version 2"),
        (unknown_field, "expected form"),
        (lambda record, tensors: None, None),  # the control
    ],
)
def test_a_file_that_fits_its_digest_and_nothing_else(file, change, words):
    rewritten(file, change)
    if words is None:
        Bank.read(file)
        return
    with pytest.raises(InputError, match=words):
        Bank.read(file)


def pickled():
    buffer = io.BytesIO()
    torch.save({"patches": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"short", pickled(), struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 2) + b"{}", b"\x80\x04K."],
)
def test_what_is_no_bank_is_refused_by_name(tmp_path, data):
    (tmp_path / "other.bank").write_bytes(data)
    with pytest.raises(InputError, match=r"other\.bank' is no bank of good parts.*anomalyr1 learn"):
        Bank.read(tmp_path / "other.bank")


def test_nothing_to_learn_from():
    with pytest.raises(InputError, match="no good part"):
        Bank.learn([])


def test_few_good_parts_are_not_calibrated(good):
    bank = Bank.learn(good[:2], SETTINGS)
    evidence = bank.measure(part(99, spot=True)).evidence
    assert not evidence.calibrated and evidence.threshold is None and evidence.is_strange is None


def test_another_kind_of_part_is_told(bank):
    stripes = np.zeros((96, 128, 3), np.uint8)
    stripes[:, ::4] = (250, 40, 40)
    assert not bank.measure(stripes).evidence.same_kind
    assert bank.measure(part(99, spot=True)).evidence.same_kind  # control: a bad part is of the kind


def test_a_part_is_compared_with_the_others(bank, good):
    number = next(i for i, part in enumerate(bank.parts) if not part.held_out)
    evidence = bank.measure(bank.parts[number].name, leave_out=number).evidence
    assert evidence.score == pytest.approx(bank.parts[number].score, abs=1e-3)
    assert bank.measure(bank.parts[number].name).evidence.score < evidence.score
