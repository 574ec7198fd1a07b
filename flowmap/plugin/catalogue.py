"""What is installed: every component of every plugin, found through entry points and one pluggy hook."""

from __future__ import annotations

import inspect
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from types import FrameType
from typing import TypeVar

import pluggy

from flowmap.plugin import hookspecs
from flowmap.plugin.kinds import (
    BackboneConfig,
    ComponentConfig,
    DataConfig,
    FeaturesConfig,
    MetricConfig,
    ObjectiveConfig,
    SamplerConfig,
)
from flowmap.schema.words import NAME, unknown_word

BASES: tuple[type[ComponentConfig], ...] = (
    BackboneConfig,
    DataConfig,
    ObjectiveConfig,
    SamplerConfig,
    MetricConfig,
    FeaturesConfig,
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
        owner = _owner(point)
        with _heard() as heard:
            try:
                components += _components(point, owner)
            except BaseException as error:
                # A stranger's code may raise anything at import, SystemExit and KeyboardInterrupt too, and would end a
                # command without a word.
                broken.append(BrokenPlugin(point.name, owner, _reason(error)))
        if heard:
            # What the user has sent is the user's, whatever the plugin made of it.
            raise heard[0]
    return Catalogue(components, broken)


@contextmanager
def _heard() -> Iterator[list[BaseException]]:
    """Within this context the list fills with what signals from outside raise."""
    heard: list[BaseException] = []
    before: dict[int, Callable[[int, FrameType | None], object]] = {
        number: at for number in signal.valid_signals() if callable(at := signal.getsignal(number))
    }
    if threading.current_thread() is not threading.main_thread():
        yield heard  # no signal arrives in this thread
        return

    def arrived(number: int, frame: FrameType | None) -> None:
        try:
            before[number](number, frame)
        except BaseException as error:
            heard.append(error)
            raise

    for number in before:
        signal.signal(number, arrived)
    try:
        yield heard
    finally:
        # Handlers that a plugin has put there go too.
        for number, at in before.items():
            signal.signal(number, at)


def _owner(point: EntryPoint) -> str:
    """The distribution that a plugin comes from; metadata of others may lack anything."""
    if point.dist is None:
        return "an unknown distribution"
    try:
        return _named(point.dist)
    except Exception:
        return "a distribution whose metadata are damaged"


@cache
def _named(distribution: Distribution) -> str:
    """Its name and version: its metadata, README and all, are parsed whenever they are asked for."""
    told = distribution.metadata
    return f"{told['Name']} {told['Version']}"


def _components(point: EntryPoint, owner: str) -> list[Component]:
    # One manager per plugin: a hook call then says whose components they are.
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(point.load(), name=point.name)
    manager.check_pending()
    returned = manager.hook.flowmap_components()
    if not returned:
        raise TypeError("it implements no hook 'flowmap_components' (is the function marked @hookimpl?)")
    return [_component(config, owner) for configs in returned for config in configs]


def _reason(error: BaseException) -> str:
    """What went wrong in a plugin, in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # its own exceptions are its own code
        text = "its error cannot be shown"
    return f"{type(error).__name__}: {text}"


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
