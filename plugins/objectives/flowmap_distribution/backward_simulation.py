"""Flow Map Backward Simulation (AnyFlow's stage 3, arXiv 2605.13724).

The student rolls out its own map in at most three segments, X_{1->t_g}, X_{t_g->t_g+1} and X_{t_g+1->0}, with gradient
through all (docs/derivations.md, eq. 19). Distribution matching distillation (DMD2, arXiv 2405.14867) pulls the result
towards the teacher's distribution; a critic learns the student's. A forward objective shares the student's step. The
paper compares the segments with the unrolling of all N steps of the grid, which costs N calls with gradient.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Batch, Loss, Objective, Scene, Turn
from flowmap.maths.draw import Draw
from flowmap.maths.path import draw_times, grid
from flowmap_distribution.configs import BackwardSimulationConfig
from flowmap_distribution.matching import Duel, Matching, score_times
from flowmap_distribution.parts import ScoreTimesConfig
from flowmap_distribution.rollouts import Rollout


def segments(steps: int, fine: int, shift: float) -> Tensor:
    """The times 1, t_g, t_{g+1}, 0 of a rollout on the grid of `steps`, for fine step g = `fine`, each once."""
    times = grid(steps, shift)
    return torch.cat([times[:1], times[fine : fine + 2], times[-1:]]).unique().flip(0)


@final
class BackwardSimulation(Objective):
    """See the module. Without the factor 1/2 of DMD2, and with score times on all of [0, 1], as published."""

    def __init__(self, config: BackwardSimulationConfig) -> None:
        self._config = config
        everywhere = ScoreTimesConfig(low=0.0, high=1.0, shift=config.shift, limits="range")
        self._matching = Matching(1.0, score_times(everywhere), config.cfg_scale)
        self._duel = Duel(
            Rollout(config.sampler.build(), self._times, config.score, config.replay),
            self._matching,
            lambda draw, name: draw_times(draw, config.critic_times, name),
            config.forward.build() if config.forward else None,
            config.forward_weight,
        )

    def turns(self) -> tuple[Turn, ...]:
        """One update of the student, then one of the critic, each on its own batch and rollout."""
        return self._duel.turns()

    def distribution_loss(self, scene: Scene, made: Batch, tau: Tensor, noise: Tensor) -> Loss:
        """mean((x - sg[x - g])^2) in float64, x the rollout `made`, g the DMD gradient at score times `tau` `[B]`."""
        return self._matching.at(scene, made, tau, noise)

    def _times(self, draw: Draw) -> Tensor:
        shared = draw.shared("segments")
        steps = int(shared.choice(self._config.rollout_steps))
        if self._config.unroll == "full":
            return grid(steps, self._config.shift)
        return segments(steps, int(shared.integers(steps)), self._config.shift)
