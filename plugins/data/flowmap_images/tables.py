"""Tables of what pictures show, metadata.jsonl and metadata.csv, as in Hugging Face's `imagefolder`. Torch-free."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flowmap.shards.entries import LARGEST_ABOUT, cannot_read

FILE = "file_name"


class Row(NamedTuple):
    """A line: where it stands, which file it names, and all that it says, as JSON; or what is wrong with it."""

    where: str
    file: str = ""
    content: bytes = b""
    problem: str = ""


def rows(table: Path) -> Iterator[Row]:
    """The lines of a table, one after the other. Raises FlowmapError if it cannot be read."""
    try:
        yield from _of_csv(table) if table.suffix == ".csv" else _of_json(table)
    except OSError as error:
        raise cannot_read(table, error) from None


def _of_json(table: Path) -> Iterator[Row]:
    with table.open("rb") as file:
        number = 0
        while line := file.readline(LARGEST_ABOUT + 1):
            number += 1
            where = f"line {number}"
            if len(line) > LARGEST_ABOUT:
                yield Row(where, problem=f"{where} has more than {LARGEST_ABOUT} bytes; what follows is not read")
                return
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _row(where, line)


def _row(where: str, line: bytes) -> Row:
    try:
        said = json.loads(line.decode())
    except UnicodeDecodeError:
        return Row(where, problem=f"{where} is no UTF-8")
    except (ValueError, RecursionError):
        return Row(where, problem=f"{where} is no JSON")
    name = said.get(FILE) if isinstance(said, dict) else None
    if not isinstance(name, str) or not name or "\0" in name:
        return Row(where, problem=f"{where} has no '{FILE}' that names a picture")
    return Row(where, name, line)


def _of_csv(table: Path) -> Iterator[Row]:
    where = "its first line"
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            if FILE not in (lines.fieldnames or ()):
                yield Row(where, problem=f"{where} has no '{FILE}', the column that names pictures")
                return
            for said in lines:
                where = f"line {lines.line_num}"
                known = {key: value for key, value in said.items() if isinstance(key, str) and isinstance(value, str)}
                if len(known) < len(said):
                    yield Row(where, problem=f"{where} has not as many columns as the first one")
                else:
                    yield _row(where, json.dumps(known).encode())
    except UnicodeDecodeError:
        yield Row(where, problem=f"behind {where} it is no UTF-8; what follows is not read")
    except csv.Error as error:
        yield Row(where, problem=f"behind {where} it is no CSV ({error}); what follows is not read")
