"""What the networks of a recipe take: as its backbone says, or as measured on it."""

from __future__ import annotations

from functools import lru_cache

from flowmap.plugin.footprint import CallShape, Footprint
from flowmap.plugin.kinds import BackboneConfig
from flowmap.recipe.recipe import Recipe
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import Precision


def footprint_of(recipe: Recipe) -> Footprint | None:
    """The footprint of the recipe's backbone; None if that is not known (`unknown_because` says why).

    A backbone that says nothing is measured as a whole, if it starts from random weights and takes no texts: nothing
    has to be read for that.
    """
    found = _found(recipe)
    return found if isinstance(found, Footprint) else None


def unknown_because(recipe: Recipe) -> str:
    """Why the recipe's backbone has no footprint, as the end of a sentence."""
    found = _found(recipe)
    assert isinstance(found, str), "asked where there is none"
    return found


def _found(recipe: Recipe) -> Footprint | str:
    backbone, spec = recipe.backbone, recipe.data.spec()
    said = backbone.footprint(spec, recipe.compute.precision)
    if said is not None:
        return said
    if not backbone.random_base or spec.text:
        return f"and what takes {'texts' if spec.text else 'pretrained weights'} is not measured without being asked"
    return _measured(backbone, spec, recipe.compute.precision)


@lru_cache(maxsize=8)
def _measured(backbone: BackboneConfig, spec: SampleSpec, precision: Precision) -> Footprint | str:
    """It remembers what it has measured: a plan asks twice."""
    from flowmap.workshop.footprint import MeasuredFootprint, labels_of

    measured = MeasuredFootprint(lambda units: backbone.build(spec), 1, precision, labels_of(spec))
    try:
        measured.flops("flow_map", CallShape("whole", spec.shape[0]), gradient=True)
    except Exception as error:
        # Anybody's network, on tensors that have no numbers: one that looks at them fails in a way of its own.
        first = next(iter(str(error).splitlines()), "")
        return f"and could not be measured without weights: {type(error).__name__}: {first}"
    return measured
