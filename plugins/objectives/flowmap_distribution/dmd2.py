"""DMD2 (arXiv 2405.14867) on a consistency rollout, as its successors use it on flow-matching models.

On a grid of N steps an exit k is drawn, the same in all processes. The steps before it (jump to 0, add fresh noise up
to the next time) have no gradient; the jump X_{t_k->0} gives the result x, and has one. Then

    loss = 1/2 |x - sg(x - g)|^2,  g = (fake - real) / mean|x - real|,

with what critic (fake) and teacher (real) predict as x0 from x, noised to a time drawn as `score_times` says.
The critic learns the velocity of the student's samples by flow matching at times of the same law, in `critic_steps`
updates for each of the student.

As released: learning rates 5e-7 for SDXL (tianweiy/DMD2) and 1e-5 for Wan (FastGen), of student and critic alike, no
EMA. The paper's GAN term, a head on the critic that tells real samples from generated ones, is left out. The student
learns X_{t->0} from the times of this grid alone: sample it with as many steps and the same shift.
"""

from __future__ import annotations

from typing import final

from flowmap.interfaces import Objective, Turn
from flowmap_distribution.configs import Dmd2Config
from flowmap_distribution.consistency_rollout import duel


@final
class Dmd2(Objective):
    """See the module."""

    def __init__(self, config: Dmd2Config) -> None:
        self._duel = duel(config)

    def turns(self) -> tuple[Turn, ...]:
        """The student's at every `critic_steps`-th step, from the first on; the critic's at every step."""
        return self._duel.turns()
