"""What all contestants must have in common, for their scores to be compared. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flowmap.comparison.entrants import Entrant, evaluation_of
from flowmap.comparison.specification import CompareSpec
from flowmap.errors import FlowmapError
from flowmap.recipe.outside import BASE, find_weights
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.tables import EvaluationConfig
from flowmap.schema.config import Finding


def odd_ones(spec: CompareSpec, entrants: Sequence[Entrant]) -> Iterator[Finding]:
    """The contestants whose fields of `recipe` have them measured by something else than all others."""
    yield from _other_measures(spec, entrants)
    yield from _other_bases(spec, entrants)


def _other_measures(spec: CompareSpec, entrants: Sequence[Entrant]) -> Iterator[Finding]:
    ours = [e for e in entrants if not {"data", "evaluation"} & spec.contestants[e.index].recipe.keys()]
    first = (ours or entrants)[:1]
    for entrant in entrants:
        teachers = ("evaluation.teacher", *(evaluation_of(each).teacher for each in (first[0], entrant)))
        for name, wanted, got in (*what_is_shared(first[0].recipe, entrant.recipe), teachers):
            if wanted == got or name == "evaluation.calls":  # scores are compared where both have some
                continue
            why = f"scores could not be compared with those of '{first[0].name}'; leave it out, or write it for all"
            field, own = name.split("."), spec.contestants[entrant.index].recipe.get("evaluation", {})
            if name == "data" and "data" in own:
                field = ["evaluation", "data"]
            elif name == "data":
                why += ". What is trained on other data is measured by recipe.evaluation.data, those of all"
            yield Finding("error", ("contestants", entrant.index, "recipe", *field), why)


def _other_bases(spec: CompareSpec, entrants: Sequence[Entrant]) -> Iterator[Finding]:
    """Contestants with a backbone of their own, where its 'base' would be the teacher that they are measured by."""
    ours = [entrant for entrant in entrants if "backbone" not in spec.contestants[entrant.index].recipe]
    for entrant in entrants:
        first = (ours or entrants)[0]
        if evaluation_of(entrant).teacher == BASE and _base_of(entrant) != _base_of(first):
            why = (
                f"its 'base' is another network than that of '{first.name}', and evaluation.teacher = 'base' would "
                "measure it by samples of its own; name the weights that are the teacher of all, with a '/' in them"
            )
            yield Finding("error", ("contestants", entrant.index, "recipe", "backbone"), why)


def _base_of(entrant: Entrant) -> object:
    """What tells base weights from others: their files, or the backbone where they are not here."""
    try:
        return find_weights(BASE, entrant.recipe.backbone).pretrained.files
    except FlowmapError:
        return entrant.recipe.backbone


def what_is_shared(one: Recipe, other: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """The name of each field that two who are compared share, and what it is in the recipe of either."""
    yield "seeds", one.seeds, other.seeds
    yield "data", one.measured_data(), other.measured_data()
    for name in EvaluationConfig.model_fields:
        if name not in ("contests", "teacher", "data"):
            values = (getattr(recipe.evaluation, name) for recipe in (one, other))
            yield f"evaluation.{name}", *values
