"""Self-Forcing (arXiv 2506.08009): DMD2 on the rollout of a causal model, chunk by chunk, as it will be sampled.

Every chunk is made by consistency steps after the student's own finished chunks, whose keys and values are remembered
without gradient. One exit step k, the same for all chunks and in all processes, carries the gradient of each chunk's
last jump X_{t_k->0}; loss and critic are those of DMD2 (flowmap_distribution.dmd2), with scores of the whole video by
a bidirectional teacher and critic.

For a model of one chunk this is DMD2, word for word. Chunks of a causal model all have a gradient, of which one
chunk's graph is alive at a time (`replay`). Published: steps 4, shift 5, learning rates 2e-6 (student) and 4e-7
(critic), EMA .99.
"""

from __future__ import annotations

from typing import final

from flowmap.interfaces import Objective, Turn
from flowmap_distribution.configs import SelfForcingConfig
from flowmap_distribution.consistency_rollout import duel


@final
class SelfForcing(Objective):
    """See the module."""

    def __init__(self, config: SelfForcingConfig) -> None:
        self._duel = duel(config)

    def turns(self) -> tuple[Turn, ...]:
        """The student's at every `critic_steps`-th step, from the first on; the critic's at every step."""
        return self._duel.turns()
