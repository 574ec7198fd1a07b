"""What the small residual network takes, without its weights."""

from __future__ import annotations

from functools import cache
from typing import final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from flowmap.planning.fake import Taken, fake_tensors, measure
from flowmap.plugin import NetworkKind, Precision, SampleSpec
from flowmap.plugin.footprint import CallShape, Flops, Footprint, Weights
from flowmap_mlp.backbone import MlpModule
from flowmap_mlp.configs import MlpConfig


@final
class MlpFootprint(Footprint):
    """Every role is a network of its own, and small: it is gathered whole."""

    def __init__(self, config: MlpConfig, spec: SampleSpec, precision: Precision) -> None:
        self._config, self._spec, self._precision = config, spec, precision
        self._measured = cache(self._measure)

    def base(self) -> Weights:
        """Nothing is shared."""
        return Weights(0, 0, 0, 0)

    def own(self, kind: NetworkKind) -> Weights:
        """The whole network."""
        parameters = list(self._meta(kind).parameters())
        size = sum(p.numel() * p.element_size() for p in parameters)
        return Weights(sum(p.numel() for p in parameters), size, 0, size)

    def flops(self, kind: NetworkKind, shape: CallShape) -> Flops:
        """A product with every matrix; in backward two, for what comes in as if a gradient went on."""
        layers = [layer for layer in self._meta(kind).modules() if isinstance(layer, nn.Linear)]
        forward = sum(2 * layer.weight.numel() for layer in layers)
        return Flops(forward, 2 * forward)

    def held(self, kind: NetworkKind, shape: CallShape, samples: int) -> int:
        """See Footprint.held."""
        return self._measured(kind, samples, True).held

    def workspace(self, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> int:
        """See Footprint.workspace."""
        taken = self._measured(kind, samples, gradient)
        return taken.peak - taken.held

    def memory(self, frames: int) -> int:
        """Nothing is remembered."""
        return 0

    def prompt(self) -> int:
        """A label is nothing."""
        return 0

    def _meta(self, kind: NetworkKind) -> MlpModule:
        with torch.device("meta"):
            return MlpModule(self._config, self._spec, two_times=kind == "flow_map")

    def _measure(self, kind: NetworkKind, samples: int, gradient: bool) -> Taken:
        module, mode = self._meta(kind), FakeTensorMode()
        fake_tensors(module, mode)
        with mode:
            t = torch.zeros(samples)
            x = torch.zeros(samples, *self._spec.shape)
            labels = torch.zeros(samples, dtype=torch.int64) if self._spec.classes else None
            r = t if kind == "flow_map" else None
            return measure(lambda: module(x, t, r, labels), gradient, self._precision)
