"""`~` in the paths that people write into recipes and commands. Torch-free."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """`path` with the home folder in the place of `~` or `~user`; as it stands if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
