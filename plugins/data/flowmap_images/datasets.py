"""A dataset that the `datasets` library saved to disk: Arrow files, whose rows are read where they lie."""

from __future__ import annotations

import bisect
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import pyarrow as pa

from flowmap.errors import ClipError, FlowmapError
from flowmap.shards.entries import ABOUT, Entry, Part, cannot_read, replaced
from flowmap.shards.faults import Faults
from flowmap_images.configs import ImagesConfig
from flowmap_images.forms import PICTURES, data_files, description

Stamp = tuple[int, int]
"""Size and time of a file, by which another one in its place is noticed."""

_ANY = PICTURES[0]  # what a picture is called here; its bytes say what it is


@final
class Rows(Part):
    """The rows of an Arrow file; a place is `(row, column, whether it has the picture)`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, f"{path.stem}.tar")
        self._stamp = _stamp(path)

    def table(self) -> _Table:
        """What the file has. Raises FlowmapError if it is another one than it was."""
        # Not only for its numbers: who reads what is cut off of a mapped file is killed.
        if _stamp(self.path) != self._stamp:
            raise replaced(self.path)
        return _table(self.path, self._stamp)

    def read(self, place: tuple[int, str, bool]) -> bytes:
        """See Part.read."""
        row, column, picture = place
        found = self.table().value(row, column)
        if not picture:
            return json.dumps({column: found}).encode()
        content = found.get("bytes") if isinstance(found, dict) else found
        if not content:
            named = isinstance(found, dict) and found.get("path")
            raise ClipError("its bytes are not in the dataset, only a path" if named else "it has no picture (null)")
        return bytes(content)


@final
class _Table:
    """The batches of an Arrow file, which stay on disk; those in front of damage, which `problem` names."""

    def __init__(self, path: Path) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._ends: list[int] = []
        self.problem = ""
        try:
            with pa.ipc.open_stream(pa.memory_map(str(path))) as reader:
                self.columns = tuple(reader.schema.names)
                for batch in reader:
                    batch.validate()
                    self._batches.append(batch)
                    self._ends.append(len(self) + batch.num_rows)
        except OSError as error:
            if error.strerror:
                raise cannot_read(path, error) from None
            self.problem = f"it is cut off or damaged ({error}); what comes before is used"
        except pa.ArrowException as error:
            self.problem = f"it is cut off or damaged ({error}); what comes before is used"

    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def value(self, row: int, column: str) -> Any:
        number = bisect.bisect_right(self._ends, row)
        batch = self._batches[number]
        return batch.column(batch.schema.get_field_index(column))[row - self._ends[number] + batch.num_rows].as_py()


@lru_cache(maxsize=4096)
def _table(path: Path, stamp: Stamp) -> _Table:
    """Opened once for each process and those that it forks: nothing of it is held in memory but where things are."""
    return _Table(path)


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise cannot_read(path, error) from None
    return found.st_size, found.st_mtime_ns


def listed_dataset(config: ImagesConfig, faults: Faults) -> list[Entry]:
    """The samples of a saved dataset, by file and row. Raises FlowmapError if it lacks a column that is wanted."""
    wanted = {"caption": config.caption, "class": config.label, "none": None}[config.condition]
    _refuse_columns(config, wanted)
    entries: list[Entry] = []
    for file in data_files(config.path):
        part = Rows(file)
        table = part.table()
        if table.problem:
            faults.add(str(file), "", table.problem)
        if absent := [name for name in (config.image, wanted) if name and len(table) and name not in table.columns]:
            raise FlowmapError(f"{file}: has no column '{absent[0]}', which the dataset says that it has")
        for row in range(len(table)):
            members: dict[str, Any] = {_ANY: (row, config.image, True)}
            if wanted is not None:
                members[ABOUT] = (row, wanted, False)
            entries.append(Entry(part, f"{file.stem}/{row:08d}", members))
    if not entries:
        raise FlowmapError(f"data: {config.path}: the dataset has no rows. {faults.listed()}".rstrip())
    return entries


def _refuse_columns(config: ImagesConfig, wanted: str | None) -> None:
    columns = description(config.path)
    fields = {"image": config.image, "caption": config.caption, "label": config.label}
    for field, name in fields.items():
        if name not in (config.image, wanted) or name in columns:
            continue
        pictures = [column for column, kind in columns.items() if kind.get("_type") == "Image"]
        fitting = [column for column in columns if (column in pictures) == (field == "image")]
        raise FlowmapError(
            f"data.{field}: the dataset {config.path} has no column '{name}'; it has {', '.join(columns)}"
            + (f". Did you mean '{fitting[0]}'?" if len(fitting) == 1 else "")
        )
    column = columns[config.image]
    if column.get("_type") != "Image" and column.get("dtype") != "binary":
        what = column.get("dtype", column.get("_type"))
        raise FlowmapError(f"data.image: the column '{config.image}' of {config.path} has no pictures, but {what}")
