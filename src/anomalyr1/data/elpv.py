"""ELPV, real solar cells, from its pip package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pydantic import Field

from anomalyr1.data import readers as manifests
from anomalyr1.data import rows as labelled
from anomalyr1.data.rows import Collector, Row
from anomalyr1.data.samples import Samples
from anomalyr1.types import InputError, SetupError

_CELLS = {"mono": "monocrystalline solar cell", "poly": "polycrystalline solar cell"}


class ElpvOptions(labelled.Options):
    """What ELPV can be asked for."""

    threshold: float | None = Field(default=None, gt=0, le=1)
    """A cell is defective from this probability; None = only 0 (good) and 1 (defective) are known, what lies
    between is unknown."""


def elpv(spec: str, path: Path, options: ElpvOptions) -> Samples:
    """ELPV (Deitsch et al.): 2,624 electroluminescence images of solar cells, each with a probability that it is defective; no masks.

    Raises `SetupError` when the package is not installed.
    """
    if path != Path():
        raise InputError(f"{spec!r}: elpv takes no path, it is the installed package; write it as 'elpv'")
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or not found.submodule_search_locations:
        raise SetupError("the package of the ELPV data set is not installed; run `pip install elpv-dataset`")
    root = Path(next(iter(found.submodule_search_locations))) / "data"
    into = Collector(spec, "ELPV", root, root / "labels.csv", options)
    for number, line in enumerate(manifests.text(root / "labels.csv").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 3 or fields[2] not in _CELLS:
            raise InputError(
                f"line {number} of {str(root / 'labels.csv')!r}: expected image, probability and mono or poly; install it again"
            )
        image, probability = fields[0], float(fields[1])
        into.door.check(image)
        row: Row = {"id": f"ELPV/{image}", "image": image, "category": _CELLS[fields[2]]}
        row["anomalous"] = _verdict(probability, options.threshold)
        into.notes["cells of unsure verdict"] += row["anomalous"] is None
        into.add(row)
    return into.done("the images of the package")


def _verdict(probability: float, threshold: float | None) -> bool | None:
    if threshold is not None:
        return probability >= threshold
    return {0.0: False, 1.0: True}.get(probability)
