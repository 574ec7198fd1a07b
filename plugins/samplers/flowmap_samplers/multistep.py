"""Multistep solvers for velocities: UniPC (arXiv 2302.04867) and DPM-Solver++ (2211.01095), by diffusers' schedulers.

Both write the ODE of dx/dt = v(x, t) in the half log-SNR lambda = log((1 - t) / t) and in the prediction D(x, t) = x -
t v(x, t), and extrapolate D from the steps before: one network call a step, second order (docs/derivations.md, eqs. 40
and 41). UniPC also corrects each point once D is known there, at no further call (docs/derivations.md, eq. 42). With a
guided velocity (flowmap.networks.guidance.Guided, null + w (cond - null)) D is guided alike.

diffusers' schedulers make grids of their own, in float32, end them at 0, and count time in whole thousandths, which
merges the points of a fine grid. So here they are given our grid itself. lambda is infinite at both ends. At t = 0
that is harmless: the last step is of first order and lands on D. At t = 1 an infinity would stand in the corrector's
linear equations; its sigma is 1 - 1e-6, as in diffusers' own grids, while the network is asked at t = 1. That limits
the accuracy to about 1e-6; DPM-Solver's scheduler computes in float32 whatever it is given.
"""

from __future__ import annotations

import itertools
from typing import Any, final

from torch import Tensor

from flowmap.interfaces import Cond, Sampler, Velocity
from flowmap.maths.draw import Draw

_BELOW_ONE = 1e-6


@final
class Multistep(Sampler):
    """The scheduler class `scheduler` of diffusers with `settings`, along any grid; `order` as a Sampler says it."""

    def __init__(self, scheduler: Any, settings: dict[str, Any], order: int | None) -> None:
        self._scheduler, self._settings, self._order = scheduler, settings, order

    def order(self) -> int | None:
        """See Sampler.order."""
        return self._order

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """See Sampler.sample."""
        scheduler = self._on(times)
        for t, _ in itertools.pairwise(times):
            v = network.velocity(x, t.expand(len(x)), cond)
            x = scheduler.step(v, t, x, return_dict=False)[0]
        return x

    def _on(self, times: Tensor) -> Any:
        """A new scheduler on the grid `times`; it has a memory of its steps."""
        scheduler = self._scheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            solver_order=2,
            final_sigmas_type="zero",
            **self._settings,
        )
        scheduler.num_inference_steps, scheduler.timesteps = len(times) - 1, times[:-1]
        # On the CPU, where it keeps them; numbers without dimension act on any device, and on x in its own precision.
        scheduler.sigmas = times.detach().double().cpu().clamp(max=1 - _BELOW_ONE)
        scheduler.set_begin_index(0)
        return scheduler


def unipc() -> Multistep:
    """UniPC-2 in the variant B2(h), predicting data: diffusers' own defaults.

    It declares no order. Between two times inside (0, 1) it has the second; from 1 to 0 the first and last steps are
    infinitely long in lambda, what they leave is of the size of h^2 log(1/h), and the part of the corrected first step
    cancels others until the grid is fine. (Measured: 2.6 from 32 to 64 steps, 1.3 to 128, 1.7 to 512.)
    """
    from diffusers import UniPCMultistepScheduler

    return Multistep(UniPCMultistepScheduler, {"solver_type": "bh2", "predict_x0": True}, order=None)


def dpm_solver() -> Multistep:
    """DPM-Solver++(2M), second order, by the midpoint rule: diffusers' own defaults."""
    from diffusers import DPMSolverMultistepScheduler

    settings = {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"}
    return Multistep(DPMSolverMultistepScheduler, settings, order=2)
