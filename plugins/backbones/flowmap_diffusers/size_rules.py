"""What can be a size of a transformer, as a recipe or a config.json gives it. Torch-free."""

from __future__ import annotations

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
