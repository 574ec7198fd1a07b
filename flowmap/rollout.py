"""Generate samples chunk by chunk: the one place where a sampler meets a chunked model.

A bidirectional model is one chunk, so evaluation, `flowmap sample` and the rollouts inside on-policy
objectives all come through here.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from flowmap.draw import Draw
from flowmap.interfaces import Chunking, Cond, Sampler, Velocity


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
) -> Tensor:
    """Samples `[B, F, ...]` along `times` `[N + 1]`, the clean `context` `[B, k, ...]` first.

    `noise` `[B, F - k, ...]` is what the rest is made from. Gradients flow within a chunk; what is remembered
    of a finished chunk carries none. No chunk is made beyond frame `stop`, and those that end within the first
    `still` frames are made without gradient. Raises FlowmapError if the model cannot be given so many context
    frames.
    """
    chunks: list[Tensor] = []
    done = 0
    if context is not None:
        done = context.shape[1]
        with torch.no_grad():
            cond = chunking.given(network, cond, context)
        chunks.append(context)
    stop = done + noise.shape[1] if stop is None else stop
    pieces = noise.split(chunking.sizes(done + noise.shape[1], done), dim=1)
    for index, piece in enumerate(pieces):
        done += piece.shape[1]
        with torch.no_grad() if done <= still else nullcontext():
            chunks.append(sampler.sample(network, piece, times, cond, draw.child(f"chunk-{index}")))
        if done >= stop:
            break
        if index + 1 < len(pieces):
            with torch.no_grad():
                cond = chunking.remember(network, cond, chunks[-1].detach())
    return torch.cat(chunks, dim=1)
