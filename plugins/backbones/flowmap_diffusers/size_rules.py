"""What can be a size of a transformer or a scale of latents, as a recipe or a config.json gives it. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from flowmap_diffusers.family import Family, Sizes

_MOST = 100_000


def odd_size(value: Any, usual: Any) -> str | None:
    """Why `value` can be no size where `usual` is one; None if it can."""
    if isinstance(usual, tuple):
        fits = isinstance(value, tuple) and all(type(one) is int and 0 <= one <= _MOST for one in value)
        return None if fits else f"is a list of whole numbers from 0 to {_MOST:,}, such as {list(usual)}"
    if type(usual) is int:
        fits = type(value) is int and 1 <= value <= _MOST
        return None if fits else f"is a whole number from 1 to {_MOST:,}; here it is {value!r}"
    fits = usual is None or isinstance(value, type(usual))
    return None if fits else f"is of the kind of {usual!r}; here it is {value!r}"


def unusable(family: Family, sizes: Sizes) -> str | None:
    """What is wrong with the sizes in a config.json: one that cannot be, or that is not there; None if nothing is."""
    for name, usual in family.small.items():
        # What says nothing is as the class has it.
        if sizes.get(name) is not None and (why := odd_size(sizes[name], usual)) is not None:
            return f"{name} {why}"
    try:
        family.channels(sizes), family.patch(sizes), family.embedders(sizes), family.classes(sizes)
        lacking = [name for name in (*family.depth, family.width) if name and name not in sizes]
    except KeyError as error:
        lacking = [str(error.args[0])]
    return f"{lacking[0]} is missing" if lacking else None


def odd_scales(vae: Mapping[str, Any]) -> Iterator[str]:
    """What in the configuration of an autoencoder can be no shift or scale of latents.

    What is left out is as the class has it. A scale of 0 would have a network learn zeros, without a word.
    """
    for name, positive in (("scaling_factor", True), ("shift_factor", False)):
        if name in vae and not (vae[name] is None and not positive) and not _is_scale(vae[name], positive):
            yield f"{name} is {vae[name]!r}; it is a number{' above 0' if positive else ''}"
    for name, positive in (("latents_std", True), ("latents_mean", False)):
        told = [] if vae.get(name) is None else vae[name]
        if not isinstance(told, list) or not all(_is_scale(each, positive) for each in told):
            yield f"{name} is no list of numbers{' above 0' if positive else ''}"


def _is_scale(value: Any, positive: bool) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number and (value > 0 or not positive)
