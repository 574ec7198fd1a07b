"""The samplers that weights from outside come with, and what another sampler does otherwise. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from flowmap.errors import FlowmapError
from flowmap.plugin.catalogue import catalogue
from flowmap.plugin.kinds import BackboneConfig, SamplerConfig
from flowmap.recipe.outside import find_weights, is_weights
from flowmap.recipe.tables import ContestConfig, EvaluationConfig
from flowmap.schema.specs import Pretrained

_SAME = 1e-6
"""Relative: times are written with six digits or more."""


def own_samplers(told: Pretrained) -> list[SamplerConfig]:
    """The sampler of weights, then the same with other settings that they are published with.

    Raises FlowmapError if it is not installed, or takes no such fields.
    """
    try:
        found = catalogue().find("sampler", told.sampler)
        made = [found.model_validate({"type": told.sampler, **each}) for each in (told.sampler_fields, *told.also)]
    except LookupError as error:
        raise FlowmapError(f"the sampler of these weights is not to be had: {error.args[0]}") from None
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise FlowmapError(f"the sampler '{told.sampler}' does not take the fields of these weights: {why}") from None
    return [each for each in made if isinstance(each, SamplerConfig)]


def own_sampler(told: Pretrained, calls: int | None = None) -> SamplerConfig:
    """The sampler of weights; of several settings the first that takes so many `calls`, if one does."""
    every = own_samplers(told)
    return next((each for each in every if calls is not None and each.steps(calls) is not None), every[0])


def with_own_samplers(evaluation: EvaluationConfig, backbone: BackboneConfig) -> EvaluationConfig:
    """Contests of weights that name no sampler get that of the weights, if these are here."""

    def filled(contest: ContestConfig) -> ContestConfig:
        if not contest.samplers and is_weights(contest.stage):
            with suppress(FlowmapError):  # whatever is wrong with them is said where they are looked at
                sampler = own_sampler(find_weights(contest.stage, backbone).pretrained)
                return contest.model_copy(update={"samplers": (sampler,)})
        return contest

    return evaluation.model_copy(update={"contests": tuple(map(filled, evaluation.contests))})


def other_than_own(sampler: SamplerConfig, name: str, told: Pretrained) -> str | None:
    """How `sampler` differs from all that the weights `name` are published with, or from how they are made.

    None if it does not, or if nobody knows how they are sampled.
    """
    fields = sampler.model_dump()
    if wrong := [_given(key, fields) for key in told.bound if not _same(fields.get(key), told.sampler_fields[key])]:
        bound = _listed({key: told.sampler_fields[key] for key in told.bound})
        return f"'{name}' has {bound}, and sampler '{sampler.type}' {' and '.join(wrong)}; set {bound} here"
    if told.published is None:
        return None
    known = own_samplers(told)
    if any(not [*_differing(sampler, each)] for each in known):
        return None
    own = known[0]
    whose = f"'{name}' ({told.published}) is published with"
    if sampler.type != own.type:
        theirs = {key: value for key, value in own.model_dump().items() if key in told.sampler_fields}
        return f"{whose} sampler '{own.type}' ({_listed(theirs)}), not with '{sampler.type}'; leave the sampler out"
    # The list that is meant has as many times, if any has.
    near = min(known, key=lambda each: len([*_differing(sampler, each)]))
    theirs, ours = near.model_dump(), [*_differing(sampler, near)]
    here = _listed({key: fields[key] for key in ours})
    return f"{whose} {_listed({key: theirs[key] for key in ours})}, and here it has {here}; leave the sampler out"


def _differing(one: SamplerConfig, other: SamplerConfig) -> Iterator[str]:
    theirs = other.model_dump()
    for key, value in one.model_dump().items():
        if not _same(value, theirs.get(key)):
            yield key


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float) and bool not in (type(one), type(other)):
        return math.isclose(one, other, rel_tol=_SAME)
    return bool(one == other)


def _given(key: str, fields: Mapping[str, Any]) -> str:
    return f"has {_listed({key: fields[key]})}" if key in fields else f"knows no {key}"


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {_word(value)}" for key, value in fields.items()) or "no fields"


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_word, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:.6g}" if isinstance(value, int | float) else f"'{value}'"


def lists_of(samplers: Iterable[SamplerConfig]) -> str:
    """The numbers of calls that these take along lists of their own: "5 or 4"."""
    own = [(each.own_times(), each.calls_per_step) for each in samplers]
    return " or ".join(dict.fromkeys(str(times.steps * calls) for times, calls in own if times is not None))
