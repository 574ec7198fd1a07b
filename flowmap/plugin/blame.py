"""Whose fault it is: an error that came out of a stranger's plugin is said in a line, with the place in the plugin."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import FrameType

from flowmap.plugin.catalogue import Catalogue, reason
from flowmap.plugin.kinds import ComponentConfig
from flowmap.plugin.version import GROUP

_OWN = f"{GROUP} "


def blamed(error: BaseException, installed: Catalogue) -> str | None:
    """What failed in which plugin, and where; None if `error` passed through no plugin but our own."""
    strangers = {_package(c.config.__module__): c for c in installed.components if not c.distribution.startswith(_OWN)}
    passed = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _of(frame) in strangers]
    if not passed:
        return None
    frame, line = passed[-1]
    owner = strangers[_of(frame)].distribution
    asked = next((config for each, _ in reversed(passed) if (config := _config(each))), None)
    named = [c for c in installed.components if c.config is asked]
    who = named[0].whose() if named else f"the plugin {owner}"
    return f"{who} failed: {reason(error)} ({_place(frame, line)})"


def said_of(error: BaseException, config: ComponentConfig) -> str:
    """What went wrong, and where in the package of `config`: file, line and function, if `error` passed through it."""
    package = _package(type(config).__module__)
    passed = [_place(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _of(frame) == package]
    return f"{reason(error)} ({passed[-1]})" if passed else reason(error)


def place_in(config: ComponentConfig) -> str:
    """Where in the package of `config` the code is that runs now: file, line and function; empty if it is elsewhere."""
    package = _package(type(config).__module__)
    running = traceback.walk_stack(sys._getframe(1))
    return next((_place(frame, line) for frame, line in running if _of(frame) == package), "")


def _place(frame: FrameType, line: int) -> str:
    file = Path(frame.f_code.co_filename)
    depth = len(str(frame.f_globals["__name__"]).split("."))
    name = "/".join(file.parts[-depth - (file.name == "__init__.py") :])
    return f"{name}:{line}, in {frame.f_code.co_qualname}"


def _package(module: str) -> str:
    return module.partition(".")[0]


def _of(frame: FrameType) -> str:
    return _package(str(frame.f_globals.get("__name__", "")))


def _config(frame: FrameType) -> type[ComponentConfig] | None:
    """The class of the configuration of which `frame` runs a method."""
    bound = frame.f_locals.get("self", frame.f_locals.get("cls"))
    asked = bound if isinstance(bound, type) else type(bound)
    return asked if issubclass(asked, ComponentConfig) else None
