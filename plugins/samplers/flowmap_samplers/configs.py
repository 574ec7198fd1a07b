"""Samplers `euler`, `heun`, `unipc`, `dpm_solver` (velocities), `flow_map`, `consistency` and `gamma` (flow maps)."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from flowmap.plugin import NetworkKind, SamplerConfig
from flowmap.schema.bounds import Share

if TYPE_CHECKING:
    from flowmap.interfaces import Sampler


class OneCallConfig(SamplerConfig, ABC):
    """What the samplers share that call a velocity once a step."""

    network: ClassVar[NetworkKind] = "velocity"
    calls_per_step: ClassVar[int] = 1


class OneJumpConfig(SamplerConfig, ABC):
    """What the samplers share that call a flow map once a step."""

    network: ClassVar[NetworkKind] = "flow_map"
    calls_per_step: ClassVar[int] = 1


class EulerConfig(OneCallConfig):
    """Euler's method on the instantaneous velocity."""

    type: Literal["euler"] = "euler"

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


class FlowMapConfig(OneJumpConfig):
    """One jump of the flow map per step: exact on any grid if the map is."""

    type: Literal["flow_map"] = "flow_map"

    def build(self) -> Sampler:
        """Make the sampler."""
        from flowmap_samplers.samplers import FlowMapEuler

        return FlowMapEuler()


class ConsistencyConfig(OneJumpConfig):
    """Jump to data, add fresh noise to the next time, repeat (multistep consistency sampling)."""

    type: Literal["consistency"] = "consistency"

    def build(self) -> Sampler:
        """Make the sampler."""
        from flowmap_samplers.samplers import ConsistencyMultistep

        return ConsistencyMultistep()


class GammaConfig(OneJumpConfig):
    """Overshoot each jump of the flow map, then add fresh noise back (gamma-sampling, arXiv 2506.14603)."""

    type: Literal["gamma"] = "gamma"
    gamma: Share = Field(
        0.2,
        description="how far a jump to r overshoots, to (1 - gamma) r: 0 is the sampler flow_map, 1 consistency",
    )

    def build(self) -> Sampler:
        """Make the sampler."""
        from flowmap_samplers.stochastic import Gamma

        return Gamma(self.gamma)


class UniPCConfig(OneCallConfig):
    """UniPC, second order with one call a step, by diffusers' scheduler (arXiv 2302.04867)."""

    type: Literal["unipc"] = "unipc"

    def build(self) -> Sampler:
        """Make the sampler."""
        from flowmap_samplers.multistep import unipc

        return unipc()


class DpmSolverConfig(OneCallConfig):
    """DPM-Solver++(2M), second order with one call a step, by diffusers' scheduler (arXiv 2211.01095)."""

    type: Literal["dpm_solver"] = "dpm_solver"

    def build(self) -> Sampler:
        """Make the sampler."""
        from flowmap_samplers.multistep import dpm_solver

        return dpm_solver()
