"""Files of one JSON object a line: appended to, read with each line's shape checked, a torn end known."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flowmap.errors import FlowmapError
from flowmap.files.folder import writing
from flowmap.files.texts import TextError, parse_json, shaped
from flowmap.files.whole import write_whole_file

_LOOKED_AT = 4096  # bytes at a time


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, without the last one if a kill has cut it off; none if there is no file.

    Raises FlowmapError if the file cannot be read.
    """
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}", code=1) from None


def cut_off(path: Path) -> str:
    """Say that the last line of a file is no whole one, and is left out by whoever reads lines; nothing if it is whole.

    Raises FlowmapError if the file cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            whole, size = _whole_and_all(file)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}", code=1) from None
    rest = size - whole
    return f"{path} ends within a line; its last {rest} bytes are left out" if rest else ""


def parsed(lines: Iterable[bytes], shape: type[BaseModel] | None = None) -> list[dict[str, Any]]:
    """The JSON objects of `lines`, as `shape` has them; raises TextError, naming the line, for any other."""
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_object(line) if shape is None else vars(shaped(line, shape)))
        except TextError as error:
            raise TextError(f"line {number}: damaged, {shortened(str(error))}") from None
    return found


def read_lines(path: Path, shape: type[BaseModel] | None = None) -> list[dict[str, Any]]:
    """The JSON objects of a lines file, as `shape` has them; a last line cut off by a kill is left out.

    Raises FlowmapError, naming the line, if another one is no JSON object, or not of that shape.
    """
    try:
        return parsed(whole_lines(path), shape)
    except TextError as error:
        raise FlowmapError(f"{path}, {error}; delete the line", code=1) from None


def _object(line: bytes) -> dict[str, Any]:
    found = parse_json(line)
    if not isinstance(found, dict):
        raise TextError("this is no JSON object")
    return found


def shortened(text: str) -> str:
    """At most 200 characters of `text`."""
    return text if len(text) <= 200 else f"{text[:197]}..."


def as_line(line: Mapping[str, Any]) -> bytes:
    """One JSON object as a line of a file. What is no finite number is a string: JSON has neither NaN nor infinity."""
    return (json.dumps(_in_json(line), allow_nan=False) + "\n").encode()


def _in_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _in_json(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_in_json(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def rewrite_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a lines file as a whole."""
    write_whole_file(path, lambda part: part.write_bytes(b"".join(map(as_line, lines))))


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append one JSON object to a file that is there, and hand it to the system at once: a killed process loses none.

    What a full disk has left of an earlier line is cut off first, or the two would be one.
    """
    # Opened anew for each line: a file that stays open would keep what a full disk refused, and fail again later.
    with writing(path), path.open("r+b", buffering=0) as file:
        _cut_off_torn(file)
        content = as_line(line)
        while content:
            content = content[file.write(content) :]


def _cut_off_torn(file: io.FileIO) -> None:
    """Leave a lines file at its end, which is that of a line."""
    whole, size = _whole_and_all(file)
    if whole < size:
        file.truncate(whole)
    file.seek(whole)


def _whole_and_all(file: io.FileIO) -> tuple[int, int]:
    """The bytes of a lines file that are whole lines, and all of them; only its end is read."""
    size = end = file.seek(0, os.SEEK_END)
    found = -1
    # The last byte alone is nearly always enough.
    span = 1
    while end and found < 0:
        start = max(0, end - span)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        end, span = start, _LOOKED_AT
    return end + found + 1, size
