"""ELPV, real solar cells, from its pip package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pydantic import Field

from anomalyr1.data.readers import read_text
from anomalyr1.data.rows import Collector, LabelledRow, LoadOptions
from anomalyr1.data.samples import Samples
from anomalyr1.types import InputError, SetupError

_CELLS = {"mono": "monocrystalline solar cell", "poly": "polycrystalline solar cell"}


class ElpvOptions(LoadOptions):
    """What ELPV can be asked for."""

    threshold: float | None = Field(default=None, gt=0, le=1)
    """A cell is defective from this probability; None = only 0 (good) and 1 (defective) are known, what lies
    between is unknown."""


def elpv(spec: str, path: Path, options: ElpvOptions) -> Samples:
    """ELPV (Deitsch et al.): 2,624 electroluminescence images of solar cells, without masks.

    Each has a probability that the cell is defective. Raises `SetupError` when the package is not installed,
    `InputError` for a path in the spec and for a damaged package.
    """
    if path != Path():
        raise InputError(f"{spec!r}: elpv takes no path, it is the installed package; write it as 'elpv'")
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or not package.submodule_search_locations:
        raise SetupError("the package of the ELPV data set is not installed; run `pip install elpv-dataset`")
    root = Path(next(iter(package.submodule_search_locations))) / "data"
    table = root / "labels.csv"
    collector = Collector(spec, "ELPV", root, table, options)
    for number, line in enumerate(read_text(table).splitlines(), start=1):
        fields = line.split()
        if len(fields) != 3 or fields[2] not in _CELLS:
            raise InputError(
                f"line {number} of {str(table)!r}: expected image, probability and mono or poly; "
                "install it again"
            )
        image, probability, cell = fields
        collector.door.check(image)
        row: LabelledRow = {"id": f"ELPV/{image}", "image": image, "category": _CELLS[cell]}
        row["anomalous"] = _verdict(float(probability), options.threshold)
        collector.notes["cells of unsure verdict"] += row["anomalous"] is None
        collector.add(row)
    return collector.samples("the images of the package")


def _verdict(probability: float, threshold: float | None) -> bool | None:
    """Whether a cell is defective; None = unknown."""
    if threshold is not None:
        return probability >= threshold
    return {0.0: False, 1.0: True}.get(probability)
