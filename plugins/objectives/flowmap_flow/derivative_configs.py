"""Configurations of the flow-map family: one identity of the flow map each. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from flowmap.plugin import Finding, RoleSpec, StageFacts, guidance_findings, idle
from flowmap.schema.bounds import Constant, Deviation, Guidance, Power, Probability, Step
from flowmap.schema.settings import BranchesConfig, TangentConfig, TimesConfig
from flowmap_flow.parts import IdentityConfig, OfVelocityConfig, PairsConfig, null_findings, roles_of

if TYPE_CHECKING:
    from flowmap.interfaces import Objective


class MeanFlowConfig(PairsConfig, OfVelocityConfig):
    """MeanFlow (arXiv 2505.13447): the identity u = v - (t - r) du/dt, with adaptive weights."""

    type: Literal["mean_flow"] = "mean_flow"
    velocity: Literal["data", "teacher"] = Field(
        "data", description="v in the target: the sample velocity e - x0 (as published), or a teacher's at x_t"
    )
    times: TimesConfig = Field(
        default_factory=lambda: TimesConfig(mean=-0.4, std=1.0),
        description="both times, of which t is the later one; logit-normal(-0.4, 1) if left out",
    )
    branches: BranchesConfig = Field(
        default_factory=lambda: BranchesConfig(diffusion=0.75, consistency=0.0),
        description="shares of the global batch; r < t in a quarter of it if left out",
    )
    cfg_scale: Guidance = Field(1.0, description="w in null + w (cond - null), learnt by the student; 1 is none")
    drop_condition: Probability = Field(
        0.1, description="probability that a sample's condition becomes null (velocity = 'data' only)"
    )
    power: Power = Field(1.0, description="p in the weight 1 / (|delta|^2 + c)^p; 0 is unweighted")
    constant: Constant = Field(0.01, description="c in the weight 1 / (|delta|^2 + c)^p; 0.01 as released")
    tangent: TangentConfig = Field(
        default_factory=lambda: TangentConfig(method="jvp"),
        description="how du/dt is computed; if left out by jvp, or by central difference where jvp cannot be had",
    )

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Guidance needs a condition, and a null that somebody teaches."""
        yield from guidance_findings(self.cfg_scale, facts.conditional)
        yield from null_findings(self.velocity, self.cfg_scale, self.drop_condition, facts)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_flow.mean_flow import MeanFlow

        return MeanFlow(self)


class EulerianConfig(IdentityConfig):
    """Eulerian distillation (arXiv 2406.07507, 2505.18825, AYF's EMD 2506.14603): d/dt X_{t->r}(x_t) = 0."""

    type: Literal["eulerian"] = "eulerian"
    velocity: Literal["teacher", "self"] = Field(
        "teacher", description="v: a teacher's, or the student's own u(x, t, t), which the data teach at r = t"
    )
    normalize: bool = Field(False, description="divide each sample's residual g by |g| + constant, as AYF does")
    constant: Constant = Field(0.1, description="of normalize")
    warmup: Step = Field(0, description="steps over which the weight of du/dt grows from 0 to 1; sCM's 10000")
    tangent: TangentConfig = Field(
        default_factory=lambda: TangentConfig(method="jvp"),
        description="how du/dt is computed; if left out by jvp, or by central difference where jvp cannot be had",
    )

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """And with a normalised residual."""
        yield from super().findings(facts)
        if self.normalize and self.velocity == "self":
            why = (
                "with velocity = 'self' the r = t residual holds the noise of the data; normalising it moves its "
                "minimum away from the mean where samples have few elements; use velocity = 'teacher'"
            )
            yield Finding("warning", ("normalize",), why)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_flow.eulerian import Eulerian

        return Eulerian(self)


class LagrangianConfig(IdentityConfig):
    """Lagrangian distillation (arXiv 2406.07507, 2505.18825): d/dr X_{t->r}(x_t) is the velocity where it arrives."""

    type: Literal["lagrangian"] = "lagrangian"
    velocity: Literal["teacher", "self"] = Field(
        "teacher", description="v: a teacher's, or the student's own u(x, r, r), which the data teach at r = t"
    )
    tangent: TangentConfig = Field(
        default_factory=lambda: TangentConfig(method="jvp"),
        description="how du/dr is computed, here with gradient; if left out by jvp, or by central difference where jvp "
        "cannot be had",
    )

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """And with a derivative that torch cannot recompute."""
        yield from super().findings(facts)
        if facts.recomputes and self.tangent.method == "jvp":
            why = "torch cannot recompute a forward-mode derivative, and this backbone has gradient checkpointing on"
            yield Finding("error", ("tangent",), f"{why}; set tangent = {{ method = 'central' }}")

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_flow.lagrangian import Lagrangian

        return Lagrangian(self)


class TransitionConfig(PairsConfig):
    """Transition models (TiM, arXiv 2509.04394): MeanFlow's identity by differences, weighted by the interval."""

    type: Literal["transition"] = "transition"
    times: TimesConfig = Field(
        default_factory=lambda: TimesConfig(mean=-0.4, std=1.0),
        description="both times, of which t is the later one; logit-normal(-0.4, 1) if left out, as released",
    )
    branches: BranchesConfig = Field(
        default_factory=lambda: BranchesConfig(diffusion=0.5, consistency=0.1),
        description="shares of the global batch; 0.5 with r = t and 0.1 with r = 0 if left out",
    )
    sigma_d: Deviation = Field(
        1.0, description="in the weight (sigma_d + tan t - tan r)^(-1/2) of an interval; r = t weighs 1"
    )
    interval: Literal["time", "angle"] = Field(
        "time", description="what the tangents are of: the time itself, as released, or its TrigFlow angle, t / (1 - t)"
    )
    power: Power = Field(1.0, description="p in the adaptive weight 1 / (loss + c)^p; 1 as released, 0 is unweighted")
    constant: Constant = Field(1e-5, description="c in the weight 1 / (loss + c)^p")
    cosine: bool = Field(
        True, description="add 1 - cos(u, target), the angle taken over channels, to the square error, as released"
    )
    direction: Literal["data", "guided"] = Field(
        "data",
        description="what the derivative goes along where guided: e - x0, as released, or the guided velocity",
    )
    cfg_scale: Guidance = Field(1.0, description="w in null + w (cond - null), learnt by the student; 1 is none")
    drop_condition: Probability = Field(0.1, description="probability that a sample's condition becomes null")
    tangent: TangentConfig = Field(default_factory=TangentConfig, description="how du/dt is computed")

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student only."""
        return roles_of(False, diagonal=self.diagonal())

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Guidance needs a condition, and a null that somebody teaches."""
        yield from guidance_findings(self.cfg_scale, facts.conditional)
        yield from null_findings("data", self.cfg_scale, self.drop_condition, facts)
        if not self.power:
            yield from idle(self, "power is 0", "constant")
        if self.cfg_scale == 1:
            yield from idle(self, "there is no guidance to go along", "direction")
        if self.cosine and facts.channels == 1:
            why = (
                "of data with one channel the cosine is a sign: it has no gradient, and its 0 or 2 is in the adaptive "
                "weight; use cosine = false"
            )
            yield Finding("warning", ("cosine",), why)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_flow.transition import Transition

        return Transition(self)
