"""The entry points of all that is installed, and whose they are. Metadata of strangers may be damaged in any way."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import Distribution, EntryPoint, EntryPoints, distributions, entry_points
from traceback import walk_tb

from flowmap.plugin.version import Points
from flowmap.schema.words import shown


def everything() -> tuple[Points, dict[str, Exception]]:
    """All entry points that can be read; and of which distributions they cannot be, with what went wrong."""
    try:
        return entry_points(), {}
    except Exception:  # which may come out of any of the distributions
        return _one_by_one()


def damage(error: BaseException) -> str:
    """What to do where `error` comes of entry points that cannot be read, which torch and pydantic ask for, too."""
    if all(frame.f_globals.get("__name__") != entry_points.__module__ for frame, _ in walk_tb(error.__traceback__)):
        return ""
    return "; ".join(f"{who} is damaged: {unreadable(why)}; uninstall it" for who, why in everything()[1].items())


def unreadable(why: Exception) -> str:
    """That an entry_points.txt cannot be read."""
    return f"its entry_points.txt cannot be read, and torch and pydantic read those of all packages: {shown(str(why))}"


def _one_by_one() -> tuple[Points, dict[str, Exception]]:
    found: list[EntryPoint] = []
    damaged: dict[str, Exception] = {}
    seen = set()
    for distribution in distributions():
        who = _named_safely(distribution)
        name = re.sub(r"[-_.]+", "-", who.split(" ")[0]).lower()
        if name in seen:
            continue  # what is first on the path hides others of the same name
        seen.add(name)
        try:
            found += distribution.entry_points
        except Exception as error:
            damaged[who] = error
    return EntryPoints(found), damaged


def owner(point: EntryPoint) -> str:
    """The distribution that a plugin comes from: its name and version."""
    return "an unknown distribution" if point.dist is None else _named_safely(point.dist)


def _named_safely(distribution: Distribution) -> str:
    try:
        return _named(distribution)
    except Exception:
        return "a distribution whose metadata are damaged"


@cache
def _named(distribution: Distribution) -> str:
    """Its name and version: its metadata, README and all, are parsed whenever they are asked for."""
    told = distribution.metadata
    return shown(f"{told['Name']} {told['Version']}")
