"""Samplers of velocities: euler, heun, unipc, dpm_solver; of flow maps: flow_map, consistency, gamma, lcm."""

from __future__ import annotations

import itertools
from abc import ABC
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from flowmap.plugin import NetworkKind, OwnTimes, SamplerConfig
from flowmap.schema.bounds import MOST_PARTS, Share, Shift, Thousandths

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

    to_data: ClassVar[bool] = True
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


class LcmConfig(OneJumpConfig):
    """Jump to data and noise again along one list of times: how released few-step students are sampled."""

    to_data: ClassVar[bool] = True
    type: Literal["lcm"] = "lcm"
    times: tuple[Thousandths, ...] = Field(
        min_length=1,
        max_length=MOST_PARTS,
        description="the times of the steps in thousandths, falling; 1000 is noise, and each step is a call",
    )
    shift: Shift = Field(1.0, description="that of the noise levels which the network was trained on")
    warped: bool = Field(True, description="whether `times` stand on an even grid, to be shifted; no: as they are")
    levels: Literal["exact", "nearest", "whole"] = Field(
        "exact",
        description="the noise level of a time: the time itself ('exact'), the 'nearest' of a thousand shifted levels "
        "(Self-Forcing, CausVid, Krea, FastVideo), or by times cut to 'whole' thousandths (LightX2V)",
    )
    start: Literal["noise", "scaled"] = Field(
        "noise", description="whether a list that begins below 1000 begins with unit noise, or with noise of that level"
    )
    time_input: Literal["exact", "bfloat16"] = Field(
        "exact", description="how the network is told a time: as it is, or rounded to bfloat16 (rCM as released)"
    )
    boundary: Thousandths | None = Field(
        None, description="from this time up each step goes to it, and not to data: where one of two networks ends"
    )

    @model_validator(mode="after")
    def _falling(self) -> Self:
        if any(later >= earlier for earlier, later in itertools.pairwise(self.times)):
            raise ValueError("times must fall from step to step, such as [1000, 750, 500, 250]")
        return self

    def own_times(self) -> OwnTimes:
        """The list, shifted if it is to be, and 0 after it."""
        even = [time / 1000 for time in self.times]
        s = self.shift if self.warped else 1.0
        times = tuple(s * t / (1 + (s - 1) * t) for t in even)
        return OwnTimes((*times, 0.0), times[0] if self.start == "scaled" else 1.0)

    def build(self) -> Sampler:
        """Make the sampler."""
        from flowmap_samplers import lcm

        level = lcm.exact
        if self.levels != "exact":
            level = (lcm.nearest if self.levels == "nearest" else lcm.whole_thousandths)(self.shift)
        boundary = None if self.boundary is None else self.boundary / 1000
        told = lcm.in_bfloat16 if self.time_input == "bfloat16" else lcm.as_it_is
        return lcm.Lcm(level, boundary, told)
