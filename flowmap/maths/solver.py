"""One step of a velocity's ODE, as objectives take it with the teacher (docs/derivations.md, eq. 39)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from flowmap.maths.path import like

Solver = Literal["euler", "heun"]


def mean_velocity(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    s: Tensor,
    solver: Solver,
    first: Tensor | None = None,
) -> Tensor:
    """The average velocity of one step from `t` to `s`, both `[B]` or `[B, F]`: x_s = x - (t - s) times it.

    `velocity(x, t)` is called once for `euler` and twice for `heun`, and once less if the `first` of its values, the
    one at `x` and `t`, is given.
    """
    start = velocity(x, t) if first is None else first
    if solver == "euler":
        return start
    return 0.5 * (start + velocity(x - like(t - s, x) * start, s))
