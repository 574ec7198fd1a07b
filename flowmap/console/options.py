"""What was asked for, called as whoever asked calls it: options of a command, arguments in Python, fields of a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_ARGUMENTS = {"set": "overrides", "prompt": "prompts", "class": "classes", "train-seed": "train_seed"}
"""The options that are called otherwise in Python."""

_LISTED = ("overrides", "stages", "redo")

_in_python: ContextVar[Mapping[str, str] | None] = ContextVar("in_python", default=None)
_on_page: ContextVar[Mapping[str, str] | None] = ContextVar("on_page", default=None)


@contextmanager
def from_python(**others: str) -> Iterator[None]:
    """In this context Python has asked; `others` are further options that are called otherwise there."""
    token = _in_python.set(_ARGUMENTS | others)
    try:
        yield
    finally:
        _in_python.reset(token)


@contextmanager
def from_page(fields: Mapping[str, str]) -> Iterator[None]:
    """In this context a page has asked; `fields` are what options are called there. Others are those of its command."""
    token = _on_page.set(fields)
    try:
        yield
    finally:
        _on_page.reset(token)


def option(name: str, *values: object) -> str:
    """The option `name` as it is given, with `values`, if any: `--nfe 4`, in Python `nfe=4`, on a page `Calls 4`."""
    fields, arguments = _on_page.get(), _in_python.get()
    if fields is not None and name in fields:
        return " ".join([fields[name], *(value.name if isinstance(value, Path) else str(value) for value in values)])
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
