"""rCM (arXiv 2510.08431): score-regularised consistency, 100 x a consistency objective + 1 x distribution matching.

The consistency objective (`forward`: sCM in the paper) covers the modes of the data and blurs; the reverse divergence
of DMD2 (flowmap_distribution.dmd2) sharpens and drops modes. The second is taken on a consistency rollout of N steps,
N evenly drawn from 1 to `most_steps`, the same in all processes, with gradient through the last jump.

The student takes a turn at every `critic_steps`-th step (published 5 at 1.3B, 10 at 14B), the critic at every step.
Distribution matching starts at step `start` of the stage: published after the warm-up of sCM's tangent. Until then the
student's turns are of consistency alone, and the critic already follows it. A sample of which the rollout or a score
is not finite adds nothing to the loss; parameters whose own gradient is not finite are not saved by that.
"""

from __future__ import annotations

from functools import partial
from typing import final

from flowmap.interfaces import Objective, Turn
from flowmap_distribution import RcmConfig
from flowmap_distribution.matching import Duel, Matching, score_times
from flowmap_distribution.rollouts import LastStep, Rollout, counted_times


@final
class Rcm(Objective):
    """See the module."""

    def __init__(self, config: RcmConfig) -> None:
        times = score_times(config.score_times)
        self._duel = Duel(
            Rollout(
                LastStep(config.sampler.build()),
                partial(counted_times, most=config.most_steps, shift=config.shift),
                config.score,
                config.replay,
            ),
            Matching(0.5, times, config.cfg_scale, masked=True),
            times,
            config.forward.build(),
            config.forward_weight,
            config.critic_steps,
            config.start,
        )

    def turns(self) -> tuple[Turn, ...]:
        """The student's at every `critic_steps`-th step, from the first on; the critic's at every step."""
        return self._duel.turns()
