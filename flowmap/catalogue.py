"""What is installed: every component of every plugin, found through entry points and one pluggy hook."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

import pluggy

from flowmap import hookspecs
from flowmap.configs import (
    NAME,
    BackboneConfig,
    ComponentConfig,
    DataConfig,
    MetricConfig,
    ObjectiveConfig,
    SamplerConfig,
    unknown_word,
)

BASES: tuple[type[ComponentConfig], ...] = (
    BackboneConfig,
    DataConfig,
    ObjectiveConfig,
    SamplerConfig,
    MetricConfig,
)
KINDS: dict[str, type[ComponentConfig]] = {base.kind: base for base in BASES}

C = TypeVar("C", bound=ComponentConfig)


@dataclass(frozen=True)
class Component:
    """One registered configuration class and where it comes from."""

    kind: str
    name: str
    config: type[ComponentConfig]
    distribution: str
    summary: str


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that could not be loaded, or that registered something that is no component."""

    entry_point: str
    distribution: str
    reason: str


class Catalogue:
    """All components by kind and name, the plugins that failed to load, and the names claimed twice."""

    def __init__(self, components: list[Component], broken: list[BrokenPlugin]) -> None:
        self.components = sorted(components, key=lambda c: (list(KINDS).index(c.kind), c.name, c.distribution))
        self.broken = broken

    def names(self, kind: str) -> list[str]:
        """The names registered for `kind`, sorted, each once."""
        return sorted({c.name for c in self.components if c.kind == kind})

    def claims(self, kind: str, name: str) -> list[Component]:
        """Every component registered under `kind` and `name`: one, none, or too many."""
        return [c for c in self.components if c.kind == kind and c.name == name]

    def find(self, kind: str, name: str) -> type[ComponentConfig]:
        """The configuration class of `kind` called `name`.

        Raises LookupError, with a sentence for the user, if there is none or more than one.
        """
        claims = self.claims(kind, name)
        if len(claims) == 1:
            return claims[0].config
        if claims:
            owners = " and ".join(c.distribution for c in claims)
            raise LookupError(f"{kind} '{name}' is registered by {owners}; uninstall one of them")
        text = unknown_word(kind, name, self.names(kind))
        if self.broken:
            lost = "; ".join(f"{b.entry_point} from {b.distribution}: {b.reason}" for b in self.broken)
            text += f" (plugins that could not be loaded and may provide it: {lost})"
        raise LookupError(text)


def load(points: list[EntryPoint]) -> Catalogue:
    """Load `points` one by one; whatever goes wrong in one of them is recorded and hurts no other."""
    components: list[Component] = []
    broken: list[BrokenPlugin] = []
    for point in points:
        owner = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
        # One manager per plugin: a hook call then says whose components they are.
        manager = pluggy.PluginManager(hookspecs.GROUP)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(point.load(), name=point.name)
            manager.check_pending()
            returned = manager.hook.flowmap_components()
            if not returned:
                raise TypeError("it implements no hook 'flowmap_components' (is the function marked @hookimpl?)")
            components += [_component(config, owner) for configs in returned for config in configs]
        except Exception as error:  # a stranger's code may raise anything at import
            reason = " ".join(str(error).split())
            broken.append(BrokenPlugin(point.name, owner, f"{type(error).__name__}: {reason}"))
    return Catalogue(components, broken)


def _component(config: object, owner: str) -> Component:
    if not (isinstance(config, type) and issubclass(config, BASES)):
        raise TypeError(f"{config!r} is not a subclass of one of {', '.join(b.__name__ for b in BASES)}")
    name = config.model_fields["type"].default
    if not isinstance(name, str) or not re.match(NAME, name):
        raise TypeError(f'{config.__name__} has no name: it needs type: Literal["its_name"] = "its_name"')
    if issubclass(config, SamplerConfig) and not (hasattr(config, "network") and hasattr(config, "calls_per_step")):
        raise TypeError(f"{config.__name__} does not say its network and calls_per_step")
    if inspect.isabstract(config):
        missing = ", ".join(sorted(config.__abstractmethods__))
        raise TypeError(f"{config.__name__} leaves abstract: {missing}")
    summary = (inspect.getdoc(config) or "").split("\n")[0]
    return Component(config.kind, name, config, owner, summary)


@cache
def catalogue() -> Catalogue:
    """The catalogue of this installation (read once per process)."""
    return load(sorted(entry_points(group=hookspecs.GROUP), key=lambda point: point.name))
