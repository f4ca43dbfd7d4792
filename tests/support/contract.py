"""What the contract of engines asks."""

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from anomalyr1 import prompts
from anomalyr1.engines.engine import Sampling
from anomalyr1.engines.local import LocalEngine
from anomalyr1.images.door import LoadedImage
from anomalyr1.policy.load import load_policy
from anomalyr1.types import Sample

SHORT = Sampling(max_new_tokens=48)


def picture(name, size_wh, seed):
    pixels = np.random.default_rng(seed).integers(
        0, 255, (size_wh[1] // 8, size_wh[0] // 8, 3), dtype=np.uint8
    )
    return LoadedImage(Path(name), Image.fromarray(pixels).resize(size_wh), "PNG", "RGB", 1, None)


IMAGES = {
    image.path: image for image in (picture("wide.png", (304, 200), 1), picture("tall.png", (120, 264), 2))
}
WIDE, TALL = IMAGES
SAMPLES = (
    Sample(id="one", image=WIDE),
    Sample(id="two", image=TALL, references=(WIDE,), knowledge="A good plate is even."),
)
ASKED = [
    prompts.build(sample, question)
    for sample in SAMPLES
    for question in prompts.inspection_questions(sample.id)
]


@functools.cache
def policy():
    return load_policy("nano", device="cpu")


@functools.cache
def spoken():
    return LocalEngine(policy()).complete(ASKED, IMAGES, SHORT)
