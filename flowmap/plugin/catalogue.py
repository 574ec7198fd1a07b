"""What is installed: every component of every plugin, found through entry points and one pluggy hook."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint

import pluggy

from flowmap.phases import phase
from flowmap.plugin import apart, hookspecs, version
from flowmap.plugin.answers import guard, misdeclared
from flowmap.plugin.kinds import (
    BackboneConfig,
    ComponentConfig,
    DataConfig,
    FeaturesConfig,
    MetricConfig,
    ObjectiveConfig,
    SamplerConfig,
)
from flowmap.plugin.outputs import Held, held
from flowmap.plugin.points import everything, unreadable
from flowmap.plugin.points import owner as owner_of
from flowmap.plugin.surroundings import Surroundings
from flowmap.schema.words import NAME, plain, shown, unknown_word

BASES: tuple[type[ComponentConfig], ...] = (
    BackboneConfig,
    DataConfig,
    ObjectiveConfig,
    SamplerConfig,
    MetricConfig,
    FeaturesConfig,
)
KINDS: dict[str, type[ComponentConfig]] = {base.kind: base for base in BASES}

_SHOWN = 200  # characters of what a plugin prints
_UNSAID = (
    "it does not say for which version of the plugin interface it was written: "
    f"its entry point belongs in the group '{version.VERSIONED}'"
)


@dataclass(frozen=True)
class Component:
    """One registered configuration class and where it comes from."""

    kind: str
    name: str
    config: type[ComponentConfig]
    distribution: str
    summary: str

    def whose(self) -> str:
        """What it is and where from, as the beginning of a sentence."""
        return f"{self.kind} '{self.name}' from {self.distribution}"


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that could not be loaded, or that registered something that is no component."""

    entry_point: str
    distribution: str
    reason: str


@dataclass(frozen=True)
class Remark:
    """What its author should know of a plugin that hurts nobody: what it printed, or does not say."""

    entry_point: str
    distribution: str
    text: str


class Catalogue:
    """All components by kind and name, the plugins that failed to load, and what is to be said of the others."""

    def __init__(self, components: list[Component], broken: list[BrokenPlugin], remarks: Sequence[Remark] = ()) -> None:
        self.components = sorted(components, key=lambda c: (list(KINDS).index(c.kind), c.name, c.distribution))
        self.broken = broken
        self.remarks = remarks

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
            raise LookupError(clash(claims))
        text = unknown_word(kind, name, self.names(kind))
        if self.broken:
            lost = "; ".join(f"{b.entry_point} from {b.distribution}: {b.reason}" for b in self.broken)
            text += f" (plugins that could not be loaded and may provide it: {lost})"
        raise LookupError(text)


def clash(claims: Sequence[Component]) -> str:
    """What is wrong where several components have one kind and name, and what to do."""
    what = f"{claims[0].kind} '{claims[0].name}'"
    owners = dict.fromkeys(claim.distribution for claim in claims)
    if len(owners) == 1:
        return f"{what} is registered twice by {claims[0].distribution}, which is a fault in it"
    return f"{what} is registered by {' and '.join(owners)}; uninstall one of them"


def load(points: list[EntryPoint]) -> Catalogue:
    """Load `points` one by one; whatever goes wrong in one of them is recorded and hurts no other."""
    components: list[Component] = []
    broken: list[BrokenPlugin] = []
    remarks: list[Remark] = []
    limit, without = apart.seconds(), apart.left_out()
    with held() as output, apart.heard_signals() as heard, apart.staying(), Surroundings() as surroundings:
        for point in points:
            name, owner = shown(point.name), owner_of(point)
            found, why = _loaded(point, owner, limit, point.name in without, output)
            changed, printed = surroundings.put_back(), output.since()
            if heard:
                # What the user has sent is the user's, whatever the plugin made of it.
                raise heard[0]
            components += found
            if why:
                broken.append(BrokenPlugin(name, owner, why))
            # Ours come with the core, and fit it, however long ago they were installed in place.
            unsaid = point.group == version.GROUP and owner.split(" ")[0] != version.GROUP and not why
            remarks += [Remark(name, owner, text) for text in _remarks(changed, printed, unsaid)]
    return Catalogue(components, broken, remarks)


def _loaded(point: EntryPoint, owner: str, limit: float, out: bool, output: Held) -> tuple[list[Component], str]:
    """The components of a plugin, or why it has none; `output` is where its last word is said if it never ends."""
    name = shown(point.name)

    def hopeless() -> None:
        output.say(
            f"error: the plugin {name} of {owner} does not end, and cannot be stopped; "
            f"{apart.WITHOUT}={name} leaves it out"
        )
        apart.leave(2)

    why = f"{apart.WITHOUT} leaves it out" if out else version.refusal(point.group, owner)
    if why:
        return [], why
    try:
        with phase(f"loading the plugin {name} of {owner}"), apart.in_time(limit, hopeless):
            return _components(point, owner), ""
    except apart.OverdueError:
        how = f"{apart.SECONDS} sets another limit, {apart.WITHOUT}={point.name} leaves it out"
        return [], f"it did not load within {limit:g} s ({how})"
    except BaseException as error:
        # A stranger's code may raise anything at import, SystemExit and KeyboardInterrupt too, and would end a command
        # without a word.
        return [], reason(error)


def _remarks(changed: list[str], printed: str, unsaid: bool) -> list[str]:
    """What is to be said of a plugin that does more at its import than define things, or says less of itself."""
    said = []
    if printed:
        said.append(f"it prints when it is imported: {plain(printed, _SHOWN)}")
    if changed:
        said.append(f"its import changes {', '.join(changed)}: put back; what a component needs it sets in build()")
    if unsaid:
        said.append(_UNSAID)
    return said


def _components(point: EntryPoint, owner: str) -> list[Component]:
    # One manager per plugin: a hook call then says whose components they are.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    if not point.pattern.match(point.value):
        raise ValueError(f"its entry point is '{plain(point.value)}', and must be 'package.module' or 'module:object'")
    manager.register(point.load(), name=point.name)
    manager.check_pending()
    if not manager.hook.flowmap_components.get_hookimpls():
        raise TypeError("it implements no hook 'flowmap_components' (is the function marked @hookimpl?)")
    found = [_component(config, owner) for configs in manager.hook.flowmap_components() for config in configs]
    if not found:
        raise TypeError("its hook 'flowmap_components' returns no component")
    return found


def reason(error: BaseException) -> str:
    """What went wrong in a plugin, in one line, whatever its exceptions do."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # its own exceptions are its own code
        text = "its error cannot be shown"
    return shown(f"{type(error).__name__}: {text}")


def _component(config: object, owner: str) -> Component:
    if not (isinstance(config, type) and issubclass(config, BASES)):
        raise TypeError(f"{config!r} is not a subclass of one of {', '.join(b.__name__ for b in BASES)}")
    name = config.model_fields["type"].default
    if not isinstance(name, str):
        raise TypeError(f'{config.__name__} has no name: it needs type: Literal["its_name"] = "its_name"')
    if not re.fullmatch(NAME, name):
        raise TypeError(
            f"{config.__name__} is called '{plain(name)}': a name is of the letters A to Z and a to z, digits, '_', "
            "'.' and '-', and begins with a letter or a digit"
        )
    if issubclass(config, SamplerConfig) and not (hasattr(config, "network") and hasattr(config, "calls_per_step")):
        raise TypeError(f"{config.__name__} does not say its network and calls_per_step")
    if inspect.isabstract(config):
        missing = ", ".join(sorted(config.__abstractmethods__))
        raise TypeError(f"{config.__name__} leaves abstract: {missing}")
    if wrong := misdeclared(config):
        raise TypeError(wrong)
    summary = shown((inspect.getdoc(config) or "").split("\n")[0])
    found = Component(config.kind, name, config, owner, summary)
    guard(config, found.whose())
    return found


@cache
def catalogue() -> Catalogue:
    """The catalogue of this installation (read once per process)."""
    points, damaged = everything()
    found = load(version.plugins(points))
    for owner, error in damaged.items():
        found.broken.append(BrokenPlugin("?", owner, unreadable(error)))
    return found


def whose(config: type[ComponentConfig]) -> str:
    """What the components of `config` are and where from, as the beginning of a sentence."""
    return next(
        (component.whose() for component in catalogue().components if component.config is config),
        f"{config.kind} '{config.type_name()}'",
    )
