"""What a component answers is what the interface says, or is refused in one line that says whose it is. Torch-free.

Checked where a component is registered, so that whoever asks need not doubt what comes back.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from flowmap.errors import FlowmapError
from flowmap.plugin.kinds import ArchiveConfig, ComponentConfig, MetricConfig, SamplerConfig
from flowmap.schema.config import Finding
from flowmap.schema.specs import RoleSpec, SampleSpec
from flowmap.schema.words import Better, NetworkKind

_SHOWN = 60


def unfit(whose: str, answered: str, got: object, wanted: str) -> FlowmapError:
    """The error for `got`, which the component that `whose` names `answered`, where `wanted` was asked for."""
    return FlowmapError(f"{whose} is at fault: {answered} {_words(got)}, and must be {wanted}", 1)


def misdeclared(config: type[ComponentConfig]) -> str | None:
    """What is wrong with what the class itself says of its components; None if nothing is."""
    declared: dict[str, tuple[bool, str]] = {}
    if issubclass(config, SamplerConfig):
        declared["network"] = _one_of(config.network, NetworkKind)
        declared["calls_per_step"] = _counts(config.calls_per_step, 1)
    if issubclass(config, MetricConfig):
        declared["network"] = (True, "") if config.network is None else _one_of(config.network, NetworkKind)
        declared["calls"] = _counts(config.calls, 0)
        declared["better"] = _one_of(config.better, Better)
    for name, (right, wanted) in declared.items():
        if not right:
            return f"{config.__name__}: {name} is {_words(getattr(config, name))}, and must be {wanted}"
    return None


def guard(config: type[ComponentConfig], whose: str) -> None:
    """Have the methods of `config` raise FlowmapError where they return what the interface does not say."""
    for name, check in _CHECKS.items():
        own = getattr(config, name, None)
        if own is not None and own.__module__ != ComponentConfig.__module__ and own not in _GUARDED:
            _GUARDED.add(guarded := _guarded(own, check, whose))
            setattr(config, name, guarded)


def _guarded(own: Callable[..., Any], check: Callable[[ComponentConfig, Any], Any], whose: str) -> Callable[..., Any]:
    @functools.wraps(own)
    def asked(config: ComponentConfig, *args: Any, **named: Any) -> Any:
        try:
            return check(config, own(config, *args, **named))
        except _UnfitError as error:
            got, wanted = error.args
            raise unfit(whose, f"{own.__name__}() returned", got, wanted) from None

    return asked


class _UnfitError(Exception):
    """What was returned, and what was wanted."""


_GUARDED: set[Callable[..., Any]] = set()


def _words(got: object) -> str:
    """`got`, short and in one line, whatever its own code does."""
    try:
        text = " ".join(repr(got).split())
    except Exception:
        return f"a {type(got).__name__}"
    return text if len(text) <= _SHOWN else f"a {type(got).__name__}"


def _one_of(got: object, words: Any) -> tuple[bool, str]:
    allowed = get_args(words)
    return isinstance(got, str) and got in allowed, f"one of {', '.join(allowed)}"


def _counts(got: object, least: int) -> tuple[bool, str]:
    return type(got) is int and got >= least, f"a whole number of at least {least}"


def _each(fits: Callable[[Any], bool], wanted: str) -> Callable[[ComponentConfig, Any], Any]:
    """A check of all of several; those of a generator are returned as a tuple."""

    def check(_: ComponentConfig, got: Any) -> Any:
        if isinstance(got, str | Mapping) or not isinstance(got, Iterable):
            raise _UnfitError(got, wanted)
        found = got if isinstance(got, list | tuple) else tuple(got)
        for one in found:
            if not fits(one):
                raise _UnfitError(one, wanted)
        return found

    return check


def _one(fits: Callable[[Any], bool], wanted: str) -> Callable[[ComponentConfig, Any], Any]:
    def check(_: ComponentConfig, got: Any) -> Any:
        if not fits(got):
            raise _UnfitError(got, wanted)
        return got

    return check


def _is_finding(got: Any) -> bool:
    return (
        isinstance(got, Finding)
        and got.level in ("error", "warning")
        and isinstance(got.field, tuple)
        and isinstance(got.message, str)
    )


def _are_roles(got: Any) -> bool:
    return isinstance(got, Mapping) and all(isinstance(n, str) and isinstance(r, RoleSpec) for n, r in got.items())


def _built(config: ComponentConfig, got: Any) -> Any:
    """Whether it is of the interface's class; none can be if that was not imported."""
    name = "Archive" if isinstance(config, ArchiveConfig) else config.kind.capitalize()
    interfaces = sys.modules.get("flowmap.interfaces")
    if interfaces is None or not isinstance(got, getattr(interfaces, name)):
        raise _UnfitError(got, f"a flowmap.interfaces.{name}")
    return got


_FINDINGS = _each(_is_finding, "findings (flowmap.plugin.Finding, of an error or a warning)")

_CHECKS: Mapping[str, Callable[[ComponentConfig, Any], Any]] = {
    "build": _built,
    "findings": _FINDINGS,
    "training_findings": _FINDINGS,
    "missing": _FINDINGS,
    "remarks": _each(lambda one: isinstance(one, str), "sentences (str)"),
    "context_hint": _one(lambda got: isinstance(got, str), "a text"),
    "label": _one(lambda got: isinstance(got, str) and bool(got), "a text that is not empty"),
    "roles": _one(_are_roles, "a flowmap.plugin.RoleSpec for the name of each role"),
    "spec": _one(lambda got: isinstance(got, SampleSpec), "a flowmap.plugin.SampleSpec"),
}
"""By the name of a method, what returns what may be used in the place of its answer, or raises _UnfitError."""
