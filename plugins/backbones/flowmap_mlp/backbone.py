"""A residual MLP with adaptive layer norm (AdaLN, arXiv 2212.09748), with one time or two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowmap.errors import FlowmapError
from flowmap.interfaces import (
    Backbone,
    Batch,
    Chunking,
    Cond,
    FlowMap,
    NoCond,
    OneChunk,
    Role,
    Samples,
    Velocity,
)
from flowmap.maths.draw import Draw
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap_mlp.configs import MlpConfig


@final
class LabelCond(Cond):
    """Class labels `[B]` int64; `classes` itself is the null label."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def take(self, index: Tensor) -> LabelCond:
        """The labels at `index`."""
        return LabelCond(self.labels[index])

    def join(self, other: LabelCond) -> LabelCond:
        """These labels, then the others."""
        return LabelCond(torch.cat([self.labels, other.labels]))


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
    """Velocity `[B, F, ...]` from `x` of that shape, `t` `[B]` and, with two times, `r` `[B]`."""

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

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, labels: Tensor | None) -> Tensor:
        """See the class."""
        emb = self.time(t)
        if self.target_time is not None:
            emb = torch.lerp(emb, self.target_time(r), self.gate)
        if self.label is not None:
            emb = emb + self.label(labels)
        emb = F.silu(emb)
        h = self.into(x.flatten(1))
        for block in self.blocks:
            h = block(h, emb)
        return self.out(F.layer_norm(h, h.shape[-1:])).reshape(x.shape)


def _labels(cond: Cond) -> Tensor | None:
    return cond.labels if isinstance(cond, LabelCond) else None


def _one_time(t: Tensor) -> Tensor:
    return t[:, 0] if t.ndim == 2 else t


@final
class _MlpVelocity(Velocity):
    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        result: Tensor = self._module(x, _one_time(t), None, _labels(cond))
        return result


@final
class _MlpFlowMap(FlowMap):
    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        result: Tensor = self._module(x, _one_time(t), _one_time(r), _labels(cond))
        return result


@final
class MlpBackbone(Backbone):
    """Makes MLP roles; data space is model space."""

    def __init__(self, config: MlpConfig, spec: SampleSpec) -> None:
        self._config = config
        self._spec = spec

    def role(self, name: str, kind: NetworkKind, weights: Mapping[str, Tensor] | None, draw: Draw) -> Role:
        """See Backbone.role; base weights are a random initialisation."""
        two_times = kind == "flow_map"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(draw.shared("initialisation").integers(2**62)))
            # The single-time network first: base weights are then the same for both kinds.
            module = MlpModule(self._config, self._spec, two_times=False)
            if two_times:
                module.target_time = _TimeEmbedder(self._config.width, self._config.frequency)
        state = dict(weights) if weights is not None else dict(module.state_dict())
        if two_times and (weights is None or not any(key.startswith("target_time.") for key in state)):
            # The r-embedder starts as a copy of t's, so that u(x, t, t) is the single-time network exactly.
            copies = {k.replace("time.", "target_time.", 1): v for k, v in state.items() if k.startswith("time.")}
            state |= copies
        wanted = module.state_dict()
        odd = sorted(wanted.keys() ^ state.keys()) + [
            k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape
        ]
        if odd:
            raise FlowmapError(f"role '{name}': these weights are not of this mlp: {', '.join(odd[:3])} differ", code=1)
        module.load_state_dict(state)
        network = _MlpFlowMap(module) if two_times else _MlpVelocity(module)
        return Role(name, network, module, dict(module.named_parameters()))

    def precompute(self, samples: Samples) -> Samples:
        """Samples as they are."""
        return samples

    def encode(self, samples: Samples) -> Batch:
        """Samples as they are."""
        cond, null = self.condition(samples.prompts, len(samples.x))
        return Batch(samples.x, cond, null)

    def decode(self, x: Tensor) -> Tensor:
        """Samples as they are."""
        return x

    def condition(self, prompts: Any, count: int) -> tuple[Cond, Cond]:
        """`prompts` are labels `[count]`, or None for unconditional data."""
        if prompts is None:
            return NoCond(), NoCond()
        return LabelCond(prompts), LabelCond(torch.full_like(prompts, self._spec.classes))

    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the data."""
        return self._spec.shape

    def chunking(self) -> Chunking:
        """One frame, one chunk."""
        return OneChunk()

    def export(self, role: Role, folder: Path, form: str, merged: bool, shift: float) -> str:
        """Raises FlowmapError: nothing else loads such a network."""
        raise FlowmapError("backbone 'mlp' has no form that others load; its weights are in the run's checkpoints")
