"""Which of the installed backbones knows given weights, whatever goes wrong in the others."""

from __future__ import annotations

from flowmap.errors import FlowmapError
from flowmap.plugin.catalogue import catalogue, reason
from flowmap.plugin.kinds import BackboneConfig


def claims_of(name: str) -> list[BackboneConfig]:
    """What the installed backbones that know the weights `name` would build them with."""
    return [said for said in _said(name).values() if isinstance(said, BackboneConfig)]


def asked_for(name: str) -> list[str]:
    """The backbones that are asked for the weights `name`, and which of them fail at that."""
    return [
        f"{backbone} (failed: {reason(said)})" if isinstance(said, Exception) else backbone
        for backbone, said in _said(name).items()
    ]


def _said(name: str) -> dict[str, BackboneConfig | Exception | None]:
    said: dict[str, BackboneConfig | Exception | None] = {}
    for component in catalogue().components:
        if issubclass(component.config, BackboneConfig):
            try:
                said[component.name] = component.config.of_weights(name)
            except FlowmapError:
                raise
            except Exception as error:  # a stranger's may fail on weights that others know well
                said[component.name] = error
    return said
