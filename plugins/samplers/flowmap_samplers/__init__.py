"""Samplers `euler`, `heun`, `flow_map` and `consistency`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from flowmap.configs import ComponentConfig, NetworkKind, SamplerConfig
from flowmap.hookspecs import hookimpl

if TYPE_CHECKING:
    from flowmap.interfaces import Sampler


class EulerConfig(SamplerConfig):
    """Euler's method on the instantaneous velocity."""

    type: Literal["euler"] = "euler"
    network: ClassVar[NetworkKind] = "velocity"
    calls_per_step: ClassVar[int] = 1

    def build(self) -> Sampler:
        """Make the sampler."""
        from flowmap_samplers.samplers import Euler

        return Euler()


class HeunConfig(SamplerConfig):
    """Heun's second-order method on the instantaneous velocity: two calls a step."""

    type: Literal["heun"] = "heun"
    network: ClassVar[NetworkKind] = "velocity"
    calls_per_step: ClassVar[int] = 2

    def build(self) -> Sampler:
        """Make the sampler."""
        from flowmap_samplers.samplers import Heun

        return Heun()


class FlowMapConfig(SamplerConfig):
    """One jump of the flow map per step: exact on any grid if the map is."""

    type: Literal["flow_map"] = "flow_map"
    network: ClassVar[NetworkKind] = "flow_map"
    calls_per_step: ClassVar[int] = 1

    def build(self) -> Sampler:
        """Make the sampler."""
        from flowmap_samplers.samplers import FlowMapEuler

        return FlowMapEuler()


class ConsistencyConfig(SamplerConfig):
    """Jump to data, add fresh noise to the next time, repeat (multistep consistency sampling)."""

    type: Literal["consistency"] = "consistency"
    network: ClassVar[NetworkKind] = "flow_map"
    calls_per_step: ClassVar[int] = 1

    def build(self) -> Sampler:
        """Make the sampler."""
        from flowmap_samplers.samplers import ConsistencyMultistep

        return ConsistencyMultistep()


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [EulerConfig, HeunConfig, FlowMapConfig, ConsistencyConfig]
