"""Whether weights are those of a network, by names and shapes alone. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

Shapes = Mapping[str, tuple[int, ...]]


def misfit(found: Mapping[str, Sequence[int]], wanted: Shapes) -> str | None:
    """Where the shapes `found` are not those `wanted`: how many parameters, and the first one; None if nowhere."""
    lacking = sorted(wanted.keys() - found.keys())
    extra = sorted(found.keys() - wanted.keys())
    odd = sorted(key for key in wanted.keys() & found.keys() if tuple(found[key]) != wanted[key])
    if not lacking and not extra and not odd:
        return None
    if lacking:
        first = f"{lacking[0]} is missing"
    elif extra:
        first = f"{extra[0]} belongs to no such model"
    else:
        first = f"{odd[0]} is {list(found[odd[0]])} instead of {list(wanted[odd[0]])}"
    return f"{len(lacking) + len(extra) + len(odd)} parameters differ, first {first}"


def layer(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Weight and bias of a linear layer, a convolution or a norm."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
