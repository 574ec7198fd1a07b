"""The JSON Schema of recipes, for editors: made from the configurations themselves, installed components included.

In draft 4: editors of TOML (taplo, Even Better TOML) read it, and in it alone 1.0 is no integer, as here. Torch-free.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from flowmap.plugin.catalogue import KINDS, Component, catalogue
from flowmap.plugin.fields import KIND_MARK
from flowmap.recipe.recipe import Recipe
from flowmap.schema.config import Config

Schema = dict[str, Any]
DRAFT = "http://json-schema.org/draft-04/schema#"

_INSIDE_LISTS = ("anyOf", "allOf", "oneOf")
_INSIDE_NAMES = ("properties", "definitions", "patternProperties")
_INSIDE = ("items", "additionalProperties", "not")
_LIMITS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
_STRIPPED = ("title", "format")


def recipe_schema(components: tuple[Component, ...] | None = None) -> Schema:
    """The schema of a recipe that names these `components`, or any that is installed."""
    definitions, (recipe,) = definitions_of((Recipe,), usable(components))
    return document("A recipe of flowmap", definitions, recipe)


def usable(components: tuple[Component, ...] | None = None) -> list[Component]:
    """Those of `components` that a recipe can name: claimed once, and with fields that can be."""
    found = catalogue()
    chosen = []
    for component in found.components if components is None else components:
        try:
            component.config.model_rebuild()
        except Exception:  # a stranger's fields; `flowmap check` says what is wrong with them
            continue
        if len(found.claims(component.kind, component.name)) == 1:
            chosen.append(component)
    return chosen


def definitions_of(models: tuple[type[Config], ...], components: list[Component]) -> tuple[Schema, list[Schema]]:
    """Definitions of all `components` by kind and of what they are made of, and the schema of each of `models`."""
    for model in models:
        model.model_rebuild()
    try:
        found, whole = _described([*models, *(component.config for component in components)])
    except Exception:  # one of a stranger's has fields that JSON does not know: all but those are described
        components = [component for component in components if _can_be_described(component)]
        found, whole = _described([*models, *(component.config for component in components)])
    asked = [*models, *(component.config for component in components)]
    definitions = {name: _draft4(schema) for name, schema in whole.get("$defs", {}).items()}
    schemas = {model: _draft4(found[model, "validation"]) for model in asked}
    for kind in KINDS:
        of_kind = [component for component in components if component.kind == kind]
        names = {component.name: component.summary for component in of_kind if _is_whole(component)}
        tables = [schemas[component.config] for component in of_kind]
        definitions[f"any-{kind}"] = _any(kind, names, [{"allOf": [table], "required": ["type"]} for table in tables])
        loose = [partial_of(definitions, table) for table in tables]
        definitions[f"any-partial-{kind}"] = _any(kind, {c.name: c.summary for c in of_kind}, loose)
    return definitions, [schemas[model] for model in models]


def _described(asked: Sequence[type[Config]]) -> tuple[Mapping[Any, Schema], Schema]:
    return models_json_schema(
        [(model, "validation") for model in asked], schema_generator=_Generator, ref_template="#/definitions/{model}"
    )


def _can_be_described(component: Component) -> bool:
    try:
        _described([component.config])
    except Exception:
        return False
    return True


def document(title: str, definitions: Schema, root: Schema) -> Schema:
    """A whole schema, with those of `definitions` that `root`, a reference, leads to."""
    (name,) = _references(root)
    root = definitions[name]
    used: dict[str, Schema] = {}
    waiting = list(_references(root))
    while waiting:
        name = waiting.pop()
        if name not in used:
            used[name] = definitions[name]
            waiting += _references(definitions[name])
    return {"$schema": DRAFT, "title": title, **root, "definitions": dict(sorted(used.items()))}


def partial_of(definitions: Schema, reference: Schema) -> Schema:
    """A reference to what `reference` names with no field required, which is laid over another table.

    It is added to `definitions`.
    """
    (name,) = _references(reference)
    partial = f"partial-{name}"
    if partial not in definitions:
        made = {key: value for key, value in definitions[name].items() if key != "required"}
        definitions[partial] = loosened(made)
    return {"$ref": f"#/definitions/{partial}"}


def loosened(schema: Schema) -> Schema:
    """`schema` with components that may be parts of some."""
    text_of = {f"#/definitions/any-{kind}": f"#/definitions/any-partial-{kind}" for kind in KINDS}

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: text_of.get(inner, inner) if key == "$ref" and isinstance(inner, str) else walk(inner)
                for key, inner in value.items()
            }
        return [walk(inner) for inner in value] if isinstance(value, list) else value

    loose: Schema = walk(copy.deepcopy(schema))
    return loose


class _Generator(GenerateJsonSchema):
    """Pydantic's own, without what it says of defaults that JSON does not have."""

    ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})  # type: ignore[assignment]


def _is_whole(component: Component) -> bool:
    """Whether its bare name is enough."""
    try:
        component.config.model_validate({"type": component.name})
    except Exception:  # a ValidationError, or whatever a stranger's validators raise
        return False
    return True


def _any(kind: str, names: Mapping[str, str], tables: list[Schema]) -> Schema:
    """One of the components of a kind: by one of `names`, each with what it is, or as one of `tables`."""
    if not tables:
        return {"not": {}}  # none is installed
    # Editors of the taplo family show a text for each word.
    bare = [{"enum": list(names), "x-taplo": {"docs": {"enumValues": list(names.values())}}}] if names else []
    return {"description": f"a {kind}, by its name or as a table with a type", "anyOf": [*bare, *tables]}


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value.removeprefix("#/definitions/")
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _draft4(schema: Schema) -> Schema:
    """`schema`, of pydantic's newer draft, as draft 4 says it; what TOML does not have, null, is left out."""
    made: Schema = {}
    for key, value in schema.items():
        made |= _said(key, value)
    if len(made.get("anyOf", ())) == 1:
        made = {**made.pop("anyOf")[0], **made}
    if "$ref" in made and len(made) > 1:
        # Beside a reference nothing is read.
        made = {"allOf": [{"$ref": made.pop("$ref")}], **made}
    return made


def _said(key: str, value: Any) -> Schema:
    """What one keyword is in draft 4."""
    if key in _STRIPPED or (key == "default" and value is None):
        return {}
    if key in _LIMITS:
        return {_LIMITS[key]: value, key: True}
    if key == "prefixItems":
        return {"items": [_draft4(inner) for inner in value], "additionalItems": False}
    simple: dict[str, Callable[[], Schema]] = {
        KIND_MARK: lambda: {"$ref": f"#/definitions/any-{value}"},
        "const": lambda: {"enum": [value]},
        "description": lambda: {key: " ".join(value.split("\n\n")[0].split())},
    }
    if key in simple:
        return simple[key]()
    return {key: _inner(key, value)}


def _inner(key: str, value: Any) -> Any:
    """The schemas within a keyword; what holds none is as it is."""
    if key in _INSIDE_LISTS:
        return [_draft4(inner) for inner in value if inner != {"type": "null"}]
    if key in _INSIDE_NAMES:
        return {name: _draft4(inner) for name, inner in value.items()}
    return _draft4(value) if key in _INSIDE and isinstance(value, dict) else value
