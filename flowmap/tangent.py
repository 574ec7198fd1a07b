"""du/dt: the derivative of the average velocity along a trajectory, with r held fixed.

d/dt u(x_t, t, r) = (v . grad_x) u + du/dt, where v = dx/dt. It enters the MeanFlow identity
u = v - (t - r) du/dt (arXiv 2505.13447; by central difference: AnyFlow, arXiv 2605.13724, and TiM, 2509.04394).
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowmap.configs import TangentConfig
from flowmap.interfaces import Cond, FlowMap
from flowmap.path import like


@torch.no_grad()
def tangent(network: FlowMap, x: Tensor, t: Tensor, r: Tensor, v: Tensor, cond: Cond, config: TangentConfig) -> Tensor:
    """du/dt at `x` `[B, F, ...]` moving with velocity `v`, at times `t >= r` `[B]` or `[B, F]`.

    Returns the shape of `x`, without gradient. The difference is one-sided where a step would leave [0, 1].
    """
    if config.method == "jvp":
        return _forward_mode(network, x, t, r, v, cond)
    late = (t + config.step).clamp(max=1.0)
    early = (t - config.step).clamp(min=0.0)
    x_late = x + like(late - t, x) * v
    x_early = x - like(t - early, x) * v
    if config.batched:
        both = network.mean_velocity(
            torch.cat([x_late, x_early]), torch.cat([late, early]), torch.cat([r, r]), cond.join(cond)
        )
        u_late, u_early = both.chunk(2)
    else:
        u_late = network.mean_velocity(x_late, late, r, cond)
        u_early = network.mean_velocity(x_early, early, r, cond)
    return (u_late - u_early) / like(late - early, x)


def _forward_mode(network: FlowMap, x: Tensor, t: Tensor, r: Tensor, v: Tensor, cond: Cond) -> Tensor:
    def along(x: Tensor, t: Tensor) -> Tensor:
        return network.mean_velocity(x, t, r, cond)

    # Fused attention has no forward derivative; the plain one has.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        derivative: Tensor = torch.func.jvp(along, (x, t), (v, torch.ones_like(t)))[1]
    return derivative
