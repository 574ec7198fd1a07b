"""What was asked for, called as whoever asked calls it: options of a command, or arguments in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_ARGUMENTS = {"set": "overrides", "prompt": "prompts", "class": "classes", "train-seed": "train_seed"}
"""The options that are called otherwise in Python."""

_LISTED = ("overrides", "stages", "redo")

_in_python: ContextVar[Mapping[str, str] | None] = ContextVar("in_python", default=None)


@contextmanager
def from_python(**others: str) -> Iterator[None]:
    """In this context Python has asked; `others` are further options that are called otherwise there."""
    token = _in_python.set(_ARGUMENTS | others)
    try:
        yield
    finally:
        _in_python.reset(token)


def option(name: str, *values: object) -> str:
    """The option `name` as it is given, with `values` if there are any: `--nfe 4`, and in Python `nfe=4`."""
    arguments = _in_python.get()
    if arguments is None:
        words = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        return " ".join(f"--{name} {word}" for word in words) if words else f"--{name}"
    argument = arguments.get(name, name)
    if not values:
        return f"{argument}="
    shown = ", ".join(repr(str(value) if isinstance(value, Path) else value) for value in values)
    return f"{argument}=[{shown}]" if argument in _LISTED else f"{argument}={shown}"


def flag(name: str) -> str:
    """The option `name`, which is given or not: `--fresh`, and in Python `fresh=True`."""
    return f"--{name}" if _in_python.get() is None else f"{name}=True"


def both(*options: str) -> str:
    """Options that are given together."""
    return (" " if _in_python.get() is None else ", ").join(options)
