"""Objectives `consistency`, `consistency_training`, `scm` and `tcm`: every point of a trajectory maps to its end."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from flowmap.plugin import (
    ComponentConfig,
    Finding,
    ObjectiveConfig,
    RoleSpec,
    StageFacts,
    guidance_findings,
    hookimpl,
    idle,
)
from flowmap.schema.bounds import (
    Bins,
    Boundary,
    Constant,
    Deviation,
    GridPoints,
    Guidance,
    Logit,
    Probability,
    Range,
    Shift,
    SomeShare,
    Step,
    Steps,
    Weight,
)
from flowmap.schema.settings import TangentConfig, TimesConfig

if TYPE_CHECKING:
    from flowmap.interfaces import Objective

_SHORT = 4  # the first stage of the improved schedule whose steps are shorter than a sixth of t
_LAST_STAGE = 9
HalvedTimes = Annotated[int, Range(0, _LAST_STAGE, "the published schedule has ten stages")]
"""How often the steps of the improved schedule have been halved."""

_PER_BIN = 4  # samples of the global batch, below which a mean is hardly one


def _improved_times() -> TimesConfig:
    """The noise levels of 2310.14189, whose logarithm is N(-1.1, 2): at sigma = t / (1 - t) that is the logit of t."""
    return TimesConfig(distribution="logit_normal", mean=-1.1, std=2.0)


_SCHEDULE = (
    "pairs s < t: neighbours on a fixed grid, each with weight 1 (arXiv 2303.01469); or t from `times` and an s that "
    "comes closer as training goes on, with weight 1 / (t - s) (2310.14189)"
)
_DISTANCE = "squared error of u, or pseudo-Huber of the predictions of x0 (2310.14189)"
_TARGET = "what predicts at s: the student's moving average, or the student itself (2310.14189)"
_DROP = "probability that a sample's condition becomes null, at both times alike"
_SOLVER = "how the teacher steps to the next time"
_CFG = "the teacher's guidance, w in null + w (cond - null); 1 is none"


class DiscreteConfig(ObjectiveConfig, ABC):
    """What discrete consistency objectives share: pairs of times s < t, and the distance at both."""

    schedule: Literal["grid", "improved"] = Field("grid", description=_SCHEDULE)
    points: GridPoints = Field(32, description="intervals of the time grid (schedule 'grid')")
    shift: Shift = Field(1.0, description="of the time grid (schedule 'grid'); Wan uses 5")
    times: TimesConfig = Field(
        default_factory=_improved_times,
        description="how t is drawn (schedule 'improved'); logit-normal(-1.1, 2) if left out, as published",
    )
    mapping: Literal["noise", "time"] = Field(
        "noise",
        description="what the mapping from t to s and the weight 1 / (t - s) are of (schedule 'improved'): the noise "
        "level t / (1 - t), as published (ECT, arXiv 2406.14548), or the time itself, as FastGen has it for rectified "
        "flow",
    )
    double_every: Steps = Field(
        25000,
        description="steps until t - s halves (schedule 'improved'), which it does ten times at most; 25000 is of long "
        "training (CIFAR-10): set it to a tenth of the stage's steps or less",
    )
    start_stage: HalvedTimes = Field(
        0, description="how often t - s has been halved already at the first step (schedule 'improved')"
    )
    distance: Literal["velocity", "pseudo_huber"] = Field("velocity", description=_DISTANCE)
    huber_scale: Constant = Field(
        0.00054,
        description="c / sqrt(D) of pseudo-Huber, D the elements of a sample: below it the distance is quadratic; "
        "published 0.00054 (2310.14189)",
    )
    target: Literal["average", "student"] = Field("average", description=_TARGET)

    def grid_shift(self) -> float | None:
        """That of the grid; the improved schedule has none."""
        return self.shift if self.schedule == "grid" else None

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Fields of the other schedule, and of the other distance."""
        if self.schedule == "grid":
            yield from idle(self, "schedule is 'grid'", "times", "mapping", "double_every", "start_stage")
        else:
            yield from idle(self, "schedule is 'improved'", "points", "shift")
        if self.start_stage == _LAST_STAGE and self.schedule == "improved":
            yield from idle(self, "start_stage is the last", "double_every")
        if self.distance == "velocity":
            yield from idle(self, "distance is 'velocity'", "huber_scale")


class ConsistencyConfig(DiscreteConfig):
    """Discrete consistency distillation (CM, arXiv 2303.01469): every point of a trajectory maps to its end."""

    type: Literal["consistency"] = "consistency"
    solver: Literal["euler", "heun"] = Field("heun", description=_SOLVER)
    cfg_scale: Guidance = Field(1.0, description=_CFG)

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student and a teacher."""
        return {"student": _STUDENT, "teacher": _STEPPING_TEACHER}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Guidance needs a condition, and a teacher's steps must be short."""
        yield from super().findings(facts)
        yield from _guidance_findings(self.cfg_scale, facts)
        yield from _long_step_findings(self.schedule, self.start_stage)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_consistency.discrete import DiscreteConsistency
        from flowmap_consistency.steps import TeacherStep

        return DiscreteConsistency(self, TeacherStep(self.solver, self.cfg_scale))


class ConsistencyTrainingConfig(DiscreteConfig):
    """Consistency training, without a teacher (arXiv 2303.01469; as improved in 2310.14189)."""

    type: Literal["consistency_training"] = "consistency_training"
    schedule: Literal["grid", "improved"] = Field("improved", description=_SCHEDULE)
    distance: Literal["velocity", "pseudo_huber"] = Field("pseudo_huber", description=_DISTANCE)
    target: Literal["average", "student"] = Field("student", description=_TARGET)
    drop_condition: Probability = Field(0.0, description=_DROP)

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student only."""
        return {"student": _STUDENT}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """A condition that is dropped must exist."""
        yield from super().findings(facts)
        yield from _drop_findings(self.drop_condition, facts)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_consistency.discrete import DiscreteConsistency
        from flowmap_consistency.steps import SampleStep

        return DiscreteConsistency(self, SampleStep(), self.drop_condition)


class TcmConfig(DiscreteConfig):
    """Truncated consistency (TCM, arXiv 2410.14895): a second stage, for the times above `boundary` alone."""

    type: Literal["tcm"] = "tcm"
    schedule: Literal["grid", "improved"] = Field("improved", description=_SCHEDULE)
    distance: Literal["velocity", "pseudo_huber"] = Field("pseudo_huber", description=_DISTANCE)
    target: Literal["average", "student"] = Field("student", description=_TARGET)
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
    drop_condition: Probability = Field(0.0, description=_DROP)
    solver: Literal["euler", "heun"] = Field("heun", description=_SOLVER)
    cfg_scale: Guidance = Field(1.0, description=_CFG)

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student, the model of the first stage, and a teacher if the steps are its."""
        first = RoleSpec("flow_map", False, "the first stage's consistency model, used below the boundary")
        teacher = {"teacher": _STEPPING_TEACHER} if self.velocity == "teacher" else {}
        return {"student": _STUDENT, "first": first, **teacher}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Guidance needs a condition and a teacher, and a share needs samples."""
        yield from super().findings(facts)
        if self.velocity == "data":
            yield from idle(self, "velocity is 'data', which needs no step of a teacher", "solver")
        yield from _drop_findings(self.drop_condition, facts)
        yield from _guidance_findings(self.cfg_scale, facts, self.velocity)
        if self.velocity == "teacher":
            yield from _long_step_findings(self.schedule, self.start_stage)
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
    cfg_scale: Guidance = Field(1.0, description=_CFG)
    tangent: TangentConfig = Field(
        default_factory=lambda: TangentConfig(method="jvp"),
        description="how the derivative along the trajectory is computed; jvp if left out, step is in radians",
    )

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student, and a teacher if the velocity is the teacher's."""
        teacher = {"teacher": RoleSpec("velocity", False, "gives the velocity")} if self.velocity == "teacher" else {}
        return {"student": _STUDENT, **teacher}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Guidance needs a condition and a teacher, and a mean needs samples."""
        yield from _guidance_findings(self.cfg_scale, facts, self.velocity)
        if not self.warmup:
            yield from idle(self, "there is no warmup", "ramp")
        if self.bins and facts.accumulates:
            why = (
                "the means are over the global batch, and a micro-batch knows nothing of those that follow: the result "
                "would depend on compute.micro_batch. Leave that out (each process then takes its share of the batch "
                "at once), or use bins = 0"
            )
            yield Finding("error", ("bins",), why)
        if facts.batch < _PER_BIN * self.bins:
            why = (
                f"a global batch of {facts.batch} has fewer than {_PER_BIN} samples in each of {self.bins} bins, so "
                f"each sample is divided by little but itself; use bins = {facts.batch // _PER_BIN} or fewer"
            )
            yield Finding("warning", ("bins",), why)

    def warmup_steps(self) -> int:
        """Those of the derivative."""
        return self.warmup

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_consistency.continuous import ContinuousConsistency

        return ContinuousConsistency(self)


_STUDENT = RoleSpec("flow_map", True, "learns the map to r = 0, and only that")
_STEPPING_TEACHER = RoleSpec("velocity", False, "takes one step along its velocity")


def _guidance_findings(cfg_scale: float, facts: StageFacts, velocity: str = "teacher") -> Iterable[Finding]:
    if cfg_scale != 1 and velocity == "data":
        why = "guides the teacher, and velocity = 'data' has none; use 1, or velocity = 'teacher'"
        yield Finding("error", ("cfg_scale",), why)
    else:
        yield from guidance_findings(cfg_scale, facts.conditional)


def _long_step_findings(schedule: str, start_stage: int) -> Iterable[Finding]:
    if schedule == "improved" and start_stage < _SHORT:
        why = (
            "in its first stages the improved schedule takes the teacher from t to 0 in one step, which is far off "
            f"(with data it is not); use start_stage = {_SHORT} or more"
        )
        yield Finding("warning", ("start_stage",), why)


def _drop_findings(drop_condition: float, facts: StageFacts) -> Iterable[Finding]:
    if drop_condition and not facts.conditional:
        yield Finding("warning", ("drop_condition",), "has no effect: these data have no condition")
    elif drop_condition and not facts.ever(drop_condition):
        yield Finding("warning", ("drop_condition",), f"has no effect: {facts.rarely()}")


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [ConsistencyConfig, ConsistencyTrainingConfig, TcmConfig, ScmConfig]
