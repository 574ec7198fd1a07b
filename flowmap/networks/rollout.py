"""Generate samples chunk by chunk: the one place where a sampler meets a chunked model.

A bidirectional model is one chunk, so evaluation, `flowmap sample` and the rollouts inside on-policy
objectives all come through here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flowmap.interfaces import Chunking, Cond, Sampler, Velocity
from flowmap.maths.draw import Draw


def rollout(
    sampler: Sampler,
    network: Velocity,
    noise: Tensor,
    times: Tensor,
    cond: Cond,
    chunking: Chunking,
    draw: Draw,
    *,
    context: Tensor | None = None,
    stop: int | None = None,
    still: int = 0,
    replay: bool = False,
    shown: Callable[[Tensor], object] | None = None,
) -> Tensor:
    """Samples `[B, F, ...]` along `times` `[N + 1]`, the clean `context` `[B, k, ...]` first.

    `noise` `[B, F - k, ...]` is what the rest is made from. Gradients flow within a chunk; what is remembered
    of a finished chunk carries none. No chunk is made beyond frame `stop`, and those that end within the first
    `still` frames are made without gradient. Raises FlowmapError if the model cannot be given so many context
    frames.

    With `replay`, where several chunks need gradient, all are made without it; backward makes those chunks again,
    one after the other, so that one graph and one memory are alive at a time. Such a result is for `backward`, which
    adds to the `grad` of the network's parameters: `torch.autograd.grad` would not see them.

    After each chunk but the last, `shown` is given all frames that are finished `[B, f, ...]`, the context among them.
    """
    maker = _Maker(sampler, network, times, chunking, draw)
    made = [] if context is None else [context]
    begin = 0 if context is None else context.shape[1]
    sizes = chunking.sizes(begin + noise.shape[1], begin)
    ends = list(itertools.accumulate(sizes, initial=begin))
    # The last of the chunks that are made is the one that reaches `stop`.
    count = len(sizes) if stop is None else 1 + sum(end < stop for end in ends[1:-1])
    pieces = list(enumerate(noise.split(sizes, dim=1)))[:count]
    quiet = sum(end <= still for end in ends[1 : count + 1])
    replays = replay and torch.is_grad_enabled() and count - quiet > 1

    memory = cond if context is None else maker.given(cond, context)
    for index, piece in pieces:
        with torch.no_grad() if replays or index < quiet else nullcontext():
            made.append(maker.chunk(index, piece, memory))
        if index + 1 < count:
            if shown is not None:
                shown(torch.cat(made, dim=1).detach())
            memory = maker.remembered(memory, made[-1])
    if replays:
        before, after = made[: quiet - count], made[quiet - count :]
        # Of no value, but it makes the result require a gradient.
        anchor = torch.zeros((), device=noise.device, requires_grad=True)
        finished = torch.cat(before, dim=1) if before else None
        starts = torch.cat([piece for _, piece in pieces[quiet:]], dim=1)
        late = torch.cat(after, dim=1)
        late = _Replay.apply(anchor, starts, late, maker, pieces[quiet:], cond, finished)  # type: ignore[no-untyped-call]
        made = [*before, late]
    return torch.cat(made, dim=1)


_Piece = tuple[int, Tensor]
"""The index of a chunk, and its noise `[B, f, ...]`."""


@final
@dataclass(frozen=True)
class _Maker:
    """Makes one chunk after the other."""

    sampler: Sampler
    network: Velocity
    times: Tensor
    chunking: Chunking
    draw: Draw

    def chunk(self, index: int, noise: Tensor, memory: Cond) -> Tensor:
        return self.sampler.sample(self.network, noise, self.times, memory, self.draw.child(f"chunk-{index}"))

    @torch.no_grad()
    def given(self, cond: Cond, frames: Tensor) -> Cond:
        return self.chunking.given(self.network, cond, frames)

    @torch.no_grad()
    def remembered(self, memory: Cond, chunk: Tensor) -> Cond:
        return self.chunking.remember(self.network, memory, chunk.detach())


class _Replay(torch.autograd.Function):
    """The chunks `made` from `noise`, as a function of whatever the network trains.

    No gradient crosses chunks, so once dL/dx is known each chunk needs its own share of it and nothing else. The
    outer graph holds no call of the network. All draws have addresses, so the chunks come out the same again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        noise: Tensor,
        made: Tensor,
        maker: _Maker,
        pieces: Sequence[_Piece],
        cond: Cond,
        finished: Tensor | None,
    ) -> Tensor:
        ctx.maker, ctx.pieces, ctx.cond, ctx.finished = maker, pieces, cond, finished
        return made.view_as(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        maker, wanted = ctx.maker, ctx.needs_input_grad[1]
        starts = [noise.detach().requires_grad_(wanted) for _, noise in ctx.pieces]
        shares = slope.split([noise.shape[1] for noise in starts], dim=1)
        # What came before is read again, in one call. Kept since the rollout, its memory would be a third one beside
        # the old and the new one at every `remembered`: some 10 GB at 14B, for a call of a tenth of a rollout's tokens.
        memory = ctx.cond if ctx.finished is None else maker.given(ctx.cond, ctx.finished)
        for place, (index, _) in enumerate(ctx.pieces):
            with torch.enable_grad():
                chunk = maker.chunk(index, starts[place], memory)
            if chunk.requires_grad:
                torch.autograd.backward(chunk, shares[place])
            # No graph outlives its backward, not even an empty one.
            chunk = chunk.detach()
            if place + 1 < len(starts):
                memory = maker.remembered(memory, chunk)
        return None, torch.cat([noise.grad for noise in starts], dim=1) if wanted else None, *[None] * 5
