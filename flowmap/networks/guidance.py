"""Classifier-free guidance (arXiv 2207.12598), in one convention (docs/derivations.md, eq. 15).

`cfg_scale` w means null + w (cond - null) everywhere in flowmap: 1 is no guidance. (AnyFlow's stage-3 code
writes cond + 3 (cond - null), which is cfg_scale 4 here.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Batch, Cond, LaidOutAs, Velocity, Window


def guided_velocity(network: Velocity, x: Tensor, t: Tensor, cond: Cond, null: Cond, cfg_scale: float) -> Tensor:
    """The guided velocity at `x` `[B, F, ...]`, `t` `[B]` or `[B, F]`: one call, of twice the batch if guided."""
    if cfg_scale == 1.0:
        return network.velocity(x, t, cond)
    both = network.velocity(torch.cat([x, x]), torch.cat([t, t]), cond.join(null))
    with_cond, without = both.chunk(2)
    return without + cfg_scale * (with_cond - without)


def unguided(guided: Tensor, null: Tensor, cfg_scale: float) -> Tensor:
    """The conditional velocity of which `guided` is the guided one: (guided - (1 - w) null) / w, `[B, F, ...]`.

    With it a student learns guided velocities from data, which know no guidance (AnyFlow, arXiv 2605.13724;
    docs/derivations.md, eq. 16).
    """
    return (guided - (1 - cfg_scale) * null) / cfg_scale


@final
@dataclass(frozen=True)
class GuidedCond(Cond):
    """A condition together with the null condition that guidance leads away from."""

    cond: Cond
    null: Cond

    def take(self, index: Tensor) -> GuidedCond:
        """The rows of both."""
        return GuidedCond(self.cond.take(index), self.null.take(index))

    def join(self, other: GuidedCond) -> GuidedCond:
        """The rows of both."""
        return GuidedCond(self.cond.join(other.cond), self.null.join(other.null))


@final
class Guided(Velocity):
    """`network` under guidance, for samplers; takes conditions that are GuidedCond."""

    def __init__(self, network: Velocity, cfg_scale: float) -> None:
        self.network, self._scale = network, cfg_scale

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """See guided_velocity."""
        both = _pair(cond)
        return guided_velocity(self.network, x, t, both.cond, both.null, self._scale)


@final
class GuidedChunks(LaidOutAs):
    """The chunks of `inner` for a guided network: each half of a condition remembers for itself."""

    def forced(self, batch: Batch, window: Window) -> Batch:
        """See Chunking.forced."""
        return self._inner.forced(batch, window)

    def whole(self, batch: Batch) -> Batch:
        """See Chunking.whole."""
        return self._inner.whole(batch)

    def unchunked(self) -> GuidedChunks:
        """See Chunking.unchunked."""
        return GuidedChunks(self._inner.unchunked())

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        """See Chunking.given."""
        inner, both = _inner(network), _pair(cond)
        return GuidedCond(*(self._inner.given(inner, half, frames) for half in (both.cond, both.null)))

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        """See Chunking.remember."""
        inner, both = _inner(network), _pair(cond)
        return GuidedCond(*(self._inner.remember(inner, half, chunk) for half in (both.cond, both.null)))


def _pair(cond: Cond) -> GuidedCond:
    if not isinstance(cond, GuidedCond):
        raise TypeError(f"a guided network takes a GuidedCond, not {type(cond).__name__}")
    return cond


def _inner(network: Velocity) -> Velocity:
    if not isinstance(network, Guided):
        raise TypeError(f"guided chunks go with a guided network, not {type(network).__name__}")
    return network.network
