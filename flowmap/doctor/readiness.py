"""What each recipe that flowmap brings would miss on this machine. Torch-free, and quick: nothing is opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flowmap.comparison.unfold import read_comparison
from flowmap.errors import FlowmapError
from flowmap.phases import phase
from flowmap.plugin.kinds import ArchiveConfig
from flowmap.recipe.read import is_comparison, read
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.shipped import shipped

GPU = "a GPU"


@final
@dataclass(frozen=True)
class Readiness:
    """What the recipe `name` misses: fields and what they name, or GPU. `wrong` is why it cannot be read.

    `encoded` are the folders of encoded data that it names and that are here.
    """

    name: str
    misses: tuple[str, ...] = ()
    encoded: tuple[str, ...] = ()
    wrong: str | None = None


def readiness(accelerated: bool) -> tuple[Readiness, ...]:
    """What each recipe misses, on a machine that is `accelerated` or not."""
    found = []
    for name in shipped():
        with phase(f"looking at {name}"):
            try:
                found.append(_of(name, _recipes(Path(name)), accelerated))
            except FlowmapError as error:
                found.append(Readiness(name, wrong=str(error).splitlines()[0]))
    return tuple(found)


def _recipes(path: Path) -> list[Recipe]:
    """The recipe at `path`, or those of a comparison's contestants."""
    if is_comparison(path):
        return [entrant.recipe for entrant in read_comparison([path])[0].entrants]
    return [read(path)[0]]


def _of(name: str, recipes: Iterable[Recipe], accelerated: bool) -> Readiness:
    misses: dict[str, None] = {}
    encoded: dict[str, None] = {}
    for recipe in recipes:
        tables = recipe.as_tables()
        for finding in recipe.missing():
            misses[f"{'.'.join(map(str, finding.field))}{_value(tables, finding.field)}"] = None
        if not accelerated and not recipe.backbone.random_base and recipe.compute.device == "auto":
            # Pretrained weights are trained on a CPU by nobody: they are refused nowhere, and take years.
            misses[GPU] = None
        if isinstance(recipe.data, ArchiveConfig) and (folder := recipe.data.encoded_in()):
            encoded[str(folder)] = None
    return Readiness(name, tuple(misses), tuple(encoded))


def _value(tables: object, field: tuple[str | int, ...]) -> str:
    """What stands at `field`, as the end of a text; nothing if it is no single word."""
    for part in field:
        try:
            tables = tables[part]  # type: ignore[index]
        except (LookupError, TypeError):
            return ""
    return f" = {tables}" if isinstance(tables, str) else ""
