"""What no policy should judge is unsure by name, and it is not asked; good parts pass."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from anomalyr1.drawn import draw as procedural
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.images.door import open_image
from anomalyr1.images.frames import FAMILIES
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.inspection.picture_guard import FILE, TaughtLook, doubt_of_picture, keep_look
from anomalyr1.types import InputError, Sample
from support import recordings

FAMILY = FAMILIES["qwen2_5_vl"]


def noise(low, high, size_wh=(320, 240), seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(low, high, (*size_wh[::-1], 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("picture", "name"),
    [
        (Image.new("RGB", (320, 240)), "picture_of_one_tone"),
        (Image.new("RGB", (320, 240), "white"), "picture_of_one_tone"),
        (Image.new("RGB", (3, 3000), (128, 130, 127)), "picture_of_one_tone"),
        (noise(0, 20), "picture_of_one_tone"),  # a lens cap
        (noise(0, 256), "picture_of_noise"),
        (noise(0, 256, (1500, 1100)), "picture_of_noise"),
        (Image.new("RGB", (1, 1)), "picture_tiny"),
        (noise(0, 256, (27, 29)), "picture_tiny"),
    ],
)
def test_what_shows_nothing_is_named(picture, name):
    assert doubt_of_picture(picture, FAMILY, None).name == name


def parts(folder, category, seeds):
    folder.mkdir(exist_ok=True)
    samples = []
    for seed in seeds:
        path = folder / f"{category}{seed}.png"
        Image.fromarray(procedural.draw(seed, category, "scratch" if seed % 2 else None).image).save(path)
        samples.append(Sample(id=path.name, image=path))
    return samples


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    """Sixteen drawn metal plates, and what they look like."""
    samples = parts(tmp_path_factory.mktemp("plates"), "metal plate", range(700_000, 700_016))
    return samples, TaughtLook.of(samples)


def test_a_taught_policy_knows_what_it_was_taught(plates, tmp_path):
    samples, taught = plates
    more = parts(tmp_path, "metal plate", range(700_100, 700_112))
    assert not any(doubt_of_picture(open_image(sample.image).rgb, FAMILY, taught) for sample in more)
    wide = noise(0, 256, (12, 3)).resize((640, 160), Image.Resampling.BICUBIC)
    others = [open_image(s.image).rgb for s in parts(tmp_path, "circuit board", range(4))]
    for picture in (wide, *others):
        assert doubt_of_picture(picture, FAMILY, taught).name == "picture_unlike_taught"
        assert doubt_of_picture(picture, FAMILY, None) is None  # the control: without what it was taught
    assert not any(taught.is_strange(open_image(sample.image).rgb) for sample in samples)


def test_a_negative_is_unlike_what_was_taught(shared):
    folder = shared / "data" / "bsdata"
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    same = [folder / row["image"] for row in rows if not row["anomaly"] and row["width"] == 565][:20]
    taught = TaughtLook.of([Sample(id=str(path), image=path) for path in same[:12]])
    for path in same[12:]:
        picture = open_image(path).rgb
        assert not taught.is_strange(picture) and taught.is_strange(ImageOps.invert(picture))


def test_a_hole_in_a_part_is_left_to_the_policy(plates):
    samples, taught = plates
    picture = open_image(samples[0].image).rgb
    w, h = picture.size
    picture.paste((255, 255, 255), (w // 3, h // 3, w // 2, h // 2))
    assert doubt_of_picture(picture, FAMILY, taught) is None


def test_it_is_kept_with_the_policy(plates, tmp_path):
    samples, taught = plates
    keep_look(samples, tmp_path)
    assert TaughtLook.read(tmp_path) == taught and (tmp_path / FILE).stat().st_size < 4096
    turned = [s.model_copy(update={"id": f"{samples[0].id}-turned-{i}"}) for i, s in enumerate(samples)]
    assert TaughtLook.of(turned) is None  # one picture in many orientations
    keep_look(samples[:7], tmp_path / "few")
    assert TaughtLook.read(tmp_path / "few") is None
    (tmp_path / FILE).write_text('{"images": 1, "lowest": [0], "highest": [0], "limit": -1}')
    with pytest.raises(InputError, match="copy it again from the run"):
        TaughtLook.read(tmp_path)


def test_the_policy_is_not_asked_and_its_neighbours_are(tmp_path):
    good = ("<think>No defect is visible.</think><answer>B</answer>",)
    good += ("<think>No defect is visible.</think><answer>[]</answer>",)
    paths = [recordings.draw(tmp_path / "1.png", None), tmp_path / "2.png"]
    Image.new("RGB", recordings.SIZE_WH).save(paths[1])
    replies = recordings.record(tmp_path / "recorded.jsonl", {path.as_posix(): good for path in paths})
    samples = [recordings.sample(path) for path in paths]
    part, black = Inspector(ReplayEngine(replies), masks="box").run(samples, tmp_path / "i.jsonl")
    assert (part.verdict, black.verdict) == ("good", "unsure")
    assert black.replies == () and black.counts == {"picture_of_one_tone": 1} and black.error is None
    assert black.reason.startswith("Unsure because nothing can be seen in the picture") and black.image_sha256
    again = Inspector(ReplayEngine(replies), masks="box").run(samples, tmp_path / "i.jsonl")
    assert again == [part, black]
    asked = [sample.model_copy(update={"questions": ()}) for sample in samples]
    exam = Inspector(ReplayEngine(replies), masks="box").inspect(asked, own_questions=True)
    assert not any("picture_of_one_tone" in one.counts for one in exam)  # an exam wants every answer


def test_the_look_is_part_of_the_run(plates, tmp_path):
    replies = recordings.record(tmp_path / "recorded.jsonl", {})
    before, after = (Inspector(ReplayEngine(replies), look=look).fingerprint() for look in (None, plates[1]))
    assert after.versions["taught_images"] == plates[1].digest and "taught_images" not in before.versions
