"""Transformers of two times in files: how their weights are written, and read again.

The layers that embed times have both in one tensor, `[2, ...]` (t, then r): a class of one time, which would drop what
it does not know with no more than a warning, refuses that shape. `two_times_code`, beside the weights, reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from flowmap_diffusers.two_times import delta_of


def together(makes: Mapping[str, Callable[[], Tensor]], embedders: Iterable[str]) -> dict[str, Callable[[], Tensor]]:
    """The weights of a transformer with embedders of t and r, each made when it is called for, as they are written."""
    found = dict(makes)
    for path in embedders:
        for key in [key for key in found if key.startswith(f"{path}.")]:
            t, r = found[key], found.pop(key.replace(f"{path}.", f"{delta_of(path)}.", 1))
            found[key] = _stacked(t, r)
    return found


def _stacked(t: Callable[[], Tensor], r: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: torch.stack([t(), r()])


def apart(state: Mapping[str, Tensor], embedders: Iterable[str]) -> dict[str, Tensor]:
    """The reverse of `together`, of weights that were read."""
    found = dict(state)
    for path in embedders:
        for key in [key for key in found if key.startswith(f"{path}.")]:
            both = found.pop(key)
            found[key], found[key.replace(f"{path}.", f"{delta_of(path)}.", 1)] = both[0], both[1]
    return found
