"""In what precision parameters are held: cast one by one when a device takes them, if they were read in another.

Weights in files are mapped into memory, where all processes of a machine share them. A cast of them all would be a copy
in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_LATER = "_flowmap_held"
_EXACT = "_flowmap_exact"
_postponed: ContextVar[bool] = ContextVar("_postponed", default=False)


@contextmanager
def postponed(later: bool = True) -> Iterator[None]:
    """Within this context parameters stay as they were read until `take_to` takes them; not `later`, as everywhere."""
    before = _postponed.set(later)
    try:
        yield
    finally:
        _postponed.reset(before)


def hold(parameter: nn.Parameter, precision: torch.dtype) -> None:
    """Say in what `precision` a parameter is held: it has that now, or when it is taken to a device."""
    setattr(parameter, _LATER, precision)
    if not _postponed.get():
        take_to(parameter.device, parameter)


def held(parameter: nn.Parameter) -> torch.dtype:
    """The precision in which a parameter is held."""
    precision: torch.dtype = getattr(parameter, _LATER, parameter.dtype)
    return precision


def lent(value: Tensor) -> Tensor:
    """`value` for a parameter, which may be changed: a copy, or itself where devices take parameters later."""
    return value if _postponed.get() else value.clone()


def give(parameter: Tensor, value: Tensor) -> None:
    """Set `parameter` to the numbers of `value`, in its own precision; now, or when a device takes it."""
    if not _postponed.get():
        parameter.copy_(value)
        return
    precision = parameter.dtype
    parameter.data = value
    setattr(parameter, _LATER, precision)


def take_to(device: torch.device, parameter: nn.Parameter) -> None:
    """Take a parameter to `device`, in the precision in which it is held."""
    parameter.data = parameter.data.to(device).to(held(parameter))


def keep_exact(module: nn.Module) -> None:
    """Say that `module` computes with its parameters as they are held, also where all around it is cast."""
    setattr(module, _EXACT, True)


def is_exact(module: nn.Module) -> bool:
    """Whether that was said of `module`."""
    return getattr(module, _EXACT, False) is True
