"""The scores and maps of any other detector as inspections, so that it stands in the same tables and pages.

Scores: a CSV file with the columns `sample_id` and `score` and, if the detector has an opinion of its own,
`verdict` (good, defect or unsure); or an NPZ file with the arrays `sample_ids` and `scores`. Maps: an NPZ
file with one array (H, W) a sample, under its id. What anomalib's `Engine.predict` returns, `save_anomalib`
writes as these two files.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalyr1 import boxes
from anomalyr1.evaluation.pixels import Map
from anomalyr1.files import write_whole
from anomalyr1.images import open_image
from anomalyr1.records import Writer
from anomalyr1.types import Fingerprint, InputError, Inspection, Verdict

VERDICTS: dict[str, Verdict] = {"good": "good", "defect": "defect", "unsure": "unsure"}
LEAST_PIXELS = 4
"""A smaller spot of a map is no box, as in masks of data sets (`data.mask_files`)."""


class Row(NamedTuple):
    """What a detector says of one sample."""

    sample_id: str
    score: float
    verdict: Verdict | None


class Maps(Mapping[str, Map]):
    """The maps of an NPZ file by sample id; each is read when it is asked for.

    Raises `InputError` that names file and array for what is no finite (H, W) array of numbers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._arrays = np.load(path, allow_pickle=False)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(
                f"the maps {str(path)!r} cannot be read ({error}); give an NPZ file of numpy.savez"
            ) from error
        if not isinstance(self._arrays, np.lib.npyio.NpzFile):
            raise InputError(
                f"{str(path)!r} holds one array; expected an NPZ file with one array (H, W) a sample, under its id"
            )

    def __getitem__(self, sample_id: str) -> Map:
        """The (H, W) map of a sample; `KeyError` when it has none."""
        if sample_id not in self._arrays.files:
            raise KeyError(sample_id)
        where = f"array {sample_id!r} of {str(self._path)!r}"
        try:
            found = self._arrays[sample_id]
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise InputError(f"{where} cannot be read ({error}); write it again") from error
        if found.dtype.kind not in "fiub" or found.ndim != 2 or not found.size:
            raise InputError(
                f"{where} is {found.dtype} of shape {found.shape}, expected numbers of shape (H, W)"
            )
        if not np.isfinite(found).all():
            row, column = (int(place[0]) for place in np.nonzero(~np.isfinite(found)))
            raise InputError(
                f"{where} is {found[row, column]} at row {row}, column {column}; expected finite numbers"
            )
        return np.asarray(found, dtype=np.float32)

    def __iter__(self) -> Iterator[str]:
        """The ids."""
        return iter(self._arrays.files)

    def __len__(self) -> int:
        return len(self._arrays.files)


def read_scores(path: Path) -> list[Row]:
    """The rows of a CSV or NPZ file; see the module's text.

    Raises `InputError` that names the file and the row and column (or array) of what is not as expected.
    """
    rows = _read_npz(path) if path.suffix.lower() == ".npz" else _read_csv(path)
    seen: set[str] = set()
    for row in rows:
        if row.sample_id in seen:
            raise InputError(f"{str(path)!r} has sample {row.sample_id!r} twice; give each sample one score")
        seen.add(row.sample_id)
    if not rows:
        raise InputError(f"{str(path)!r} holds no scores; expected one row a sample")
    return rows


def convert(
    scores: Path,
    out: Path,
    name: str,
    threshold: float | None = None,
    maps: Path | None = None,
    map_threshold: float | None = None,
    images: Mapping[str, Path] | None = None,
) -> list[Inspection]:
    """Write a detector's scores as an inspections file and return the inspections.

    From `threshold` on, in the scores' own unit, the verdict is "defect"; without it, and without a verdict
    in the file, it is "unsure". Where a map reaches `map_threshold` there are boxes and masks, in pixels of
    the image: `images` says where, else the id is its path. Scores that leave 0..1 are scaled by their least
    and largest value, which each inspection says. Raises `InputError` as `read_scores`, for maps of samples
    without a score, and for a new file where one lies.
    """
    rows = read_scores(scores)
    if out.exists():
        raise InputError(f"{str(out)!r} exists, and nothing is written over it; name a new file")
    known = Maps(maps) if maps else None
    strangers = sorted(set(known or ()) - {row.sample_id for row in rows})
    if strangers:
        raise InputError(
            f"{len(strangers)} maps of {str(maps)!r} have no score in {str(scores)!r}, the first is {strangers[0]!r}"
        )
    low, high = min(row.score for row in rows), max(row.score for row in rows)
    scaled = low < 0 or high > 1
    said = f"score of {name}" + (f", scaled from {low:.6g}..{high:.6g} to 0..1" if scaled else "")
    run = Fingerprint(
        model=name,
        revision=hashlib.sha256(scores.read_bytes()).hexdigest()[:12],
        family="detector",
        style="none",
        max_pixels=0,
        engine="scores",
        masks="none" if map_threshold is None else f"map from {map_threshold:g}",
        threshold="" if threshold is None else f"score from {threshold:g}",
    )
    made = []
    for row in rows:
        located: dict[str, Any] = {}
        if known is not None and map_threshold is not None and row.sample_id in known:
            located = _located(
                known[row.sample_id], map_threshold, (images or {}).get(row.sample_id, Path(row.sample_id))
            )
        verdict, reason = _verdict(row, threshold, name)
        score = (row.score - low) / ((high - low) or 1) if scaled else row.score
        counts = {"score_scaled": 1} if scaled else {}
        made.append(
            Inspection(
                sample_id=row.sample_id,
                verdict=verdict,
                score=score,
                score_from=said,
                reason=reason,
                counts=counts,
                **located,
            )
        )
    with Writer(out, run) as writer:
        for inspection in made:
            writer.append(inspection)
    return made


def save_anomalib(predictions: Iterable[Any], folder: Path) -> tuple[Path, Path | None]:
    """Write what anomalib's `Engine.predict` returns (batches) as `scores.csv` and, if there are maps, `maps.npz` in a folder.

    Reads `image_path`, `pred_score`, `pred_label` and `anomaly_map` of each batch; anomalib itself is not
    needed. Raises `InputError` that names the batch where one has no paths or scores, or not as many of each.
    """
    rows: list[tuple[str, float, str]] = []
    maps: dict[str, Map] = {}
    for number, batch in enumerate(predictions, start=1):
        paths = [Path(path).as_posix() for path in (getattr(batch, "image_path", None) or ())]
        scores, labels, found = (
            _array(getattr(batch, name, None)) for name in ("pred_score", "pred_label", "anomaly_map")
        )
        if not paths or scores is None or scores.size != len(paths):
            given = "none" if scores is None else scores.size
            raise InputError(
                f"batch {number} of the predictions has {len(paths)} image paths and {given} scores; expected one score an image"
            )
        verdicts = (
            [""] * len(paths)
            if labels is None
            else ["defect" if label else "good" for label in labels.ravel()]
        )
        rows += zip(paths, scores.ravel().tolist(), verdicts, strict=True)
        if found is not None:
            stacked = found.reshape(len(paths), *found.shape[-2:]).astype(np.float32)
            maps.update(zip(paths, stacked, strict=True))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("sample_id", "score", "verdict"))
    table.writerows(rows)
    write_whole(folder / "scores.csv", text.getvalue().encode("utf-8", "surrogateescape"))
    if not maps:
        return folder / "scores.csv", None
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, one in maps.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(one))
    write_whole(folder / "maps.npz", packed.getvalue())
    return folder / "scores.csv", folder / "maps.npz"


def _read_csv(path: Path) -> list[Row]:
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
            table = csv.DictReader(file, strict=True)
            if not {"sample_id", "score"} <= set(table.fieldnames or ()):
                raise InputError(
                    f"{str(path)!r}: expected the columns sample_id and score, got {', '.join(table.fieldnames or ()) or 'none'}"
                )
            for row in table:
                where = f"line {table.line_num} of {str(path)!r}"
                verdict = (row.get("verdict") or "").strip().lower()
                if not row["sample_id"]:
                    raise InputError(f"{where}, column sample_id: expected a name, got nothing")
                if verdict and verdict not in VERDICTS:
                    raise InputError(
                        f"{where}, column verdict: expected good, defect, unsure or nothing, got {verdict[:40]!r}"
                    )
                rows.append(
                    Row(
                        row["sample_id"],
                        _number(row["score"], f"{where}, column score"),
                        VERDICTS.get(verdict),
                    )
                )
    except (OSError, csv.Error) as error:
        raise InputError(
            f"the scores {str(path)!r} cannot be read ({error}); give a CSV file in UTF-8, or an NPZ file"
        ) from error
    return rows


def _read_npz(path: Path) -> list[Row]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in ("sample_ids", "scores") if name not in arrays]
            if missing:
                raise InputError(
                    f"{str(path)!r} has no array {missing[0]!r}, it has {', '.join(arrays.files) or 'none'}"
                )
            ids, scores = arrays["sample_ids"], arrays["scores"]
    except (OSError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the scores {str(path)!r} cannot be read ({error}); give an NPZ file of numpy.savez"
        ) from error
    if ids.ndim != 1 or ids.dtype.kind != "U":
        raise InputError(
            f"array 'sample_ids' of {str(path)!r} is {ids.dtype} of shape {ids.shape}, expected strings of shape (N,)"
        )
    if scores.shape != ids.shape or scores.dtype.kind not in "fiub":
        raise InputError(
            f"array 'scores' of {str(path)!r} is {scores.dtype} of shape {scores.shape}, expected numbers of shape {ids.shape}"
        )
    return [
        Row(str(name), _number(score, f"row {number} of array 'scores' of {str(path)!r}"), None)
        for number, (name, score) in enumerate(zip(ids, scores.tolist(), strict=True))
    ]


def _number(value: str | float | None, where: str) -> float:
    try:
        number = float("" if value is None else value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: expected a finite number, got {str(value)[:40]!r}")
    return number


def _verdict(row: Row, threshold: float | None, name: str) -> tuple[Verdict, str]:
    if threshold is not None:
        reaches = row.score >= threshold
        return (
            "defect" if reaches else "good",
            f"The score {row.score:.4g} {'reaches' if reaches else 'is below'} the threshold {threshold:g}.",
        )
    if row.verdict is not None:
        return row.verdict, f"{name} says {row.verdict}."
    return (
        "unsure",
        "Unsure because there is only a score: no threshold was given and the detector gave no verdict.",
    )


def _located(scores: Map, threshold: float, image: Path) -> dict[str, Any]:
    """Boxes and masks where a map, scaled to its image, reaches the threshold."""
    import cv2

    width, height = open_image(image).size_wh
    high = cv2.resize(scores, (width, height), interpolation=cv2.INTER_LINEAR) >= threshold
    found = boxes.components(high, LEAST_PIXELS)
    count, labels = cv2.connectedComponents(high.astype(np.uint8), connectivity=8)
    masks = [labels == number for number in range(1, count)]
    masks = sorted((mask for mask in masks if mask.sum() >= LEAST_PIXELS), key=lambda mask: -int(mask.sum()))
    return {"boxes": found, "masks": tuple(boxes.encode_mask(mask, "map") for mask in masks)}


def _array(value: Any) -> NDArray[Any] | None:  # a tensor of whatever library made it
    return None if value is None else np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
