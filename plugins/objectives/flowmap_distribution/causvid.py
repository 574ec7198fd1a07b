"""CausVid (arXiv 2412.07772): DMD2 on noised real data, with a time of its own for each chunk.

Chunk c of a real video is noised to t_c, drawn from the grid of `steps` times; the causal student carries all chunks
to 0 in one jump with gradient, x = X_{t_c->0}(x_{t_c}), and x gets DMD2's loss (flowmap_distribution.dmd2) with scores
of the whole video by a bidirectional teacher and critic. The student never sees its own samples: it is cheaper than
a rollout, and exposed to the drift of its own errors, which Self-Forcing mends.

Here a chunk sees the clean chunks before it, as our causal models are trained (teacher forcing); in the paper it sees
them as noised as they are. Chunks outside the step's window (flowmap.interfaces.Window) stay real in what is scored.
Start from a student trained on `trajectory`, as the paper does.
"""

from __future__ import annotations

from typing import final

from flowmap.interfaces import Objective, Turn, every
from flowmap_distribution.configs import CausVidConfig
from flowmap_distribution.matching import Duel, Matching, score_times
from flowmap_distribution.rollouts import Denoised


@final
class CausVid(Objective):
    """See the module."""

    def __init__(self, config: CausVidConfig) -> None:
        times = score_times(config.score_times)
        self._duel = Duel(
            Denoised(config.steps, config.shift, config.score),
            Matching(0.5, times, config.cfg_scale),
            times,
            config.forward.build() if config.forward else None,
            config.forward_weight,
            config.critic_sigma_d,
            every(config.critic_steps),
        )

    def turns(self) -> tuple[Turn, ...]:
        """The student's at every `critic_steps`-th step, from the first on; the critic's at every step."""
        return self._duel.turns()
