"""The rows of VBench that lie in the folder of a run or of a comparison, for their pages. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flowmap.vbench.dimensions import I2V, T2V
from flowmap.vbench.record import RECORD, Record, Row, read_record

FOLDER = "vbench"
"""Where `flowmap vbench` puts the row of a run, below it."""

_PLACES = (".", FOLDER, f"*/{FOLDER}", f"*/seed-*/{FOLDER}")


@final
@dataclass(frozen=True)
class Board:
    """The rows of one benchmark, by whose they are, and its dimensions that any of them has."""

    name: str
    records: Mapping[str, Record]
    dimensions: tuple[str, ...]

    def cell(self, label: str, dimension: str) -> Row | None:
        """The score of one, if it has it."""
        return self.records[label].rows.get(dimension)


def boards(folder: Path) -> list[Board]:
    """The rows in `folder`, by benchmark. Raises FlowmapError for a record that cannot be read."""
    found: dict[str, Record] = {}
    for pattern in _PLACES:
        for path in sorted(folder.glob(f"{pattern}/{RECORD}")):
            record = read_record(path.parent)
            if record is not None:
                owner = path.parent.parent if path.parent.name == FOLDER else path.parent
                found[str(owner.relative_to(folder)) if owner != folder else folder.resolve().name] = record
    made = []
    for suite in (T2V, I2V):
        records = {label: record for label, record in found.items() if record.suite == suite.name}
        if records:
            scored = [name for name in suite.dimensions if any(name in record.rows for record in records.values())]
            made.append(Board(suite.name, records, tuple(scored)))
    return made
