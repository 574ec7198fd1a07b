"""Write docs/recipe.md from the configuration classes themselves: `python docs/reference.py`."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from flowmap.comparison.specification import CompareSpec
from flowmap.plugin import ComponentConfig, Config, FromCatalogue
from flowmap.plugin.catalogue import KINDS, catalogue
from flowmap.recipe.recipe import Recipe
from flowmap.schema.bounds import Range, shown

HEADER = """# Every field of a recipe

A recipe is one TOML file. This page is written by `python docs/reference.py` from the code itself, and a test fails
when it is out of date. Times are in [0, 1] with 1 = noise; learning rates, weights and shares are plain numbers.
A field that names a component takes a table with a `type`, or just the name: `objective = "flow_matching"` is
`objective = { type = "flow_matching" }`. On the command line stages go by name:
`--set stages.forward.optimizer.lr=5e-4`. The last counts where one is given twice; under two names it is refused.

Recipes that flowmap brings go by name wherever a recipe is asked for: `flowmap recipes` lists them,
`flowmap run quickstart` runs one, into `runs/` of the current folder, and `flowmap new recipe mine --from quickstart`
writes a copy to change. A file of that name wins. Paths in a recipe are relative to the current folder.

The same as a JSON Schema, with every plugin that is installed: `flowmap schema --out recipe.schema.json`, and with
`--kind comparison` that of comparisons. Editors that know taplo (Even Better TOML, for one) complete and check fields
by it if `#:schema ./recipe.schema.json` is the first line of a recipe.
"""

WHY = """## Why numbers have these ranges

Infinity and NaN are refused everywhere. A range holds wherever the field is; the reasons stand in
`flowmap/schema/bounds.py`.
"""


@final
@dataclass(frozen=True)
class Number:
    """A number of a configuration: the dotted field that it is (or is a part of), its type, its range if it has one."""

    field: str
    type: type[int] | type[float]
    range: Range | None


def numbers(model: type[BaseModel], path: str = "") -> Iterator[Number]:
    """Every number inside `model`: in tuples, tables and unions too, but not inside the components that it names."""
    for name, info in model.model_fields.items():
        field = f"{path}{info.alias or name}"
        yield from _numbers(info.annotation, info.metadata, field)


def _numbers(annotation: Any, metadata: Iterable[Any], field: str) -> Iterator[Number]:
    ranges = [mark for mark in metadata if isinstance(mark, Range)]
    if annotation in (int, float):
        yield Number(field, annotation, ranges[0] if ranges else None)
    elif typing.get_origin(annotation) is typing.Annotated:
        inner, *marks = typing.get_args(annotation)
        yield from _numbers(inner, marks, field)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel) and not hasattr(annotation, "kind"):
        yield from numbers(annotation, f"{field}.")
    elif typing.get_origin(annotation) is not Literal:
        for argument in typing.get_args(annotation):
            yield from _numbers(argument, (), field)


def lists(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field inside `model` that holds as many parts as it is given: lists, and tables by name."""
    for name, info in model.model_fields.items():
        field = f"{path}{info.alias or name}"
        origin, arguments = typing.get_origin(info.annotation), typing.get_args(info.annotation)
        if (origin is tuple and arguments[-1] is Ellipsis) or (origin is dict and arguments[1] is not Any):
            yield field, info
        for child in _models(info.annotation):
            yield from lists(child, f"{field}.")


def owners() -> dict[str, type[BaseModel]]:
    """What has fields: recipe, comparison and our components, each with what stands before its fields' names."""
    ours = [c for c in catalogue().components if c.distribution.startswith("flowmap ")]
    return {"": Recipe, "comparison ": CompareSpec, **{f"{c.kind} {c.name} ": c.config for c in ours}}


def _reasons() -> list[str]:
    """A table of all ranges: the fields that have it, and why."""
    fields: dict[Range, dict[str, None]] = {}
    for model in owners().values():
        for number in numbers(model):
            if number.range is not None:
                fields.setdefault(number.range, {})[f"`{number.field.rpartition('.')[2]}`"] = None
    rows = [f"| {mark.text()} | {', '.join(names)} | {_escape(mark.why)} |" for mark, names in fields.items()]
    return [WHY, "\n".join(["| range | fields | why |", "| --- | --- | --- |", *rows]) + "\n"]


def page() -> str:
    """The whole page."""
    parts = [HEADER, *_tables(Recipe, "The recipe", "", set())]
    parts += _tables(CompareSpec, "A comparison", "", set())
    for kind in KINDS:
        parts.append(f"## Components: {kind}\n")
        for component in catalogue().components:
            if component.kind == kind and component.distribution.startswith("flowmap "):
                parts += _tables(component.config, f'`type = "{component.name}"`', "", set(), level="###")
    parts += _reasons()
    return "\n".join(parts)


def _tables(model: type[BaseModel], title: str, path: str, seen: set[type], level: str = "##") -> list[str]:
    """A heading, the class's summary and a table of its fields; then the same for the tables inside it."""
    summary = (model.__doc__ or "").strip().split("\n")[0]
    rows = ["| field | what it takes | default | meaning |", "| --- | --- | --- | --- |"]
    inner: list[str] = []
    for name, info in model.model_fields.items():
        if name == "type":
            continue
        label = info.alias or name
        rows.append(f"| `{label}` | {_takes(info)} | {_default(info)} | {_escape(info.description or '')} |")
        for child in _models(info.annotation):
            if child not in seen:
                seen.add(child)
                shown = f"{path}{label}"
                inner += _tables(child, f"`{shown}`", f"{shown}.", seen, level + "#")
    body = "\n".join(rows) + "\n" if len(rows) > 2 else "No fields.\n"
    return [f"{level} {title}\n", f"{summary}\n", body, *inner]


def _takes(info: FieldInfo) -> str:
    kinds = [m.base.kind for m in info.metadata if isinstance(m, FromCatalogue)]
    text = f"any {kinds[0]}" if kinds else _type(info.annotation)
    of = "characters" if text.startswith("string") else "of them"
    lengths = [f"up to {shown(mark.max_length)} {of}" for mark in info.metadata if hasattr(mark, "max_length")]
    return ", ".join([text, *_ranges(info.metadata), *lengths])


def _ranges(metadata: Iterable[Any]) -> list[str]:
    return [mark.text() for mark in metadata if isinstance(mark, Range)]


def _type(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f'`"{a}"`' for a in args)
    if origin is typing.Annotated:
        found = [m.base.kind for m in args[1:] if isinstance(m, FromCatalogue)]
        return f"any {found[0]}" if found else ", ".join([_type(args[0]), *_ranges(args[1:])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in args if a is not type(None))
    if origin is tuple:
        return f"list of {_type(args[0])}" if args[-1] is Ellipsis else f"{len(args)} x {_type(args[0])}"
    if origin is dict:
        if args[1] is Any:
            return "table"
        return f"table of {_type(args[1])} by name"
    if isinstance(annotation, type) and issubclass(annotation, ComponentConfig):
        return f"the {annotation.kind} `{json.dumps(annotation.type_name())}`"
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return "table"
    return {int: "integer", float: "number", str: "string", bool: "true or false"}.get(annotation, str(annotation))


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None:
        made = info.get_default(call_default_factory=True)
        if isinstance(made, ComponentConfig):
            return f"`{json.dumps(made.type)}`"
        return "see its table" if _models(info.annotation) else "empty"
    if info.default is PydanticUndefined:
        return "**required**"
    if info.default is None:
        return "none"
    value = list(info.default) if isinstance(info.default, tuple) else info.default
    return f"`{json.dumps(value)}`"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The plain configuration classes inside an annotation; components have chapters of their own."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, Config) and not hasattr(annotation, "kind") else []
    return [model for arg in typing.get_args(annotation) for model in _models(arg)]


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(__file__).with_name("recipe.md").write_text(page())
