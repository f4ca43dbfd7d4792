"""Banks: learned, written, read safely, merged, measured with."""

import hashlib
import json
import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import anomalyr1
from anomalyr1.evidence import bank_file
from anomalyr1.evidence.backbone import load_backbone
from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.gathering import PatchDraw, open_ahead
from anomalyr1.evidence.learning import Settings
from anomalyr1.evidence.measure import nearest
from anomalyr1.images.door import THREADS, ImageError
from anomalyr1.types import InputError
from support.parts import draw_part, write_parts

SETTINGS = Settings(short_side=96, max_patches=500)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("good"), 16)


@pytest.fixture(scope="module")
def bank(paths):
    return Bank.learn(paths[:12], SETTINGS)


@pytest.fixture(scope="module")
def file(bank, tmp_path_factory):
    path = tmp_path_factory.mktemp("banks") / "plates.bank"
    bank.write(path)
    return path


# --- learning and measuring


def test_a_defect_is_stranger_than_good_parts(bank):
    good = [bank.measure(draw_part(seed)).evidence for seed in range(100, 104)]
    bad = bank.measure(draw_part(100, defect=True)).evidence
    assert bad.score > max(evidence.score for evidence in good) and bad.is_strange
    assert bad.regions and bad.regions[0].box.x1 < 48 < bad.regions[0].box.x2 + 8


def test_a_path_an_array_and_a_picture_are_measured_alike(bank, paths):
    picture = Image.open(paths[3]).convert("RGB")
    scores = {
        bank.measure(thing).evidence.score for thing in (paths[3], str(paths[3]), picture, np.array(picture))
    }
    assert len(scores) == 1


def test_a_held_out_part_measures_as_it_did_when_it_was_held_out(bank):
    held_out = [part for part in bank.parts if part.held_out]
    measured = [bank.measure(part.name).evidence for part in held_out]
    assert [evidence.score for evidence in measured] == [part.score for part in held_out]
    assert not any(evidence.is_strange for evidence in measured)  # the threshold is the highest of them


def test_threads_measure_alike(bank):
    pictures = [draw_part(seed) for seed in range(100, 108)]
    expected = [bank.measure(picture).evidence.score for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert [m.evidence.score for m in pool.map(bank.measure, pictures)] == pytest.approx(
            expected, abs=1e-6
        )


def test_parts_that_are_all_the_same_divide_by_nothing(tmp_path):
    for number in range(5):
        Image.new("RGB", (96, 96), (90, 90, 90)).save(tmp_path / f"{number}.png")
    same = Bank.learn(sorted(tmp_path.glob("*.png")), SETTINGS, learned=4)
    assert same.measure(Image.new("RGB", (96, 96), (90, 90, 90))).evidence.regions == ()
    assert same.measure(draw_part(0)).evidence.ratio > 1


def test_nearest_is_exact():
    generator = torch.Generator().manual_seed(0)
    queries, stored = (
        torch.nn.functional.normalize(torch.randn(count, 20, generator=generator), dim=1)
        for count in (2500, 2300)
    )
    assert torch.allclose(nearest(queries, stored), 1 - (queries @ stored.T).amax(1), atol=1e-6)
    assert nearest(queries, stored[:0]).tolist() == [2.0] * len(queries)


def test_patches_are_drawn_from_all_parts_alike():
    draw = PatchDraw(300, seed=0)
    for part in range(10):
        draw.add(torch.full((100, 2), float(part)), part)
    assert len(draw.patches) == 300
    assert torch.equal(draw.patches[:, 0], draw.part_of_patch.half())  # who is whose stays
    assert torch.bincount(draw.part_of_patch).min() > 10
    assert (draw.part_of_patch.diff() >= 0).all()


def test_pictures_are_opened_in_order_and_few_ahead(paths, tmp_path, monkeypatch):
    opened = []
    door = sys.modules["anomalyr1.evidence.gathering"]
    original = door.open_image
    monkeypatch.setattr(door, "open_image", lambda path: (opened.append(path), original(path))[1])
    images = open_ahead(paths)
    assert next(images).path == paths[0]
    assert len(opened) <= THREADS + 1 < len(paths)  # the others are not in memory
    assert [image.path for image in images] == paths[1:]
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"no\.png"):
        list(open_ahead([paths[0], tmp_path / "no.png"]))


# --- the file


def test_what_is_written_is_read(bank, file):
    back = Bank.read(file)
    assert back.digest == bank.digest and back.parts == bank.parts and back.yardstick == bank.yardstick
    assert back.settings == bank.settings and back.threshold == bank.threshold
    for name in bank_file.TENSORS:
        assert torch.equal(getattr(back, name), getattr(bank, name))
    picture = draw_part(100, defect=True)
    assert back.measure(picture).evidence == bank.measure(picture).evidence


def test_the_same_images_and_seed_make_the_same_bytes(paths, file, tmp_path):
    for name, settings in {"same": SETTINGS, "other": SETTINGS.model_copy(update={"seed": 1})}.items():
        Bank.learn(paths[:12], settings).write(tmp_path / name)
    assert (tmp_path / "same").read_bytes() == file.read_bytes() != (tmp_path / "other").read_bytes()


def test_other_programs_can_read_the_tensors(bank, file):
    tensors = safetensors.torch.load_file(file)
    assert set(tensors) == set(bank_file.TENSORS)
    assert tensors["patches"].dtype == torch.float16 and torch.equal(tensors["patches"], bank.patches)


def test_no_byte_can_be_another(file, tmp_path):
    """The first and last bytes, those around the header's end, and others drawn at random."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    places = {*range(12), *range(end - 12, end + 12), len(data) - 1, data.index(b"sha256") + 14}
    places |= set(random.Random(0).sample(range(end), 60)) | set(
        random.Random(1).sample(range(len(data)), 40)
    )
    damaged = tmp_path / "damaged.bank"
    for place in sorted(places):
        flipped = bytes([data[place] ^ random.Random(place).choice([1, 32, 128])])
        damaged.write_bytes(data[:place] + flipped + data[place + 1 :])
        with pytest.raises(InputError, match=r"damaged\.bank"):
            bank_file.read(damaged)
    damaged.write_bytes(data)
    bank_file.read(damaged)  # the control: whole again, it is read


@pytest.mark.parametrize("length", [0, 5, 8, 100, -1])
def test_a_file_that_is_cut_off(file, tmp_path, length):
    cut = tmp_path / "cut.bank"
    cut.write_bytes(file.read_bytes()[:length])
    with pytest.raises(InputError, match=r"cut\.bank"):
        Bank.read(cut)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_a_pickle_is_never_run(tmp_path):
    for number, protocol in enumerate(range(pickle.HIGHEST_PROTOCOL + 1)):
        (tmp_path / f"{number}.bank").write_bytes(pickle.dumps(Bomb(), protocol))
    torch.save({"patches": torch.zeros(2, 2), "bomb": Bomb()}, tmp_path / "torch.bank")
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match="no bank"):
            Bank.read(path)


def test_safetensors_of_another_kind(tmp_path):
    safetensors.torch.save_file({"patches": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="another kind"):
        Bank.read(tmp_path / "model.safetensors")


def rewritten(file, path, change_header=lambda header: None, change_record=lambda record: None, **tensors):
    """A bank's file with other content and a digest that fits: what no accident makes."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    record = json.loads(header["__metadata__"]["anomalyr1.bank"])
    content = {name: tensor.numpy() for name, tensor in safetensors.torch.load(data).items()} | tensors
    begin, pieces = 0, []
    for name, array in content.items():
        kind = {"float16": "F16", "int32": "I32", "float32": "F32", "int64": "I64"}[str(array.dtype)]
        end = begin + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
        pieces.append(array.tobytes())
        begin = end
    change_record(record)
    record["sha256"] = "0" * 64
    change_header(header)
    header["__metadata__"] = {"anomalyr1.bank": json.dumps(record)}
    text = json.dumps(header).encode()
    blank = b"".join([len(text).to_bytes(8, "little"), text, *pieces])
    digest = hashlib.sha256(blank).hexdigest()
    path.write_bytes(blank.replace(b"0" * 64, digest.encode(), 1))
    return path


def vectors(count, size, kind=np.float16):
    array = np.zeros((count, size), kind)
    array[:, 0] = 1
    return array


BAD_TENSORS = {
    "fewer owners": {"part_of_patch": np.zeros(3, np.int32)},
    "an owner that is not there": {"part_of_patch": np.full(500, 8, np.int32)},
    "a negative owner": {"part_of_patch": np.full(500, -1, np.int32)},
    "owners of another type": {"part_of_patch": np.zeros(500, np.int64)},
    "no patches": {"patches": vectors(0, 152), "part_of_patch": np.zeros(0, np.int32)},
    "flat patches": {"patches": np.ones(500, np.float16)},
    "single precision": {"patches": vectors(500, 152, np.float32)},
    "no number": {"patches": np.full((500, 152), np.nan, np.float16)},
    "infinity": {"patches": np.full((500, 152), np.inf, np.float16)},
    "no unit vectors": {"patches": np.full((500, 152), 1, np.float16)},
    "of another network": {"patches": vectors(500, 100)},
    "pooled of another network": {"pooled": vectors(12, 7)},
    "fewer pooled": {"pooled": vectors(11, 112)},
    "one more tensor": {"more": np.zeros(1, np.float16)},
}


@pytest.mark.parametrize("tensors", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_tensors_that_are_no_banks(file, tmp_path, tensors):
    with pytest.raises(InputError, match=r"odd\.bank' is a damaged bank"):
        Bank.read(rewritten(file, tmp_path / "odd.bank", **tensors))


def test_the_control_of_rewritten_files(file, tmp_path, bank):
    assert Bank.read(rewritten(file, tmp_path / "same.bank")).parts == bank.parts
    path = rewritten(file, tmp_path / "unit.bank", patches=vectors(500, 152))
    assert float(Bank.read(path).patches.sum()) == 500


def claim(**changes):
    return lambda header: header["patches"].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        claim(shape=[2**40, 152], data_offsets=[0, 2**41 * 152]),  # terabytes
        claim(shape=[2**63, 2**63]),
        claim(data_offsets=[0, 10]),
        claim(data_offsets=[10, 0]),
        claim(shape=[-500, -152]),
        claim(dtype="PICKLE"),
        lambda header: header.pop("pooled"),
    ],
)
def test_a_header_that_claims_what_is_not_there(file, tmp_path, change):
    with pytest.raises(InputError, match=r"odd\.bank' is a damaged bank"):
        Bank.read(rewritten(file, tmp_path / "odd.bank", change))


def test_a_header_longer_than_any_banks(tmp_path):
    path = tmp_path / "long.bank"
    path.write_bytes((2**25).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="claims 33,554,432 bytes"):
        Bank.read(path)
    path.write_bytes((2**17).to_bytes(8, "little") + b"[" * 2**17)
    with pytest.raises(InputError, match="no JSON"):
        Bank.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(version=2), "version 2"),
        (lambda record: record.update(surplus=1), "surplus"),
        (lambda record: record.update(parts=[]), "parts"),
        (lambda record: record.update(yardstick=[float("nan"), 1, 0]), "yardstick"),
        (lambda record: record["settings"].update(short_side=10**6), "short_side"),
        (lambda record: record["parts"][0].update(held_out=True), "do not stand first"),
        (lambda record: record.update(backbone_digest="0" * 64), "has other weights"),
        (lambda record: record["settings"].update(backbone="./evil"), "a file cannot choose"),
        (lambda record: record["settings"].update(backbone="bomb:run"), "a file cannot choose"),
    ],
)
def test_records_that_are_refused(file, tmp_path, change, message):
    with pytest.raises(InputError, match=rf"odd\.bank.*{message}"):
        Bank.read(rewritten(file, tmp_path / "odd.bank", change_record=change))


def test_a_backbone_that_a_file_names_is_not_imported(file, tmp_path, monkeypatch):
    (tmp_path / "bomb_backbone.py").write_text("made = __import__('anomalyr1').evidence_test_backbone\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(anomalyr1, "evidence_test_backbone", load_backbone(), raising=False)
    name = "bomb_backbone:made"
    path = rewritten(
        file, tmp_path / "own.bank", change_record=lambda record: record["settings"].update(backbone=name)
    )
    with pytest.raises(InputError, match="name it yourself"):
        Bank.read(path)
    assert "bomb_backbone" not in sys.modules
    assert Bank.read(path, backbone=name).learned == 8  # the control: a person named it
    assert "bomb_backbone" in sys.modules


# --- merging and describing


@pytest.fixture(scope="module")
def merged(bank, paths):
    return bank.merge(Bank.learn(paths[8:], SETTINGS, learned=6))


def test_merged_banks_have_each_part_once(bank, paths, merged):
    assert sorted(part.name for part in merged.parts) == sorted(path.as_posix() for path in paths)
    assert len(merged.patches) == 1000 and len(merged.pooled) == len(merged.parts) == 16
    assert not any(part.held_out for part in merged.parts[: merged.learned])
    # Each patch is still of its part.
    shas = [part.sha256 for part in bank.parts]
    for number, part in enumerate(merged.parts[: merged.learned]):
        patches = merged.patches[merged.part_of_patch == number]
        before = bank.patches[bank.part_of_patch == shas.index(part.sha256)] if part.sha256 in shas else None
        assert before is None or torch.equal(patches[: len(before)], before)


def test_merged_banks_keep_their_promise(bank, paths, merged, tmp_path):
    """No distance grows and no threshold falls, so no part becomes strange that was not."""
    second = Bank.learn(paths[8:], SETTINGS, learned=6)
    held_out = [part for part in merged.parts if part.held_out]
    assert held_out
    assert all(merged.measure(part.name).evidence.score <= part.score + 1e-6 for part in held_out)
    assert all(
        m >= max(pair) for m, *pair in zip(merged.yardstick, bank.yardstick, second.yardstick, strict=True)
    )
    assert not any(merged.measure(part.name).evidence.is_strange for part in held_out)
    merged.write(tmp_path / "both.bank")
    assert Bank.read(tmp_path / "both.bank").digest == merged.digest


def test_banks_that_do_not_merge(bank, paths):
    with pytest.raises(InputError, match="short_side is 96 and 128"):
        bank.merge(Bank.learn(paths[:4], Settings(short_side=128, max_patches=500), learned=4))
    with pytest.raises(InputError, match="1 good part only estimates"):
        bank.merge(Bank.learn(paths[:1], SETTINGS))


def test_a_bank_describes_itself(bank, paths):
    lines = "\n".join(bank.describe())
    assert "learned from 8 good parts, 4 held out" in lines and "at most 52.7 % false alarms" in lines
    assert "efficientnet-lite0" in lines and bank.digest in lines
    few = "\n".join(Bank.learn(paths[:1], SETTINGS).describe())
    assert "1 good part," in few and "decide nothing alone" in few and "promises nothing" in few


def test_a_bank_is_public():
    assert anomalyr1.Bank is Bank


# --- the kind of part, and parts of the bank


def test_another_kind_of_part_is_seen(bank):
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::4] = (250, 40, 40)
    assert not bank.measure(stripes).evidence.same_kind
    assert bank.measure(draw_part(100, defect=True)).evidence.same_kind  # control: a bad part is of the kind


def test_a_learned_part_is_compared_with_the_others(bank):
    part = bank.parts[0]
    beside = bank.measure(part.name, leave_out=0).evidence
    assert beside.score == pytest.approx(part.score, abs=1e-3)
    assert bank.measure(part.name).evidence.score < beside.score
    assert part.sha256 in bank.image_digests
