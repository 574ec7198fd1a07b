"""Configurations of `flow_matching`, `flow_map` (AnyFlow's forward stage) and `discrete_flow_map`. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from flowmap.plugin import Finding, FrameView, ObjectiveConfig, RoleSpec, StageFacts, guidance_findings
from flowmap.schema.bounds import Guidance, Probability, Shift, Stride
from flowmap.schema.settings import BranchesConfig, TangentConfig, TimesConfig
from flowmap_flow.parts import OfVelocityConfig, drop_findings, nears_diagonal, null_findings, roles_of

if TYPE_CHECKING:
    from flowmap.interfaces import Objective


class FlowMatchingConfig(ObjectiveConfig):
    """Flow matching: the velocity of data, one time (arXiv 2210.02747)."""

    type: Literal["flow_matching"] = "flow_matching"
    times: TimesConfig = Field(default_factory=TimesConfig, description="how training times are drawn")
    drop_condition: Probability = Field(0.0, description="probability that a sample's condition becomes null")
    view: FrameView = Field(
        "forced",
        description="how a causal model sees frames: 'forced' noises the last chunks, given the clean ones before; "
        "'whole' noises all frames as one chunk, and so is the model sampled then (AnyFlow's teacher and critic)",
    )

    def grid_shift(self) -> float | None:
        """That of its times."""
        return self.times.shift

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student only."""
        return {"student": RoleSpec("velocity", True, "learns the velocity of the data", self.view)}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """A condition that is dropped must exist."""
        yield from drop_findings(self.drop_condition, facts)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_flow.matching import FlowMatching

        return FlowMatching(self)


class FlowMapConfig(OfVelocityConfig):
    """Forward flow-map training (AnyFlow's stage 2, arXiv 2605.13724): the MeanFlow identity by a derivative."""

    type: Literal["flow_map"] = "flow_map"
    velocity: Literal["data", "teacher"] = Field(
        "data", description="v in the target: the sample velocity e - x0, or a teacher's velocity at x_t"
    )
    branches: BranchesConfig = Field(default_factory=BranchesConfig, description="shares of the global batch")
    shift: Shift = Field(1.0, description="of both times; Wan uses 5")
    weight: Literal["uniform", "beta08", "gaussian"] = Field("uniform", description="loss weight as a function of t")
    cfg_scale: Guidance = Field(
        1.0, description="w in null + w (cond - null), fused into the student; 1 is none, AnyFlow 3"
    )
    drop_condition: Probability = Field(
        0.0,
        description="probability that a sample's condition becomes null, in all parts of the loss; AnyFlow 0.1. Fused "
        "guidance needs it: the null that it leads away from is the student's own",
    )
    rebalance: bool = Field(True, description="scale every r < t loss to the size of the r = t losses")
    bidirectional: Probability = Field(
        0.0,
        description="share of steps that add flow matching over all frames as one chunk, with the same guidance and "
        "dropped conditions; AnyFlow's causal models 0.1",
    )
    tangent: TangentConfig = Field(default_factory=TangentConfig, description="how du/dt is computed")

    def grid_shift(self) -> float | None:
        """That of both times."""
        return self.shift

    def diagonal(self) -> bool:
        """Whether the student learns its velocity too, as in RoleSpec."""
        return nears_diagonal(self.branches) or self.bidirectional > 0

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Combinations that deadlock or divide by nothing."""
        if self.rebalance and self.velocity == "teacher":
            why = (
                "rebalance with velocity = 'teacher' deadlocks: the student starts equal to the teacher at r = t, so "
                "the r = t loss is 0, every other loss is scaled to it, and nothing moves; set rebalance = false"
            )
            yield Finding("error", ("rebalance",), why)
        if self.rebalance and facts.batch * self.branches.diffusion < 1:
            why = (
                f"a global batch of {facts.batch} with a diffusion share of {self.branches.diffusion:g} can have no "
                "r = t sample, and rebalancing needs one; raise the stage's batch or the share, "
                "or set rebalance = false"
            )
            yield Finding("error", ("branches", "diffusion"), why)
        yield from guidance_findings(self.cfg_scale, facts.conditional)
        yield from null_findings(self.velocity, self.cfg_scale, self.drop_condition, facts)
        yield from drop_findings(self.drop_condition, facts)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_flow.forward import ForwardFlowMap

        return ForwardFlowMap(self)


class DiscreteFlowMapConfig(ObjectiveConfig):
    """The flow map without a derivative: one teacher step, then the averaged student (CTM, arXiv 2310.02279)."""

    type: Literal["discrete_flow_map"] = "discrete_flow_map"
    branches: BranchesConfig = Field(
        default_factory=lambda: BranchesConfig(diffusion=0.25, consistency=0.25),
        description="shares of the global batch; a quarter each if left out",
    )
    step: Stride = Field(1 / 32, description="length of the teacher's step, in units of t")
    solver: Literal["euler", "heun"] = Field("heun", description="how the teacher takes its step")
    shift: Shift = Field(1.0, description="of both times; Wan uses 5")
    cfg_scale: Guidance = Field(1.0, description="the teacher's guidance, w in null + w (cond - null); 1 is none")

    def grid_shift(self) -> float | None:
        """That of both times."""
        return self.shift

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student and a teacher."""
        return roles_of(True, "takes one step along its velocity", nears_diagonal(self.branches))

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Guidance needs a condition."""
        yield from guidance_findings(self.cfg_scale, facts.conditional)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_flow.discrete import DiscreteFlowMap

        return DiscreteFlowMap(self)
