"""TOML files that flowmap writes for itself: their head has a digest, so that a change since then is found."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from flowmap.files.texts import TextError, parse_toml, read_text

_SEAL = re.compile(r"# SHA-256 of what follows: ([^\n]*)\n")


def write_sealed(path: Path, about: str, tables: Mapping[str, Any]) -> None:
    """Write `tables` into `path`, below a comment that says what it is `about`, and the digest."""
    from flowmap.files.whole import write_whole  # the one slow import here

    text = tomli_w.dumps(tables)
    write_whole(path, f"# Written by flowmap: {about}\n# SHA-256 of what follows: {_digest(text)}\n{text}")


def read_sealed(path: Path) -> dict[str, Any]:
    """The tables in `path`; raises OSError if it cannot be read, and TextError as `parse_sealed` does."""
    return parse_sealed(read_text(path))


def parse_sealed(text: str) -> dict[str, Any]:
    """The tables of such a file's text, which is held against its digest; older versions wrote none.

    Raises TextError if it is no TOML, or was changed after it was written.
    """
    seal = _SEAL.search(text)
    if seal and seal[1] != _digest(text[seal.end() :]):
        raise TextError("was changed after it was written: it does not match its digest")
    try:
        return parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise TextError(f"is no TOML: {error}") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
