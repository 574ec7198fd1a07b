"""The plugins of a copy of the tree that nobody has installed: their entry points, where Python looks for them."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TREE = Path(__file__).parents[2]
_PLUGINS = ("backbones", "data", "metrics", "objectives", "samplers")


def paths(scratch: Path) -> list[str]:
    """What PYTHONPATH needs for the tree to work as if it were installed; what has to be written is in `scratch`."""
    found = [str(TREE), *(str(TREE / "plugins" / kind) for kind in _PLUGINS)]
    try:
        version("flowmap")
    except PackageNotFoundError:
        return [*found, str(_registered(scratch))]
    return found


def _registered(scratch: Path) -> Path:
    """A folder with the metadata that an installation would write."""
    points = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    folder = scratch / "flowmap-0.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: flowmap\nVersion: 0\n", encoding="utf-8")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in those.items()) for group, those in points.items()]
    (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return scratch
