"""A U-Net for signals, with one time or two."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowmap.interfaces import Backbone, Cond
from flowmap.plugin import SampleSpec
from flowmap.workshop import LABELS, Architecture, ModuleBackbone, NoCodec, TensorCond, labelled
from flowmap_strangers.backbones import UNet1dConfig
from flowmap_strangers.exporting import export

PLACES = 4


class Times(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-0.3, math.log10(30), 16), persistent=False)
        self.layers = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.frequencies
        return self.layers(torch.cat([angle.sin(), angle.cos()], dim=1))


class Level(nn.Module):
    def __init__(self, inside: int, outside: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(inside, outside, 3, padding=1), nn.Conv1d(outside, outside, 3, padding=1)
        self.emb, self.norm = nn.Linear(width, 2 * outside), nn.GroupNorm(4, outside)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.emb(emb)[..., None].chunk(2, dim=1)
        return self.second(F.silu(self.norm(self.first(h)) * (1 + scale) + shift))


class UNet1d(nn.Module):
    def __init__(self, width: int, spec: SampleSpec, two_times: bool) -> None:
        super().__init__()
        _, channels, length = spec.shape
        self.time, self.target_time = Times(width), Times(width) if two_times else None
        self.label = nn.Embedding(spec.classes + 1, width)
        # Convolutions alone know no place, and a season is one.
        self.places = nn.Parameter(torch.randn(PLACES, length))
        self.down, self.middle = Level(channels + PLACES, width, width), Level(width, 2 * width, width)
        self.up, self.out = Level(3 * width, width, width), nn.Conv1d(width, channels, 1)

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        emb = self.time(t) if self.target_time is None else torch.lerp(self.time(t), self.target_time(r), 0.25)
        emb = F.silu(emb + self.label(cond[LABELS])) if isinstance(cond, TensorCond) else F.silu(emb)
        fine = self.down(torch.cat([x.squeeze(1), self.places.expand(len(x), -1, -1)], dim=1), emb)
        coarse = F.interpolate(self.middle(F.avg_pool1d(fine, 2), emb), scale_factor=2)
        return self.out(self.up(torch.cat([fine, coarse], dim=1), emb)).unsqueeze(1)


def unet1d(config: UNet1dConfig, spec: SampleSpec) -> Backbone:
    architecture = Architecture(
        lambda two_times, chosen: UNet1d(config.width, spec, two_times), copies={"target_time.": "time."}, export=export
    )
    return ModuleBackbone(config.type, architecture, NoCodec(spec.shape), labelled(spec.classes))
