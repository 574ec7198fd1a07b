"""What the configurations of this package share: fields, schedules, and what is known to go wrong. Torch-free."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from flowmap.plugin import Finding, ObjectiveConfig, RoleSpec, StageFacts, guidance_findings, idle
from flowmap.schema.bounds import Constant, GridPoints, Range, Shift, Steps
from flowmap.schema.settings import TimesConfig

_SHORT = 4  # the first stage of the improved schedule whose steps are shorter than a sixth of t
LAST_STAGE = 9
HalvedTimes = Annotated[int, Range(0, LAST_STAGE, "the published schedule has ten stages")]
"""How often the steps of the improved schedule have been halved."""

PER_BIN = 4  # samples of the global batch, below which a mean is hardly one


def improved_times() -> TimesConfig:
    """The noise levels of 2310.14189, whose logarithm is N(-1.1, 2): at sigma = t / (1 - t) that is the logit of t."""
    return TimesConfig(distribution="logit_normal", mean=-1.1, std=2.0)


SCHEDULE = (
    "pairs s < t: neighbours on a fixed grid, each with weight 1 (arXiv 2303.01469); or t from `times` and an s that "
    "comes closer as training goes on, with weight 1 / (t - s) (2310.14189)"
)
DISTANCE = "squared error of u, or pseudo-Huber of the predictions of x0 (2310.14189)"
TARGET = "what predicts at s: the student's moving average, or the student itself (2310.14189)"
DROP = "probability that a sample's condition becomes null, at both times alike"
SOLVER = "how the teacher steps to the next time"
CFG = "the teacher's guidance, w in null + w (cond - null); 1 is none"

STUDENT = RoleSpec("flow_map", True, "learns the map to r = 0, and only that", diagonal=False, to_data=True)
STEPPING_TEACHER = RoleSpec("velocity", False, "takes one step along its velocity")


def teacher_findings(cfg_scale: float, facts: StageFacts, velocity: str = "teacher") -> Iterable[Finding]:
    """Guidance without a teacher, or of data without a condition."""
    if cfg_scale != 1 and velocity == "data":
        why = "guides the teacher, and velocity = 'data' has none; use 1, or velocity = 'teacher'"
        yield Finding("error", ("cfg_scale",), why)
    else:
        yield from guidance_findings(cfg_scale, facts.conditional)


def long_step_findings(schedule: str, start_stage: int) -> Iterable[Finding]:
    """First steps of the improved schedule that are too long for a teacher."""
    if schedule == "improved" and start_stage < _SHORT:
        why = (
            "in its first stages the improved schedule takes the teacher from t to 0 in one step, which is far off "
            f"(with data it is not); use start_stage = {_SHORT} or more"
        )
        yield Finding("warning", ("start_stage",), why)


class DiscreteConfig(ObjectiveConfig, ABC):
    """What discrete consistency objectives share: pairs of times s < t, and the distance at both."""

    schedule: Literal["grid", "improved"] = Field("grid", description=SCHEDULE)
    points: GridPoints = Field(32, description="intervals of the time grid (schedule 'grid')")
    shift: Shift = Field(1.0, description="of the time grid (schedule 'grid'); Wan uses 5")
    times: TimesConfig = Field(
        default_factory=improved_times,
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
    distance: Literal["velocity", "pseudo_huber"] = Field("velocity", description=DISTANCE)
    huber_scale: Constant = Field(
        0.00054,
        description="c / sqrt(D) of pseudo-Huber, D the elements of a sample: below it the distance is quadratic; "
        "published 0.00054 (2310.14189)",
    )
    target: Literal["average", "student"] = Field("average", description=TARGET)

    def grid_shift(self) -> float | None:
        """That of the grid; the improved schedule has none."""
        return self.shift if self.schedule == "grid" else None

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Fields of the other schedule, and of the other distance."""
        if self.schedule == "grid":
            yield from idle(self, "schedule is 'grid'", "times", "mapping", "double_every", "start_stage")
        else:
            yield from idle(self, "schedule is 'improved'", "points", "shift")
        if self.start_stage == LAST_STAGE and self.schedule == "improved":
            yield from idle(self, "start_stage is the last", "double_every")
        if self.distance == "velocity":
            yield from idle(self, "distance is 'velocity'", "huber_scale")
