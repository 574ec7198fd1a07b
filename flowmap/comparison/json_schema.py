"""The JSON Schema of comparisons, for editors. Torch-free.

Tables of a comparison are laid over one another before they are a recipe, so none of their fields is required, and a
component may be a part of one.
"""

from __future__ import annotations

from typing import Any

from flowmap.comparison.specification import CompareSpec
from flowmap.plugin.catalogue import Component
from flowmap.recipe.json_schema import Schema, definitions_of, document, partial_of, usable
from flowmap.recipe.recipe import Recipe

_OF_THE_COMPARISON = ("name", "seeds")
_SHARE = {
    "type": "number",
    "minimum": 1e-6,
    "maximum": 1e6,
    "description": "its part of the budget; equal parts if no stage has one",
}


def comparison_schema(components: tuple[Component, ...] | None = None) -> Schema:
    """The schema of a comparison that names these `components`, or any that is installed."""
    definitions, (comparison, recipe) = definitions_of((CompareSpec, Recipe), usable(components))
    for name in ("EvaluationConfig", "StageConfig"):
        partial_of(definitions, {"$ref": f"#/definitions/{name}"})
    partial_of(definitions, recipe)
    fields = definitions["partial-Recipe"]["properties"]
    for name in _OF_THE_COMPARISON:
        fields.pop(name)
    fields["evaluation"] = _referring("partial-EvaluationConfig", fields["evaluation"])
    # The contestants are the contests, and the budget gives the steps.
    definitions["partial-EvaluationConfig"]["properties"].pop("contests")
    stage = definitions["partial-StageConfig"]
    stage["properties"].pop("steps")
    stage["properties"]["share"] = _SHARE
    contestant = definitions["ContestantConfig"]["properties"]
    contestant["recipe"] = _referring("partial-Recipe", contestant["recipe"])
    contestant["stages"] = {**contestant["stages"], "items": {"$ref": "#/definitions/partial-StageConfig"}}
    own = definitions["CompareSpec"]["properties"]
    own["recipe"] = _referring("partial-Recipe", own["recipe"])
    own["stage"] = _referring("partial-StageConfig", own["stage"])
    return document("A comparison of flowmap", definitions, comparison)


def _referring(name: str, field: dict[str, Any]) -> Schema:
    """A field that is of the definition `name`, described as `field` is."""
    return {"allOf": [{"$ref": f"#/definitions/{name}"}], "description": field["description"]}
