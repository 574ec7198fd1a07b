"""What a plugin finds when it is imported and must leave as it was: others' results depend on it."""

from __future__ import annotations

import builtins
import json
import os
import random
import signal
import sys
import threading
import time
import tomllib
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple, Self, final

from flowmap.plugin import torch_settings

_WARNING = 30
_SIGNALS = {number.name: number for number in signal.Signals}


class _Watched(NamedTuple):
    """Something of the process: how it is called, read, and put back to what was read."""

    name: str
    read: Callable[[], Any]
    put: Callable[[Any], object]


@final
class Surroundings:
    """What there is before any plugin is imported."""

    def __init__(self) -> None:
        self._before = {watched: watched.read() for watched in _WATCHED}
        self._threads = set(threading.enumerate())
        self._arrival = torch_settings.Arrival(self._torch_is_here)

    def __enter__(self) -> Self:
        """Take torch as it is when it has just been imported, if a plugin imports it within this context."""
        self._arrival.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._arrival.end()

    def _torch_is_here(self) -> None:
        self._before[_TORCH] = _TORCH.read()

    def put_back(self) -> list[str]:
        """Make all as it was; the names of what was not. Threads, which nobody can end, are named once."""
        changed = []
        for watched, value in self._before.items():
            now = watched.read()
            unseen = watched is _TORCH and not value  # it is not here, or came in a way of its own
            if now != value and not unseen:
                with suppress(Exception):  # the folder may be gone, say
                    watched.put(value)
                changed.append(f"{watched.name}{_which(value, now)}")
        begun = set(threading.enumerate()) - self._threads
        self._threads |= begun
        return changed + [f"threads ({thread.name} goes on)" for thread in begun]


def _which(before: Any, now: Any) -> str:
    """The names of what differs, of variables and signals."""
    if not isinstance(before, Mapping):
        return ""
    return f" ({', '.join(sorted(str(key) for key in before.keys() | now.keys() if before.get(key) != now.get(key)))})"


def _put_variables(before: Mapping[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _folder() -> str | None:
    with suppress(OSError):  # it was deleted
        return os.getcwd()
    return None


def _handlers() -> dict[str, Any]:
    return {name: signal.getsignal(number) for name, number in _SIGNALS.items()}


def _put_handlers(before: Mapping[str, Any]) -> None:
    for name, handler in before.items():
        if signal.getsignal(_SIGNALS[name]) != handler and handler is not None:  # None: not Python's
            signal.signal(_SIGNALS[name], handler)


def _log() -> tuple[Any, ...]:
    """How the root logger is; as it is at first where nobody has imported logging."""
    logging = sys.modules.get("logging")
    if logging is None:
        return _WARNING, False, (), 0
    root = logging.getLogger()
    return root.level, root.disabled, tuple(root.handlers), root.manager.disable


def _put_log(before: tuple[Any, ...]) -> None:
    logging = sys.modules["logging"]
    root = logging.getLogger()
    root.setLevel(before[0])
    root.disabled, root.handlers[:] = before[1], before[2]
    logging.disable(before[3])


def _blanket() -> list[Any]:
    """Filters that are for every warning, and not some library's for its own."""
    return [f for f in warnings.filters if f[1] is None and f[2] in (Warning, Exception) and f[3] is None and not f[4]]


def _put_blanket(before: list[Any]) -> None:
    kept = [f for f in warnings.filters if f in before or f not in _blanket()]
    warnings.filters[:] = kept  # type: ignore[index]
    # The filters' readers are told that they have changed by whoever adds one.
    warnings.filterwarnings("default", category=_Never)


class _Never(Warning):
    """A warning that nobody gives."""


def _functions() -> dict[str, Any]:
    return {f"{module.__name__}.{name}": getattr(module, name, None) for module, names in _USED for name in names}


def _put_functions(before: Mapping[str, Any]) -> None:
    for module, names in _USED:
        for name in names:
            setattr(module, name, before[f"{module.__name__}.{name}"])


_USED: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (builtins, ("open", "print", "input", "isinstance", "len", "sorted")),
    (json, ("dumps", "loads", "dump", "load")),
    (os, ("open", "write", "replace", "rename", "remove", "fsync", "stat", "listdir", "scandir", "getpid")),
    (time, ("time", "monotonic", "perf_counter", "sleep")),
    (tomllib, ("loads", "load")),
)
"""Functions that others' results depend on most."""

_TORCH = _Watched("torch's settings", torch_settings.settings, torch_settings.put)
_WATCHED = (
    _Watched("environment variables", lambda: dict(os.environ), _put_variables),
    _Watched("the current folder", _folder, os.chdir),
    _Watched("sys.path", lambda: list(sys.path), lambda before: sys.path.__setitem__(slice(None), before)),
    _Watched("the handlers of signals", _handlers, _put_handlers),
    _Watched("sys.excepthook", lambda: sys.excepthook, lambda before: setattr(sys, "excepthook", before)),
    _Watched("the filters of all warnings", _blanket, _put_blanket),
    _Watched("the root logger", _log, _put_log),
    _Watched("the state of random", random.getstate, random.setstate),
    _Watched("the limit of recursion", sys.getrecursionlimit, sys.setrecursionlimit),
    _Watched("functions of Python", _functions, _put_functions),
    _TORCH,
)
