"""Distribution matching on consistency rollouts with one step that has a gradient: DMD2's and Self-Forcing's core."""

from __future__ import annotations

from functools import partial

from flowmap.interfaces import every
from flowmap_distribution.matching import Duel, Matching, score_times
from flowmap_distribution.parts import ConsistencyRolloutConfig
from flowmap_distribution.rollouts import LastStep, Rollout, exit_times


def duel(config: ConsistencyRolloutConfig) -> Duel:
    """Student and critic, for DMD2's loss on rollouts that exit at a step drawn for all processes."""
    times = score_times(config.score_times)
    return Duel(
        Rollout(
            LastStep(config.sampler.build()),
            partial(exit_times, steps=config.steps, shift=config.shift),
            config.score,
            config.replay,
        ),
        Matching(0.5, times, config.cfg_scale),
        times,
        config.forward.build() if config.forward else None,
        config.forward_weight,
        config.critic_sigma_d,
        every(config.critic_steps),
    )
