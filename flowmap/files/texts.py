"""TOML and JSON that anybody may have written: parsed, or refused in a sentence whatever is in them. Torch-free."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flowmap.errors import FlowmapError

MOST_BYTES = 1_000_000
"""Of a recipe, a lock, a manifest: what is written by hand has a few thousand, and a parser takes seconds for more."""

MOST_RECORD = 100_000_000
"""Of what flowmap itself has written about a comparison, which holds a recipe for each contestant."""

MOST_DEPTH = 64
"""Tables and arrays within one another: no field of any recipe is deeper than ten, and deep ones exhaust the stack."""

_TOO_DEEP = f"has more than {MOST_DEPTH} tables or arrays within one another"

_PART = r"(?:[\w-]+|\"[^\"\n]*\"|'[^'\n]*')"
# A parser of TOML takes time in the square of a key's parts, so they are counted before it sees them.
_LONG_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*{_PART}(?:[ \t]*\.[ \t]*{_PART}){{{MOST_DEPTH}}}", re.MULTILINE)

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class TextError(ValueError):
    """What is wrong with a text, as a sentence without a subject: "is not UTF-8 (byte 7)"."""


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The UTF-8 text of the file at `path`, of at most so many bytes.

    Raises OSError if it cannot be read, and TextError for anything that is no such text.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"is not UTF-8 text (byte {error.start + 1})") from None


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """What is in the file at `path`; raises OSError, and TextError if it is more than `most` bytes."""
    with path.open("rb") as file:
        # A device or a pipe has no size that could be asked for.
        content = file.read(most + 1)
    if len(content) > most:
        raise TextError(f"has more than {most:,} bytes")
    return content


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises tomllib.TOMLDecodeError if it is none, and TextError for what TOML allows and no recipe has: more than
    `MOST_BYTES` or `MOST_DEPTH` levels.
    """
    if len(text) > MOST_BYTES:
        raise TextError(f"has more than {MOST_BYTES:,} characters")
    if _LONG_KEY.search(text):
        raise TextError(_TOO_DEEP)
    try:
        found: dict[str, Any] = _shallow(tomllib.loads, text)
    except (tomllib.TOMLDecodeError, TextError):
        raise
    except ValueError as error:  # of Python's limit on the digits of an integer, or of a date that does not exist
        raise TextError(f"has a value that cannot be read ({error})") from None
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of the TOML file at `path`; raises OSError, and TextError (or its kin) for what is no such file."""
    try:
        return parse_toml(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise TextError(f"is no TOML: {error}") from None


def parse_json(content: str | bytes) -> Any:
    """What a JSON text says; raises TextError if it is none, or is nested too deeply."""
    try:
        return _shallow(json.loads, content)
    except TextError:
        raise
    except ValueError as error:  # what is no JSON, no UTF-8, or a number of thousands of digits
        raise TextError(f"is no JSON: {error}") from None


def digest(value: object) -> str:
    """Twelve hexadecimal digits that name `value`, which is anything that JSON can say: equal ones have the same."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=6).hexdigest()


def shaped(content: bytes, shape: type[M]) -> M:
    """What a JSON text says, as `shape` has it; raises TextError, naming the field, if it is of another shape."""
    try:
        return shape.model_validate_json(content)
    except ValidationError as error:
        raise TextError(misfit(error)) from None


def misfit(error: ValidationError) -> str:
    """The first thing that is wrong, as a sentence: "'nfe': field required"."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    message = re.sub(r" or instance of \w+", "", f"{first['msg'][:1].lower()}{first['msg'][1:]}")
    return f"'{field}': {message}" if field else message


def home(path: Path) -> Path:
    """`path` with `~` at its beginning for the home folder; raises FlowmapError if no such home is known."""
    if not str(path).startswith("~"):
        return path
    try:
        return path.expanduser()
    except RuntimeError:
        raise FlowmapError(f"{path}: no home folder is known for '{path.parts[0]}'; write the path in full") from None


def home_in(where: str) -> str:
    """`where`, a path or something else such as a hub id, with `~` at its beginning for the home folder."""
    return str(home(Path(where))) if where.startswith("~") else where


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there; no, for what can be no path: a name too long, a character that none has."""
    return os.path.isdir(path)  # Path.is_dir raises for some of them


def is_file(path: str | Path) -> bool:
    """Whether a file is there; no, for what can be no path."""
    return os.path.isfile(path)


def _shallow(parse: Callable[[T], Any], content: T) -> Any:
    """What `parse` makes of `content`; raises TextError if that is deeper than `MOST_DEPTH`."""
    try:
        found = parse(content)
    except RecursionError:
        raise TextError(_TOO_DEEP) from None
    level: list[Any] = [[found]]
    for _ in range(MOST_DEPTH + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return found
    raise TextError(_TOO_DEEP)


def _children(value: Any) -> Iterator[Any]:
    children = value.values() if isinstance(value, Mapping) else value
    for child in children:
        if isinstance(child, Mapping | list):
            yield child
