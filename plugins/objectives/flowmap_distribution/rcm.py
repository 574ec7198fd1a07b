"""rCM (arXiv 2510.08431): score-regularised consistency, 100 x a consistency objective + 1 x distribution matching.

The consistency objective (`forward`: sCM in the paper) covers the modes of the data and blurs; the reverse divergence
of DMD2 sharpens and drops modes. The second is taken on a consistency rollout of N steps, N evenly drawn from 1 to
`most_steps`, the same in all processes, with gradient through the last jump. From t = 1 each sample goes down by times
of its own, drawn as those of the scores and none above the one before it, and starts each jump with fresh noise.

    loss = 100 |F - F- - g|^2 + |x - sg(x - (fake - real) / mean|x - real|)|^2,

without the factor 1/2 of DMD2 (docs/derivations.md, eq. 37). Here both are means over elements and samples, in the
released code sums: the same but for the size of the whole, which clipping and weight decay see.

As released (github.com/NVlabs/rcm, commit 5b41aa9), each step is either the student's or the critic's. Until step
`start` all are the student's, of consistency alone, and no critic trains; from then on one of the student, with both
terms, is followed by `critic_steps` of the critic. There N goes around from 1 to `most_steps` in place of being drawn.
A sample of which the rollout or a score is not finite adds nothing to the loss.
"""

from __future__ import annotations

from functools import partial

from flowmap_distribution.configs import RcmConfig
from flowmap_distribution.matching import Duel, Matching, score_times
from flowmap_distribution.rollouts import LastStep, Rollout, falling_times


def rcm(config: RcmConfig) -> Duel:
    """The student's turns and the critic's, see the module."""
    times = score_times(config.score_times)
    start, cycle = config.begins, config.critic_steps + 1
    return Duel(
        Rollout(
            LastStep(config.sampler.build()),
            partial(falling_times, most=config.most_steps, law=times),
            config.score,
            config.replay,
        ),
        Matching(1.0, times, config.cfg_scale, masked=True),
        times,
        config.forward.build(),
        config.forward_weight,
        config.critic_sigma_d,
        student=lambda step: step < start or (step - start) % cycle == 0,
        critic=lambda step: step >= start and (step - start) % cycle != 0,
        start=start,
    )
