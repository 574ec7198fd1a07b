"""DMD2, Self-Forcing and CausVid: one loss, on samples that are made in three ways.

DMD2 (arXiv 2405.14867) on a consistency rollout, as its successors use it on flow-matching models. On a
grid of N steps an exit k is drawn, the same in all processes. The steps before it (jump to 0, add fresh noise up
to the next time) have no gradient; the jump X_{t_k->0} gives the result x, and has one. Then

    loss = 1/2 |x - sg(x - g)|^2,  g = (fake - real) / mean|x - real|,

with what critic (fake) and teacher (real) predict as x0 from x, noised to a time drawn as `score_times` says.
(docs/derivations.md, eqs. 20, 21 and 23). The critic learns the velocity of the student's samples by flow matching at
times of the same law (docs/derivations.md, eq. 36), in `critic_steps` updates for each of the student.

As released: learning rates 5e-7 for SDXL (tianweiy/DMD2) and 1e-5 for Wan (FastGen), of student and critic alike, no
EMA. The paper's GAN term, a head on the critic that tells real samples from generated ones, is left out. The student
learns X_{t->0} from the times of this grid alone: sample it with as many steps and the same shift.

Self-Forcing (arXiv 2506.08009): DMD2 on the rollout of a causal model, chunk by chunk, as it will be sampled.

Every chunk is made by consistency steps after the student's own finished chunks, whose keys and values are remembered
without gradient. One exit step k, the same for all chunks and in all processes, carries the gradient of each chunk's
last jump X_{t_k->0}; loss and critic are those of DMD2, with scores of the whole video by a bidirectional teacher and
critic.

For a model of one chunk this is DMD2, but for its score times. Chunks of a causal model all have a gradient, of which
one chunk's graph is alive at a time (`replay`). Published: steps 4, shift 5, learning rates 2e-6 (student) and 4e-7
(critic), EMA .99.

CausVid (arXiv 2412.07772): DMD2 on noised real data, with a time of its own for each chunk.

Chunk c of a real video is noised to t_c, drawn from the grid of `steps` times; the causal student carries all chunks
to 0 in one jump with gradient, x = X_{t_c->0}(x_{t_c}), and x gets DMD2's loss with scores of the whole video by a
bidirectional teacher and critic. The student never sees its own samples: it is cheaper than a rollout, and exposed to
the drift of its own errors, which Self-Forcing mends.

Here a chunk sees the clean chunks before it, as our causal models are trained (teacher forcing); in the paper it sees
them as noised as they are. Chunks outside the step's window (flowmap.interfaces.Window) stay real in what is scored.
Start from a student trained on `trajectory`, as the paper does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flowmap.interfaces import Batch, Scene, every
from flowmap_distribution.matching import Duel, Matching, score_times
from flowmap_distribution.parts import ConsistencyRolloutConfig, Dmd2FamilyConfig
from flowmap_distribution.rollouts import LastStep, Rollout, exit_times


def dmd2_on(make: Callable[[Scene], Batch], config: Dmd2FamilyConfig) -> Duel:
    """DMD2's student and critic, each on samples that `make` gives; the student once in `critic_steps` steps."""
    times = score_times(config.score_times)
    return Duel(
        make,
        Matching(0.5, times, config.cfg_scale),
        times,
        config.forward.build() if config.forward else None,
        config.forward_weight,
        config.critic_sigma_d,
        every(config.critic_steps),
    )


def exiting(config: ConsistencyRolloutConfig) -> Rollout:
    """A consistency rollout that exits at a step drawn for all processes, the only one with a gradient."""
    times = partial(exit_times, steps=config.steps, shift=config.shift)
    return Rollout(LastStep(config.sampler.build()), times, config.score, config.replay)
