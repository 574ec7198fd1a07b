"""Everything that is asked of this machine, in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

from flowmap.doctor import places, software
from flowmap.doctor.machine import Machine, machine
from flowmap.doctor.private import cleaned
from flowmap.doctor.readiness import Readiness, readiness
from flowmap.phases import phase
from flowmap.plugin.catalogue import catalogue

_OWN = "flowmap "


@final
@dataclass(frozen=True)
class Diagnosis:
    """What was found. `wrong` is what concerns every run; without it a machine is sound, whatever recipes miss."""

    wrong: tuple[str, ...]
    versions: dict[str, str]
    extras: dict[str, str]
    trackers: dict[str, str]
    machine: Machine
    places: tuple[places.Place, ...]
    plugins: tuple[software.Plugin, ...]
    recipes: tuple[Readiness, ...]

    def as_json(self) -> Any:
        """The same as JSON knows it, without what is nobody's business."""
        return cleaned(asdict(self))


def examine() -> Diagnosis:
    """Look at everything; takes seconds, most of them torch's import."""
    with phase("looking at devices"):
        found = machine()
    with phase("looking at plugins"):
        plugins = software.plugins(catalogue())
    own = [broken for plugin in plugins if plugin.distribution.startswith(_OWN) for broken in plugin.broken]
    damaged = [f"a part of flowmap itself cannot be loaded: {reason}; install it again" for reason in own]
    return Diagnosis(
        wrong=(*software.unmet(), *found.wrong, *damaged, *places.wrong()),
        versions=software.versions(),
        extras=software.extras(),
        trackers=software.trackers(),
        machine=found,
        places=places.places(),
        plugins=plugins,
        recipes=readiness(found.accelerated),
    )
