"""A comparison as it is run: each contestant as a complete recipe, and where its fields were written. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from flowmap.comparison.specification import BudgetConfig, Table
from flowmap.recipe.lines import Path as Place
from flowmap.recipe.messages import Source, explain
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.tables import EvaluationConfig
from flowmap.schema.config import Finding


@final
@dataclass(frozen=True)
class Entrant:
    """One contestant, as a complete recipe; its folder's name.

    `own` maps the stages that the budget pays for to their shares of it. Their steps in the recipe are a placeholder;
    `steps` has what the budget buys, by training seed, once that is known. `index` is its place in the specification.
    """

    name: str
    recipe: Recipe
    own: Mapping[str, float]
    index: int = 0
    steps: Mapping[int, Mapping[str, int]] = field(default_factory=dict)

    def of_seed(self, seed: int) -> Recipe:
        """The recipe of one training seed, a run called `seed-<n>`, with the steps that are known."""
        known = self.steps.get(seed, {})
        stages = tuple(s.model_copy(update={"steps": known.get(s.name, s.steps)}) for s in self.recipe.stages)
        return self.recipe.model_copy(update={"name": f"seed-{seed}", "seeds": (seed,), "stages": stages})


@final
@dataclass(frozen=True)
class Comparison:
    """A whole comparison; `text` is its specification as it was written, `source` where its fields stand in that."""

    name: str
    about: str
    seeds: tuple[int, ...]
    processes: int
    metric: str
    against: str | None
    confidence: float
    budget: BudgetConfig | None
    entrants: tuple[Entrant, ...]
    text: str
    source: Source | None = None

    def told(self, entrant: Entrant, findings: Sequence[Finding]) -> list[str]:
        """A line for each of `findings` about the recipe of `entrant`, with the place in the specification, if any."""
        if self.source is None:
            return [f"{entrant.name}: {'.'.join(map(str, f.field))}: {f.level}: {f.message}" for f in findings]
        shared, raw = len(entrant.recipe.stages) - len(entrant.own), self.source.raw
        located = [replace(f, field=origin(f.field, entrant.index, shared, raw)) for f in findings]
        return [f"{line} (contestant {entrant.name})" for line in explain(located, self.source)]


def evaluation_of(entrant: Entrant) -> EvaluationConfig:
    """How an entrant is measured; every entrant of a comparison is."""
    assert entrant.recipe.evaluation is not None
    return entrant.recipe.evaluation


def origin(field: Place, index: int, shared: int, raw: Table) -> Place:
    """Where in the specification the `field` of contestant `index`'s recipe was set."""
    mine: Place = ("contestants", index)
    if field[:1] == ("name",):
        return (*mine, "name")
    if field[:2] == ("evaluation", "contests"):
        return (*mine, *field[3:])
    if field[:1] == ("seeds",):
        return field
    if field[:1] == ("stages",) and len(field) > 1 and isinstance(field[1], int) and field[1] >= shared:
        own, rest = (*mine, "stages", field[1] - shared), field[2:]
        return _set_in(rest, (own, _at(raw, own)), (("stage",), raw.get("stage"))) or (*own, *rest)
    theirs: Place = (*mine, "recipe")
    found = _set_in(field, (theirs, _at(raw, theirs)), (("recipe",), raw.get("recipe")))
    return found or ("recipe", *field)


def _set_in(field: Place, over: tuple[Place, Any], base: tuple[Place, Any]) -> Place | None:
    """Where `field` of the table `over`, on top of the table `base`, was set (see `unfold.merged`); None if nowhere."""
    (place, table), (below, under) = over, base
    if not field:
        return place
    key, rest = field[0], field[1:]
    ours, beneath = (each[key] if isinstance(each, Mapping) and key in each else None for each in (table, under))
    if ours is None:
        return None if beneath is None else (*below, *field)
    if isinstance(ours, Mapping) and isinstance(beneath, Mapping) and one_type(beneath, ours):
        return _set_in(rest, ((*place, key), ours), ((*below, key), beneath))
    return (*place, *field)


def one_type(base: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    """Whether `over` has other fields of the component that `base` describes, and is no other component."""
    kind = base.get("type")
    return bool(over.get("type", kind) == kind)


def _at(raw: Any, path: Place) -> Any:
    """What `raw` has at `path`; None if nothing."""
    for part in path:
        try:
            raw = raw[part]
        except (LookupError, TypeError):
            return None
    return raw
