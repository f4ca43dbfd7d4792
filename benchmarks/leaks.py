"""How far apart perceptual hashes lie: of copies, and of different images.

Whence what the guide to splits of data says of `leaks.MAX_DISTANCE`.

python benchmarks/leaks.py --shared DIR    # DIR/data holds magnetic_tile, bsdata and deeppcb; ELPV is taken
where it is installed
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from anomalyr1 import data
from anomalyr1.data import leaks, splits
from anomalyr1.data.protocols import SplitPlan
from anomalyr1.images.door import open_image
from anomalyr1.types import SetupError

SHARED = Path(__file__).resolve().parents[2] / "shared"


def saved(image: Image.Image, quality: int) -> Image.Image:
    """The image as a JPEG file gives it back."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


COPIES = {
    "JPEG at quality 60": lambda image: saved(image, 60),
    "half the size": lambda image: image.resize((max(8, image.width // 2), max(8, image.height // 2))),
    "15 % brighter": lambda image: image.point(lambda value: min(255, round(value * 1.15 + 8))),
    "1 % cut off each side": lambda image: image.crop(
        (
            image.width // 100,
            image.height // 100,
            image.width - image.width // 100,
            image.height - image.height // 100,
        )
    ),
}


def hashed(image: Image.Image, size: int = leaks.HASH_SIZE) -> np.ndarray:
    """The bits of an image, packed."""
    return np.packbits(imagehash.phash(image, hash_size=size).hash.ravel())


def distances(hashes: list[np.ndarray]) -> np.ndarray:
    """(N, N) bits, the diagonal far away."""
    rows = np.stack(hashes)
    apart = np.zeros((len(rows), len(rows)), np.uint16)
    for byte in rows.T:
        apart += np.bitwise_count(byte[:, None] ^ byte[None, :])
    np.fill_diagonal(apart, 999)
    return apart


def examine(spec: str) -> None:
    """Print the distances in one data set."""
    samples = list(data.load(spec))
    print(f"\n{spec}: {len(samples)} images")
    long, short = [], []
    copied: dict[str, list[int]] = {name: [] for name in COPIES}
    for number, sample in enumerate(samples):
        image = open_image(sample.image).rgb
        long.append(hashed(image))
        short.append(hashed(image, 8))
        if number % 4 == 0:
            name = list(COPIES)[number // 4 % 4]
            copied[name].append(int(np.bitwise_count(long[-1] ^ hashed(COPIES[name](image))).sum()))
    for name, bits in copied.items():
        low, middle, high, most = np.quantile(bits, [0, 0.5, 0.9, 1])
        quantiles = f"least {low:g}, median {middle:g}, nine of ten {high:g}, most {most:g}"
        print(f"  copies, {name}: {len(bits)}, bits of 256: {quantiles}")
    apart = distances(long)
    pairs = {limit: int((apart <= limit).sum()) // 2 for limit in (4, 10, 16, 24)}
    print(f"  other images, 256 bits: nearest {apart.min()}, pairs within {pairs}")
    close = int((distances(short).min(axis=1) <= 4).sum())
    print(f"  other images, 64 bits: {close} images have another within 4")
    started = time.perf_counter()
    manifest = splits.make(samples, SplitPlan(protocol="share"), spec, allow_leaks=True)
    leaking = len({leak.test for leak in manifest.leaks.found})
    seconds = time.perf_counter() - started
    leaking_share = f"{leaking} of {len(manifest.test)} test samples leak"
    print(f"  20/80: {leaking_share} {manifest.leaks.counts}, {seconds:.1f} s")


def main() -> None:
    """Examine what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=SHARED)
    shared = parser.parse_args().shared
    for name in ("magnetic_tile", "bsdata", "deeppcb"):
        if (shared / "data" / name).is_dir():
            examine(f"index:{shared / 'data' / name}")
        else:
            print(f"\n{name}: not at {shared / 'data'}, left out")
    try:
        examine("elpv")
    except SetupError as error:
        print(f"\nelpv: {error}")
    random = np.random.default_rng(0).integers(0, 2**63, (2, 10_000, 4), np.uint64)
    started = time.perf_counter()
    leaks.nearest(*random)
    print(f"\n10,000 against 10,000 hashes: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
