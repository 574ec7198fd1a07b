"""A residual MLP with adaptive layer norm (AdaLN, arXiv 2212.09748), with one time or two."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowmap.interfaces import Cond
from flowmap.plugin import SampleSpec
from flowmap.workshop.conditions import LABELS, TensorCond
from flowmap_mlp.configs import MlpConfig


class _TimeEmbedder(nn.Module):
    def __init__(self, width: int, frequency: float, features: int = 32) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(math.log(0.5), math.log(frequency), features))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.frequencies
        embedded: Tensor = self.layers(torch.cat([angle.sin(), angle.cos()], dim=1))
        return embedded


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, offset, gate = self.modulation(emb).chunk(3, dim=1)
        normed = F.layer_norm(h, h.shape[-1:])
        return h + gate * self.layers(normed * (1 + scale) + offset)


class MlpModule(nn.Module):
    """Velocity `[B, F, ...]` from `x` of that shape, `t` `[B]`, with two times `r` `[B]`, and labels or nothing."""

    def __init__(self, config: MlpConfig, spec: SampleSpec, two_times: bool) -> None:
        super().__init__()
        size = math.prod(spec.shape)
        self.gate = config.gate
        self.into = nn.Linear(size, config.width)
        self.time = _TimeEmbedder(config.width, config.frequency)
        self.target_time = _TimeEmbedder(config.width, config.frequency) if two_times else None
        self.label = nn.Embedding(spec.classes + 1, config.width) if spec.classes else None
        self.blocks = nn.ModuleList(_Block(config.width) for _ in range(config.depth))
        self.out = nn.Linear(config.width, size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        """See the class."""
        emb = self.time(_distinct(t))
        if self.target_time is not None:
            emb = torch.lerp(emb, self.target_time(_distinct(r)), self.gate)
        if self.label is not None and isinstance(cond, TensorCond):
            emb = emb + self.label(cond[LABELS])
        emb = F.silu(emb)
        h = self.into(x.flatten(1))
        for block in self.blocks:
            h = block(h, emb)
        return self.out(F.layer_norm(h, h.shape[-1:])).reshape(x.shape)


def _distinct(times: Tensor) -> Tensor:
    """`[1]` of one time for all samples, as samplers give it (expanded): all that is made of times is made once."""
    return times[:1] if times.stride(0) == 0 else times
