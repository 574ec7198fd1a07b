"""What the configurations of this package share: fields, roles, and what is known to go wrong. Torch-free."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator, model_validator

from flowmap.plugin import (
    AnyObjective,
    AnySampler,
    Config,
    Finding,
    FrameView,
    ObjectiveConfig,
    RoleSpec,
    StageFacts,
    guidance_findings,
    idle,
)
from flowmap.schema.bounds import DeviationOrNone, Guidance, Rollout, Shift, Time, Turns, Weight

if TYPE_CHECKING:
    from flowmap.interfaces import Objective


class ScoreTimesConfig(Config):
    """Times of the scores: uniform, shifted, and kept between `low` and `high`; as Self-Forcing has it."""

    low: Time = Field(0.02, description="the earliest time, see limits")
    high: Time = Field(0.98, description="the latest time, see limits")
    shift: Shift = Field(
        5.0, description="s in s a / (1 + (s - 1) a); 5 as released for video, 8 in CausVid; 1 is none"
    )
    limits: Literal["clamp", "range"] = Field(
        "clamp",
        description="'clamp': a is uniform on [0, 1] and shifted, what lies outside of low and high is moved to them "
        "(Self-Forcing, CausVid); 'range': a is uniform between low and high, then shifted (FastGen's DMD2, rCM)",
    )

    @model_validator(mode="after")
    def _a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; low must be below high")
        return self


class CausVidTimesConfig(ScoreTimesConfig):
    """Score times of CausVid."""

    shift: Shift = Field(8.0, description="as in 'self_forcing'; 8 as released")


class Dmd2TimesConfig(ScoreTimesConfig):
    """Score times of DMD2 on flow-matching models, as FastGen has it."""

    low: Time = Field(0.001, description="the earliest time, see limits")
    high: Time = Field(0.999, description="the latest time, see limits")
    limits: Literal["clamp", "range"] = Field("range", description="as in 'self_forcing'")


class RcmTimesConfig(ScoreTimesConfig):
    """Score times of rCM."""

    low: Time = Field(0.0, description="the earliest time, see limits")
    high: Time = Field(1.0, description="the latest time, see limits")
    limits: Literal["clamp", "range"] = Field("range", description="as in 'self_forcing'")


class DistributionConfig(ObjectiveConfig, ABC):
    """What every objective has that matches distributions: student, teacher, critic, and a co-trained objective."""

    cfg_scale: Guidance = Field(1.0, description="of the real score, w in null + w (cond - null); 1 is none")
    score: FrameView = Field(
        "whole",
        description="how teacher and critic see a causal model's sample: 'whole' is all frames as one chunk (as "
        "published; both must have been trained so, see flow_matching.view), 'forced' the last chunks given the clean "
        "ones before",
    )
    forward: AnyObjective | None = Field(None, description="forward objective that the student is co-trained with")
    forward_weight: Weight = Field(1.0, description="weight of the co-trained loss")

    @field_validator("forward")
    @classmethod
    def _trains_the_student_alone(cls, forward: ObjectiveConfig | None) -> ObjectiveConfig | None:
        """Refused here and not in `findings`: so none is inside another, which would take ever longer to look at."""
        roles = forward.roles() if forward is not None else {}
        student = roles.get("student")
        if forward is not None and (
            [name for name, role in roles.items() if role.trained] != ["student"]
            or student is None
            or student.kind != "flow_map"
        ):
            why = f"'{forward.type}' cannot be co-trained: it must train the student's flow map and nothing else"
            raise ValueError(why)
        return forward

    def roles(self) -> Mapping[str, RoleSpec]:
        """Student, teacher and critic, and what the co-trained objective needs."""
        forward = self.forward.roles() if self.forward else {}
        # Rollouts are made of jumps: u(x, t, t) is the co-trained objective's alone.
        diagonal = "student" in forward and forward["student"].diagonal
        to_data = "student" not in forward or forward["student"].to_data
        summary = "generates, and learns from its own samples"
        own = {
            "student": RoleSpec("flow_map", True, summary, diagonal=diagonal, to_data=to_data),
            "teacher": RoleSpec("velocity", False, "the real score", self.score),
            "critic": RoleSpec("velocity", True, "the fake score, kept up to date with the student", self.score),
        }
        return {**forward, **own}

    def group(self) -> int:
        """That of the co-trained objective."""
        return self.forward.group() if self.forward else 1

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """What is known to go wrong with guidance and with co-training."""
        yield from guidance_findings(self.cfg_scale, facts.conditional)
        if self.forward is None:
            why = "without a forward objective, distribution matching is known to ruin sampling in many steps"
            yield Finding("warning", ("forward",), why)
            yield from idle(self, "there is no forward objective", "forward_weight")
            return
        for finding in self.forward.findings(facts):
            yield Finding(finding.level, ("forward", *finding.field), finding.message)


class OnPolicyConfig(DistributionConfig, ABC):
    """What the objectives have whose student rolls out from noise, as it will be sampled."""

    sampler: AnySampler = Field(default="flow_map", description="what the student rolls out with")
    replay: bool = Field(
        True,
        description="causal models: roll out without gradient and make each chunk that needs one again in backward, so "
        "that one chunk's graph is held at a time, not all; costs another call for each with gradient",
    )

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """And with rollouts."""
        if self.sampler.network != "flow_map":
            yield Finding("error", ("sampler",), f"the student is a flow map; '{self.sampler.type}' samples a velocity")
        yield from super().findings(facts)


class Dmd2FamilyConfig(DistributionConfig, ABC):
    """What DMD2 and its successors have: the times of their scores, and a critic that is ahead of the student."""

    score_times: ScoreTimesConfig = Field(
        default_factory=ScoreTimesConfig, description="times of the scores, and those the critic is trained at"
    )
    critic_steps: Turns = Field(5, description="updates of the critic for one of the student")
    critic_sigma_d: DeviationOrNone = Field(
        0.0,
        description="above 0, the critic's loss at time t weighs (1 - t)^2 + (t / critic_sigma_d)^2, which is EDM's "
        "weight of a prediction of x0: 1 is rCM's, 0.5 that of DMD2 on noise levels; 0 is 1 at any t, as in "
        "Self-Forcing and CausVid (FastGen's Wan recipes weigh t^2)",
    )

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """And with a stage that ends before the student's second step."""
        yield from super().findings(facts)
        if facts.steps <= self.critic_steps:
            why = f"the stage has {facts.steps} steps, of which the student takes the first alone"
            yield Finding("warning", ("critic_steps",), f"{why}; use fewer of the critic, or more steps")


class ConsistencyRolloutConfig(OnPolicyConfig, Dmd2FamilyConfig, ABC):
    """What DMD2 and Self-Forcing have: rollouts by consistency steps, of which one has a gradient."""

    sampler: AnySampler = Field(default="consistency", description="what the student rolls out with")
    steps: Rollout = Field(4, description="steps of the grid; the student is trained on its times and no others")
    shift: Shift = Field(1.0, description="of the grid of times that the student generates on; Wan uses 5")

    def grid_shift(self) -> float | None:
        """That of the grid."""
        return self.shift

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_distribution.dmd2 import dmd2_on, exiting

        return dmd2_on(exiting(self), self)
