"""What causal students of others take: measured on few blocks of one network; two networks are reckoned from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, final

from flowmap.plugin import NetworkKind, Precision, SampleSpec
from flowmap.plugin.footprint import CallShape, Footprint, Weights
from flowmap.workshop.footprint import MeasuredFootprint
from flowmap_wan.causal_backbone import of_sizes
from flowmap_wan.causal_configs import CausalConfig, CausalWan21Config
from flowmap_wan.codec import latent_shape
from flowmap_wan.footprint import prompts_of, without_turns


def causal_footprint(
    config: CausalConfig, spec: SampleSpec, sizes: Mapping[str, Any], precision: Precision
) -> Footprint:
    """The footprint of `config` on samples of `spec`, of `sizes` (a diffusers configuration)."""
    return _measured(config, spec, tuple(sizes.items()), precision)


@lru_cache(maxsize=8)
def _measured(
    config: CausalConfig, spec: SampleSpec, told: tuple[tuple[str, Any], ...], precision: Precision
) -> Footprint:
    """It remembers what it has measured: a plan asks twice, and who plans often asks often."""
    sizes = dict(told)
    latents = replace(spec, shape=spec.shape if config.random_base else latent_shape(config, spec))
    one = config
    if not isinstance(config, CausalWan21Config):
        fields = {name: getattr(config, name) for name in CausalConfig.model_fields if name != "type"}
        one = CausalWan21Config.model_construct(**fields)
    # Every way of masked attention computes what it computes in parts.
    one = one.model_copy(update={"attention": "parts"})
    found = MeasuredFootprint(
        lambda units: of_sizes(one, latents, {**sizes, "num_layers": units}),
        int(sizes["num_layers"]),
        precision,
        prompts=prompts_of(config, spec, sizes),
        within=without_turns,
    )
    return found if isinstance(config, CausalWan21Config) else _Two(found)


@final
class _Two(Footprint):
    """Two networks such as `one`, of which one answers a call, and both read what is remembered."""

    def __init__(self, one: Footprint) -> None:
        self._one = one

    def base(self) -> Weights:
        """See Footprint.base."""
        return _twice(self._one.base())

    def own(self, kind: NetworkKind) -> Weights:
        """See Footprint.own."""
        return _twice(self._one.own(kind))

    def flops(self, kind: NetworkKind, shape: CallShape, gradient: bool) -> int:
        """See Footprint.flops."""
        return (1 + (shape.view == "reading")) * self._one.flops(kind, shape, gradient)

    def held(self, kind: NetworkKind, shape: CallShape, samples: int) -> int:
        """See Footprint.held."""
        return self._one.held(kind, shape, samples)

    def workspace(self, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> int:
        """See Footprint.workspace; what is read stays of both."""
        return (1 + (shape.view == "reading")) * self._one.workspace(kind, shape, samples, gradient)

    def memory(self, frames: int) -> int:
        """See Footprint.memory."""
        return 2 * self._one.memory(frames)

    def prompt(self) -> int:
        """See Footprint.prompt."""
        return 2 * self._one.prompt()


def _twice(one: Weights) -> Weights:
    return Weights(2 * one.count, 2 * one.bytes, one.unit, 2 * one.root)
