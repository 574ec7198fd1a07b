"""The version of the plugin interface, and which one a plugin was written for: the group of its entry point says it.

The group is in a distribution's metadata, so a plugin for another interface is refused before any of its code runs.
"""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, EntryPoints
from typing import Final, Protocol

from flowmap.version import __version__

INTERFACE: Final = "1.0"
"""MAJOR.MINOR of the plugin interface: a plugin written for a lower MINOR of the same MAJOR works unchanged."""

GROUP: Final = "flowmap"
"""The entry-point group of plugins that do not say which interface they were written for."""

VERSIONED: Final = f"{GROUP}.{INTERFACE}"
"""The entry-point group of plugins that were written for this interface."""

_GROUP = re.compile(rf"{GROUP}\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_HERE = tuple(int(part) for part in INTERFACE.split("."))


def written_for(group: str) -> tuple[int, int] | None:
    """The interface that the entry-point group `group` names; None if it names none."""
    match = _GROUP.fullmatch(group)
    return (int(match[1]), int(match[2])) if match else None


def refusal(group: str, distribution: str) -> str:
    """Why a plugin whose entry point is in `group` does not fit this flowmap, and what to do; empty if it fits."""
    if group == GROUP:
        return ""
    asked = written_for(group)
    if asked is None:
        return f"its entry point is in the group '{group}', which is no version of the plugin interface: '{VERSIONED}'"
    if asked[0] == _HERE[0] and asked[1] <= _HERE[1]:
        return ""
    package = distribution.split(" ", maxsplit=1)[0]
    told = f"it was written for version {asked[0]}.{asked[1]} of the plugin interface, and flowmap {__version__} has "
    if asked > _HERE:
        return f"{told}{INTERFACE}; upgrade flowmap: pip install -U flowmap"
    return f"{told}{INTERFACE}; upgrade the plugin: pip install -U {package}"


class Points(Protocol):
    """What `importlib.metadata.entry_points()` returns, another class in Python 3.11 than later."""

    @property
    def groups(self) -> set[str]:
        """The names of all groups."""

    def select(self, *, group: str) -> EntryPoints:
        """The entry points in `group`."""


def plugins(everything: Points) -> list[EntryPoint]:
    """The entry points of all plugins among `everything`, by name: one of each, for the best interface that it names.

    A distribution may have the same name in several groups, one for each interface that it works with.
    """
    groups = sorted(group for group in everything.groups if group == GROUP or group.startswith(f"{GROUP}."))
    found: dict[tuple[str, int], EntryPoint] = {}
    for point in (point for group in groups for point in everything.select(group=group)):
        key = (point.name, id(point.dist))  # metadata of strangers may be damaged, and parsing them takes time
        if key not in found or _fitness(point.group) > _fitness(found[key].group):
            found[key] = point
    return sorted(found.values(), key=lambda point: point.name)


def _fitness(group: str) -> tuple[bool, tuple[int, int]]:
    return not refusal(group, ""), written_for(group) or (-1, -1)
