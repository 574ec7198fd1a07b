"""The laws of all configurations."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Iterator
from typing import Any

import tomli_w
from pydantic.fields import FieldInfo

from flowmap.plugin.kinds import ComponentConfig
from flowmap.schema.config import Config
from flowmap.testing.check import EVERY_KIND, Laws
from flowmap.testing.contract import require
from flowmap.testing.examination import Subject

LAWS = Laws(EVERY_KIND)


@LAWS.proven("The class and every field of it, at any depth, say what they are.", "ComponentConfig")
def fields_are_described(subject: Subject) -> None:
    """Docstring and descriptions."""
    cls = type(subject.config)
    require(bool(cls.__doc__), f"{cls.__name__} has no docstring; `flowmap plugins` shows its first line")
    for name, info in _fields(cls, cls.__name__):
        require(bool(info.description), f"the field {name} has no description")


@LAWS.proven("A configuration is the same after it was written to a lock file and read again.", "ComponentConfig")
def is_written_and_read(subject: Subject) -> None:
    """Through TOML."""
    cls = type(subject.config)
    again = cls.model_validate(tomllib.loads(tomli_w.dumps(subject.config.as_tables())))
    require(again == subject.config, f"{cls.__name__} changes when it is written as TOML and read again")


@LAWS.proven("A configuration can be hashed.", "ComponentConfig")
def can_be_hashed(subject: Subject) -> None:
    """By its fields."""
    try:
        hash(subject.config)
    except TypeError as error:
        name = type(subject.config).__name__
        raise AssertionError(f"{name} cannot be hashed ({error}); use tuples and frozen tables") from None


@LAWS.proven("A field that the configuration does not know is refused.", "ComponentConfig")
def unknown_fields_are_refused(subject: Subject) -> None:
    """By pydantic."""
    cls = type(subject.config)
    require(cls.model_config.get("extra") == "forbid", f"{cls.__name__} must refuse fields it does not know")


def check_config(config: ComponentConfig) -> None:
    """Check a configuration of any kind; the other checks begin with it. Raises AssertionError with what is broken."""
    for check in LAWS:
        check.body(_Bare(config))


class _Bare(Subject):
    """A configuration of which nothing is built."""

    def __init__(self, config: ComponentConfig) -> None:
        self.config = config

    def found(self, name: str) -> bool:
        return False


def _fields(cls: type[Config], path: str) -> Iterator[tuple[str, FieldInfo]]:
    """All fields of `cls` and of the tables in it, except `type`, by their dotted names."""
    for name, info in cls.model_fields.items():
        if name != "type":
            yield f"{path}.{name}", info
        for inner in _tables(info.annotation):
            yield from _fields(inner, f"{path}.{name}")


def _tables(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config) and not issubclass(annotation, ComponentConfig):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _tables(argument)
