"""Generate samples chunk by chunk: the one place where a sampler meets a chunked model.

A bidirectional model is one chunk, so evaluation, `flowmap sample` and the rollouts inside on-policy
objectives all come through here.
"""

from __future__ import annotations

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
) -> Tensor:
    """Samples `[B, F, ...]` from `noise` of that shape along `times` `[N + 1]`.

    Gradients flow within a chunk; what is remembered of a finished chunk carries none.
    """
    chunks: list[Tensor] = []
    pieces = noise.split(chunking.sizes(noise.shape[1]), dim=1)
    for index, piece in enumerate(pieces):
        chunks.append(sampler.sample(network, piece, times, cond, draw.child(f"chunk-{index}")))
        if index + 1 < len(pieces):
            with torch.no_grad():
                cond = chunking.remember(network, cond, chunks[-1].detach())
    return torch.cat(chunks, dim=1)
