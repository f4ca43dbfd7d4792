"""The scores and maps of any other detector as inspections, so that it stands in the same tables and pages.

Scores: a CSV file with the columns `sample_id` and `score` and, if the detector has an opinion of its own,
`verdict` (good, defect or unsure); or an NPZ file with the arrays `sample_ids` and `scores`. Maps: an NPZ
file with one array (H, W) a sample, under its id. What anomalib's `Engine.predict` returns, `save_anomalib`
writes as these two files.
"""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalyr1 import boxes, records
from anomalyr1.evaluation.npz_files import NpzFile
from anomalyr1.evaluation.pixels import Map
from anomalyr1.files import read_regular, sha256_of_file, write_whole
from anomalyr1.images.door import open_image
from anomalyr1.inspection.verdicts import unsure_because
from anomalyr1.types import Fingerprint, InputError, Inspection, Verdict, quoted, shortened

VERDICTS: dict[str, Verdict] = {"good": "good", "defect": "defect", "unsure": "unsure"}
LEAST_PIXELS = 4
"""A smaller spot of a map is no box, as in masks of data sets (`data.mask_files`)."""


class ScoreRow(NamedTuple):
    """What a detector says of one sample."""

    sample_id: str
    score: float
    verdict: Verdict | None
    """None = the detector has no opinion of its own."""


class Maps(Mapping[str, Map]):
    """The maps of an NPZ file by sample id; each is read when it is asked for.

    Raises `InputError` that names file and array for what is no finite (H, W) array of numbers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays = NpzFile(path)

    def __getitem__(self, sample_id: str) -> Map:
        """The (H, W) map of a sample; `KeyError` when it has none."""
        values = self._arrays.read(sample_id)
        where = f"array {quoted(sample_id)} of {str(self._path)!r}"
        if values.dtype.kind not in "fiub" or values.ndim != 2 or not values.size:
            raise InputError(
                f"{where} is {values.dtype} of shape {values.shape}, expected numbers of shape (H, W)"
            )
        with np.errstate(over="ignore"):
            scores = np.asarray(values, dtype=np.float32)
        if not np.isfinite(scores).all():
            row, column = (int(place[0]) for place in np.nonzero(~np.isfinite(scores)))
            raise InputError(
                f"{where} is {values[row, column]} at row {row}, column {column}; expected finite numbers"
            )
        return scores

    def __iter__(self) -> Iterator[str]:
        """The ids."""
        return iter(self._arrays.names)

    def __len__(self) -> int:
        return len(self._arrays.names)


def read_scores(path: Path) -> list[ScoreRow]:
    """The rows of a CSV or NPZ file; see the module's text.

    Raises `InputError` that names the file and the row and column (or array) of what is not as expected.
    """
    rows = _read_npz(path) if path.suffix.lower() == ".npz" else _read_csv(path)
    if not rows:
        raise InputError(f"{str(path)!r} holds no scores; expected one row a sample")
    sample_ids: set[str] = set()
    for row in rows:
        if row.sample_id in sample_ids:
            raise InputError(f"{str(path)!r} has sample {row.sample_id!r} twice; give each sample one score")
        sample_ids.add(row.sample_id)
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
    # 1. Scores and maps, which must belong together.
    rows = read_scores(scores)
    if out.exists():
        raise InputError(f"{str(out)!r} exists, and nothing is written over it; name a new file")
    known_maps: Mapping[str, Map] = Maps(maps) if maps else {}
    strangers = sorted(set(known_maps) - {row.sample_id for row in rows})
    if strangers:
        raise InputError(
            f"{len(strangers)} maps of {str(maps)!r} have no score in {str(scores)!r}, "
            f"the first is {strangers[0]!r}"
        )
    # 2. Scores between 0 and 1.
    low, high = min(row.score for row in rows), max(row.score for row in rows)
    scaled = low < 0 or high > 1
    score_from = f"score of {name}" + (f", scaled from {low:.6g}..{high:.6g} to 0..1" if scaled else "")
    # 3. An inspection a sample.
    inspections = []
    for row in rows:
        verdict, reason = _verdict(row, threshold, name)
        places: dict[str, Any] = {}
        if map_threshold is not None and row.sample_id in known_maps:
            image = (images or {}).get(row.sample_id, Path(row.sample_id))
            places = _locate(known_maps[row.sample_id], map_threshold, image)
        inspections.append(
            Inspection(
                sample_id=row.sample_id,
                verdict=verdict,
                score=_scaled(row.score, low, high) if scaled else row.score,
                score_from=score_from,
                reason=reason,
                counts={"score_scaled": 1} if scaled else {},
                **places,
            )
        )
    run = Fingerprint(
        model=name,
        revision=sha256_of_file(scores)[:12],
        family="detector",
        style="none",
        max_pixels=0,
        engine="scores",
        masks="none" if map_threshold is None else f"map from {map_threshold:g}",
        threshold="" if threshold is None else f"score from {threshold:g}",
    )
    records.write(out, run, inspections)
    return inspections


def save_anomalib(predictions: Iterable[Any], folder: Path) -> tuple[Path, Path | None]:
    """Write what anomalib's `Engine.predict` returns (batches) as `scores.csv` and, with maps, `maps.npz`.

    Reads `image_path`, `pred_score`, `pred_label` and `anomaly_map` of each batch; anomalib itself is not
    needed. Returns the paths of both files. Raises `InputError` that names the batch where one has no paths
    or scores, or not as many of each.
    """
    rows: list[tuple[str, float, str]] = []
    maps: dict[str, Map] = {}
    for number, batch in enumerate(predictions, start=1):
        paths = [Path(path).as_posix() for path in (getattr(batch, "image_path", None) or ())]
        scores, labels, batch_maps = (
            _array(getattr(batch, name, None)) for name in ("pred_score", "pred_label", "anomaly_map")
        )
        if not paths or scores is None or scores.size != len(paths):
            raise InputError(
                f"batch {number} of the predictions has {len(paths)} image paths and "
                f"{'none' if scores is None else scores.size} scores; expected one score an image"
            )
        verdicts = [""] * len(paths)
        if labels is not None:
            verdicts = ["defect" if label else "good" for label in labels.ravel()]
        rows += zip(paths, scores.ravel().tolist(), verdicts, strict=True)
        if batch_maps is not None:
            stacked = batch_maps.reshape(len(paths), *batch_maps.shape[-2:]).astype(np.float32)  # (B, H, W)
            maps.update(zip(paths, stacked, strict=True))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("sample_id", "score", "verdict"))
    table.writerows(rows)
    write_whole(folder / "scores.csv", text.getvalue().encode("utf-8", "surrogateescape"))
    if not maps:
        return folder / "scores.csv", None
    write_whole(folder / "maps.npz", _pack(maps))
    return folder / "scores.csv", folder / "maps.npz"


def _pack(maps: Mapping[str, Map]) -> bytes:
    """Maps as an NPZ file; numpy's own writer does not allow all names."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, scores in maps.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(scores))
    return packed.getvalue()


def _read_csv(path: Path) -> list[ScoreRow]:
    try:
        text = read_regular(path).decode("utf-8-sig", "surrogateescape")
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = table.fieldnames or ()
        if not {"sample_id", "score"} <= set(columns):
            raise InputError(
                f"{str(path)!r}: expected the columns sample_id and score, "
                f"got {shortened(', '.join(columns)) or 'none'}"
            )
        return [_score_row(row, f"line {table.line_num} of {str(path)!r}") for row in table]
    except csv.Error as error:
        raise InputError(
            f"the scores {str(path)!r} cannot be read ({error}); give a CSV file in UTF-8, or an NPZ file"
        ) from error


def _score_row(row: Mapping[str, str | None], where: str) -> ScoreRow:
    """A line of a CSV file; `where` names it in messages."""
    sample_id, verdict = row["sample_id"], (row.get("verdict") or "").strip().lower()
    if not sample_id:
        raise InputError(f"{where}, column sample_id: expected a name, got nothing")
    if verdict and verdict not in VERDICTS:
        raise InputError(
            f"{where}, column verdict: expected good, defect, unsure or nothing, got {verdict[:40]!r}"
        )
    return ScoreRow(sample_id, _number(row["score"], f"{where}, column score"), VERDICTS.get(verdict))


def _read_npz(path: Path) -> list[ScoreRow]:
    arrays = NpzFile(path)
    missing = [name for name in ("sample_ids", "scores") if name not in arrays.names]
    if missing:
        raise InputError(
            f"{str(path)!r} has no array {missing[0]!r}, "
            f"it has {shortened(', '.join(arrays.names)) or 'none'}"
        )
    ids, scores = arrays.read("sample_ids"), arrays.read("scores")
    if ids.ndim != 1 or ids.dtype.kind != "U":
        raise InputError(
            f"array 'sample_ids' of {str(path)!r} is {ids.dtype} of shape {ids.shape}, "
            "expected strings of shape (N,)"
        )
    if scores.shape != ids.shape or scores.dtype.kind not in "fiub":
        raise InputError(
            f"array 'scores' of {str(path)!r} is {scores.dtype} of shape {scores.shape}, "
            f"expected numbers of shape {ids.shape}"
        )
    return [
        ScoreRow(str(name), _number(score, f"row {number} of array 'scores' of {str(path)!r}"), None)
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


def _scaled(score: float, low: float, high: float) -> float:
    """A score between `low` and `high` as a share of the way; halves, since 1e308 - -1e308 is no number."""
    return (score / 2 - low / 2) / ((high / 2 - low / 2) or 1)


def _verdict(row: ScoreRow, threshold: float | None, name: str) -> tuple[Verdict, str]:
    """The verdict of a row, and why; `name` is the detector's."""
    if threshold is not None:
        if row.score >= threshold:
            return "defect", f"The score {row.score:.4g} reaches the threshold {threshold:g}."
        return "good", f"The score {row.score:.4g} is below the threshold {threshold:g}."
    if row.verdict is not None:
        return row.verdict, f"{name} says {row.verdict}."
    problem = "there is only a score: no threshold was given and the detector gave no verdict"
    return "unsure", unsure_because(problem)


def _locate(scores: Map, threshold: float, image: Path) -> dict[str, Any]:
    """Boxes and masks where a map, scaled to its image, reaches the threshold; largest first."""
    import cv2

    size_wh = open_image(image).size_wh
    marked = cv2.resize(scores, size_wh, interpolation=cv2.INTER_LINEAR) >= threshold  # (H, W)
    number, labels = cv2.connectedComponents(marked.astype(np.uint8), connectivity=8)
    spots = [labels == label for label in range(1, number)]
    large = [spot for spot in spots if spot.sum() >= LEAST_PIXELS]
    large.sort(key=lambda spot: -int(spot.sum()))
    return {
        "boxes": boxes.components(marked, LEAST_PIXELS),
        "masks": tuple(boxes.encode_mask(spot, "map") for spot in large),
    }


def _array(value: Any) -> NDArray[Any] | None:  # a tensor of whatever library made it
    if value is None:
        return None
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
