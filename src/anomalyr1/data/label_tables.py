"""A CSV table of images and labels, as every plant has one: any usual separator, words for good and bad."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from anomalyr1.data.rows import Collector, LabelledRow, LoadOptions
from anomalyr1.data.samples import Samples
from anomalyr1.files import read_text
from anomalyr1.types import InputError, quoted, shortened

GOOD = frozenset(("good", "ok", "okay", "normal", "gut", "io", "i.o.", "pass", "passed", "0", "false"))
"""Words for a good part, in lower case."""
BAD = frozenset(
    ("bad", "defect", "defective", "anomalous", "anomaly", "ng", "nok", "schlecht", "nio", "n.i.o.", "fail",
     "failed", "reject", "1", "true")
)  # fmt: skip
"""Words for a defective part, in lower case."""
NAMES = ("image", "filename", "file", "path", "sample_id")
LABELS = ("label", "verdict", "anomaly", "class")
_SEPARATORS = (",", ";", "\t")
_EXPECTED = f"a column of images ({', '.join(NAMES)}) and one of labels ({', '.join(LABELS)})"


class TableOptions(LoadOptions):
    """What a table can be asked for."""

    root: Path | None = None
    """Where the paths of images start; None = the folder of the table."""


class LabelLine(NamedTuple):
    """A row of a table."""

    number: int
    """The number of its line."""
    name: str
    """The image's path, or the sample's id."""
    anomalous: bool | None
    """What the label says; None = it is empty."""
    defect: str
    """The sort of defect, from the column `defect`; empty where there is none."""


def load(spec: str, path: Path, options: TableOptions) -> Samples:
    """The samples of a table. Raises `InputError` as `read_label_table` does, and for refused paths."""
    root = options.root if options.root is not None else path.parent
    collector = Collector(spec, path.stem, root, path, options)
    for line in read_label_table(path):
        collector.notes["backslashes in paths, read as slashes"] += "\\" in line.name
        image = line.name.replace("\\", "/")
        collector.door.check(image)
        row: LabelledRow = {"id": image, "image": image, "category": collector.category}
        row["anomalous"] = line.anomalous
        row["defects"] = [line.defect] if line.anomalous and line.defect else []
        collector.notes["images without a label"] += line.anomalous is None
        collector.add(row)
    return collector.samples(f"rows below {_EXPECTED}", unmarked_verdict_only=True)


def read_label_table(path: str | Path) -> list[LabelLine]:
    """The rows of a CSV file in UTF-8 with a header; commas, semicolons or tabs separate.

    Excel's line `sep=;` and byte order mark are passed over. Raises `InputError` for columns that are missing
    or not clear, a label that is neither in `GOOD` nor in `BAD` (all of them are named), a second label of
    one image, and a file that is no such table.
    """
    where = repr(str(path))
    lines: list[LabelLine] = []
    unknown: dict[str, int] = {}  # label -> number of the line where it stands first
    seen: set[str] = set()
    try:
        for number, name, label, defect in _cells(read_text(path), where):
            if name in seen:
                raise InputError(
                    f"line {number} of {where}: {quoted(name)} has a label already; delete one of the two"
                )
            seen.add(name)
            word = label.casefold()
            if word and word not in GOOD | BAD:
                unknown.setdefault(label, number)
            lines.append(LabelLine(number, name, word in BAD if word else None, defect))
    except csv.Error as error:
        raise InputError(f"{where} is no CSV table ({error}); save it again as CSV in UTF-8") from error
    if unknown:
        words = ", ".join(f"{label[:40]!r} (line {number})" for label, number in list(unknown.items())[:10])
        raise InputError(
            f"{where}: {len(unknown)} labels say neither good nor defect: {words}; write "
            f"{', '.join(sorted(GOOD))} or {', '.join(sorted(BAD))}"
        )
    return lines


def _cells(text: str, where: str) -> Iterator[tuple[int, str, str, str]]:
    """Number, name, label and sort of defect of each row."""
    # 1. What separates: as the first line says, else what stands most often in the header.
    header_at = 1
    first_line, _, following = text.partition("\n")
    if first_line.casefold().startswith("sep="):
        separator = first_line.rstrip("\r")[4:5] or ","
        text, header_at = following, 2
    else:
        separator = max(_SEPARATORS, key=first_line.count)
    # 2. Which columns they are.
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header = [cell.strip().casefold() for cell in next(rows, [])]
    places = []
    for names in (NAMES, LABELS):
        columns = [place for place, cell in enumerate(header) if cell in names]
        if len(columns) != 1:
            raise InputError(
                f"{where}: expected {_EXPECTED}, each once, got {shortened(', '.join(header) or 'none', 200)}"
            )
        places += columns
    defect_place = header.index("defect") if header.count("defect") == 1 else None
    # 3. What they say.
    for row in rows:
        number = rows.line_num + header_at - 1
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise InputError(
                f"line {number} of {where} has {len(row)} cells, its header {len(header)}; mend the line"
            )
        name, label = (row[place].strip() for place in places)
        yield number, name, label, "" if defect_place is None else row[defect_place].strip()
