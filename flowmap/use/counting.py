"""Count what samples take of a network while they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from flowmap.interfaces import Cond, Velocity
from flowmap.statistics.effort import Effort


@final
@dataclass
class Tally:
    """What so many `samples` took together: a call of a batch of B counts B `calls`.

    `passes` counts each network that such a call goes through. Each sample is made of so many `chunks`.
    """

    samples: int = 0
    chunks: int = 0
    calls: int = 0
    passes: int = 0

    def call(self, network: Velocity, x: Tensor, cond: Cond) -> None:
        """Count a call of `network` for `x` `[B, F, ...]`."""
        self.calls += len(x)
        self.passes += len(x) * network.passes(cond)

    def made(self, samples: int, chunks: int) -> None:
        """So many more are finished."""
        self.samples += samples
        self.chunks = chunks

    def of_one(self) -> Effort | None:
        """What each took, as all took alike; None if there are none."""
        if not self.samples:
            return None
        return Effort(self.chunks, self.calls // self.samples, self.passes // self.samples)
