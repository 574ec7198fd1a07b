"""Objectives `consistency`, `consistency_training`, `scm` and `tcm`: every point of a trajectory maps to its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from flowmap.plugin import Finding, ObjectiveConfig, RoleSpec, StageFacts, idle, idle_drop_findings
from flowmap.schema.bounds import (
    Bins,
    Boundary,
    Deviation,
    Guidance,
    Logit,
    Probability,
    SomeShare,
    Step,
    Weight,
)
from flowmap.schema.settings import TangentConfig
from flowmap_consistency.parts import (
    CFG,
    DISTANCE,
    DROP,
    PER_BIN,
    SCHEDULE,
    SOLVER,
    STEPPING_TEACHER,
    STUDENT,
    TARGET,
    DiscreteConfig,
    HalvedTimes,
    long_step_findings,
    teacher_findings,
)

if TYPE_CHECKING:
    from flowmap.interfaces import Objective


class ConsistencyConfig(DiscreteConfig):
    """Discrete consistency distillation (CM, arXiv 2303.01469): every point of a trajectory maps to its end."""

    type: Literal["consistency"] = "consistency"
    solver: Literal["euler", "heun"] = Field("heun", description=SOLVER)
    cfg_scale: Guidance = Field(1.0, description=CFG)

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student and a teacher."""
        return {"student": STUDENT, "teacher": STEPPING_TEACHER}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Guidance needs a condition, and a teacher's steps must be short."""
        yield from super().findings(facts)
        yield from teacher_findings(self.cfg_scale, facts)
        yield from long_step_findings(self.schedule, self.start_stage)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_consistency.discrete import DiscreteConsistency
        from flowmap_consistency.steps import TeacherStep

        return DiscreteConsistency(self, TeacherStep(self.solver, self.cfg_scale))


class ConsistencyTrainingConfig(DiscreteConfig):
    """Consistency training, without a teacher (arXiv 2303.01469; as improved in 2310.14189)."""

    type: Literal["consistency_training"] = "consistency_training"
    schedule: Literal["grid", "improved"] = Field("improved", description=SCHEDULE)
    distance: Literal["velocity", "pseudo_huber"] = Field("pseudo_huber", description=DISTANCE)
    target: Literal["average", "student"] = Field("student", description=TARGET)
    drop_condition: Probability = Field(0.0, description=DROP)

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student only."""
        return {"student": STUDENT}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """A condition that is dropped must exist."""
        yield from super().findings(facts)
        yield from idle_drop_findings(self.drop_condition, facts)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_consistency.discrete import DiscreteConsistency
        from flowmap_consistency.steps import SampleStep

        return DiscreteConsistency(self, SampleStep(), self.drop_condition)


class TcmConfig(DiscreteConfig):
    """Truncated consistency (TCM, arXiv 2410.14895): a second stage, for the times above `boundary` alone."""

    type: Literal["tcm"] = "tcm"
    schedule: Literal["grid", "improved"] = Field("improved", description=SCHEDULE)
    distance: Literal["velocity", "pseudo_huber"] = Field("pseudo_huber", description=DISTANCE)
    target: Literal["average", "student"] = Field("student", description=TARGET)
    start_stage: HalvedTimes = Field(
        9, description="as in 'consistency'; 9 goes on where the first stage's schedule ends, as published"
    )
    velocity: Literal["data", "teacher"] = Field(
        "data", description="what leads from t to s: the sample's own path (as published), or a step of a teacher"
    )
    boundary: Boundary = Field(
        0.5, description="t' below which the first stage's model is used; 0.5 is a noise level of 1"
    )
    boundary_share: SomeShare = Field(
        0.25, description="share of the global batch at t = t', whose targets are the first stage's"
    )
    boundary_weight: Weight = Field(0.1, description="of the mean loss of these, beside the mean of the others")
    drop_condition: Probability = Field(0.0, description=DROP)
    solver: Literal["euler", "heun"] = Field("heun", description=SOLVER)
    cfg_scale: Guidance = Field(1.0, description=CFG)

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student, the model of the first stage, and a teacher if the steps are its."""
        first = RoleSpec("flow_map", False, "the first stage's consistency model, used below the boundary")
        teacher = {"teacher": STEPPING_TEACHER} if self.velocity == "teacher" else {}
        return {"student": STUDENT, "first": first, **teacher}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Guidance needs a condition and a teacher, and a share needs samples."""
        yield from super().findings(facts)
        if self.velocity == "data":
            yield from idle(self, "velocity is 'data', which needs no step of a teacher", "solver")
        yield from idle_drop_findings(self.drop_condition, facts)
        yield from teacher_findings(self.cfg_scale, facts, self.velocity)
        if self.velocity == "teacher":
            yield from long_step_findings(self.schedule, self.start_stage)
        if facts.batch * self.boundary_share < 1:
            why = (
                f"in a global batch of {facts.batch}, most steps have no sample at the boundary, which alone ties the "
                "student to the first stage; raise the stage's batch or boundary_share"
            )
            yield Finding("warning", ("boundary_share",), why)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_consistency.steps import SampleStep, TeacherStep
        from flowmap_consistency.truncated import TruncatedConsistency

        step = TeacherStep(self.solver, self.cfg_scale) if self.velocity == "teacher" else SampleStep()
        return TruncatedConsistency(self, step)


class ScmConfig(ObjectiveConfig):
    """Continuous-time consistency (sCM, arXiv 2410.11081), on the TrigFlow path: sCD with a teacher, sCT without."""

    type: Literal["scm"] = "scm"
    velocity: Literal["teacher", "data"] = Field(
        "teacher", description="of the trajectory: a teacher's (sCD), or the sample's own (sCT)"
    )
    sigma_d: Deviation = Field(0.5, description="standard deviation of the data; latents are near 1 (rCM)")
    mean: Logit = Field(-1.0, description="P_mean: tan(angle) = exp(mean + std n) / sigma_d, n normal")
    std: Deviation = Field(1.4, description="P_std, see mean")
    warmup: Step = Field(
        10000, description="steps over which the derivative's part grows from 0 to all; 0 has all from the start"
    )
    normalize: bool = Field(True, description="g / (|g| + 0.1) in place of g, which keeps its size below 1")
    ramp: Literal["paper", "rcm"] = Field(
        "paper",
        description="what warmup does: 'paper' lets the derivative grow in from 0; 'rcm', as rCM's released code has "
        "it, has the derivative in full from the start, and lets the point's own part grow",
    )
    bins: Bins = Field(
        8,
        description="of time, equally likely: each sample's loss is divided by its bin's mean over the global batch, "
        "which is the optimum of the paper's learned weight; 0 weighs all alike",
    )
    cfg_scale: Guidance = Field(1.0, description=CFG)
    tangent: TangentConfig = Field(
        default_factory=lambda: TangentConfig(method="jvp"),
        description="how the derivative along the trajectory is computed, step is in radians; if left out by jvp, or "
        "by central difference where jvp cannot be had",
    )

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student, and a teacher if the velocity is the teacher's."""
        teacher = {"teacher": RoleSpec("velocity", False, "gives the velocity")} if self.velocity == "teacher" else {}
        return {"student": STUDENT, **teacher}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Guidance needs a condition and a teacher, and a mean needs samples."""
        yield from teacher_findings(self.cfg_scale, facts, self.velocity)
        if not self.warmup:
            yield from idle(self, "there is no warmup", "ramp")
        if self.bins and facts.accumulates:
            why = (
                "the means are over the global batch, and a micro-batch knows nothing of those that follow: the result "
                "would depend on compute.micro_batch. Leave that out (each process then takes its share of the batch "
                "at once), or use bins = 0"
            )
            yield Finding("error", ("bins",), why)
        if facts.batch < PER_BIN * self.bins:
            why = (
                f"a global batch of {facts.batch} has fewer than {PER_BIN} samples in each of {self.bins} bins, so "
                f"each sample is divided by little but itself; use bins = {facts.batch // PER_BIN} or fewer"
            )
            yield Finding("warning", ("bins",), why)

    def warmup_steps(self) -> int:
        """Those of the derivative."""
        return self.warmup

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_consistency.continuous import ContinuousConsistency

        return ContinuousConsistency(self)
