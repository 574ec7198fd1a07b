"""Classifier-free guidance (arXiv 2207.12598), in one convention.

`cfg_scale` w means null + w (cond - null) everywhere in flowmap: 1 is no guidance. (AnyFlow's stage-3 code
writes cond + 3 (cond - null), which is cfg_scale 4 here.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowmap.interfaces import Cond, Velocity


def guided_velocity(network: Velocity, x: Tensor, t: Tensor, cond: Cond, null: Cond, cfg_scale: float) -> Tensor:
    """The guided velocity at `x` `[B, F, ...]`, `t` `[B]` or `[B, F]`: one call, of twice the batch if guided."""
    if cfg_scale == 1.0:
        return network.velocity(x, t, cond)
    both = network.velocity(torch.cat([x, x]), torch.cat([t, t]), cond.join(null))
    with_cond, without = both.chunk(2)
    return without + cfg_scale * (with_cond - without)
