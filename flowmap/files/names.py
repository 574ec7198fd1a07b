"""Names that people and files have: `~` in paths, and names in any encoding. Torch-free."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """`path` with the home folder in the place of `~` or `~user`; as it stands if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def printable(name: bytes | str) -> str:
    """A file's `name` as Unicode that any line can show.

    What is no UTF-8, and characters that have no place on a line, are escaped by a backslash.
    """
    text = (name if isinstance(name, bytes) else os.fsencode(name)).decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    shown = (c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in text)
    return "".join(shown)
