"""Objectives `backward_simulation`, `dmd2`, `self_forcing`, `causvid`, `rcm` (match distributions), `trajectory`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from flowmap.plugin import (
    AnyObjective,
    AnySampler,
    Finding,
    ObjectiveConfig,
    RoleSpec,
    StageFacts,
    guidance_findings,
)
from flowmap.schema.bounds import MOST_ROWS, DeviationOrNone, Guidance, Rollout, Shift, Step, Turns, Weight
from flowmap.schema.settings import TimesConfig
from flowmap_distribution.parts import (
    CausVidTimesConfig,
    ConsistencyRolloutConfig,
    Dmd2FamilyConfig,
    Dmd2TimesConfig,
    OnPolicyConfig,
    RcmTimesConfig,
)

if TYPE_CHECKING:
    from flowmap.interfaces import Objective


class BackwardSimulationConfig(OnPolicyConfig):
    """Flow Map Backward Simulation with DMD (AnyFlow's stage 3, arXiv 2605.13724; DMD2, 2405.14867)."""

    type: Literal["backward_simulation"] = "backward_simulation"
    rollout_steps: tuple[Rollout, ...] = Field(
        (1, 2, 4, 8, 16),
        min_length=1,
        max_length=MOST_ROWS,
        description="grids to simulate, in steps; one is drawn per iteration",
    )
    unroll: Literal["segments", "full"] = Field(
        "segments",
        description="'segments': one step of the grid and the jumps before and after it, at most three calls with "
        "gradient; 'full': every step of the grid, each with gradient (the paper's ablation)",
    )
    shift: Shift = Field(1.0, description="of the rollout's grid and of the score times; Wan uses 5")
    cfg_scale: Guidance = Field(1.0, description="of the real score, w in null + w (cond - null); AnyFlow uses 4")
    critic_times: TimesConfig = Field(default_factory=TimesConfig, description="times the critic is trained at")

    def grid_shift(self) -> float | None:
        """That of the rollout's grid."""
        return self.shift

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """What is known to go wrong with rollouts and with co-training."""
        if 1 not in self.rollout_steps:
            why = "without 1 the jump from noise to data is never trained on-policy; expect poor one-step samples"
            yield Finding("warning", ("rollout_steps",), why)
        yield from super().findings(facts)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_distribution.backward_simulation import BackwardSimulation

        return BackwardSimulation(self)


class Dmd2Config(ConsistencyRolloutConfig):
    """DMD2 without its GAN term, on consistency rollouts with one step that has a gradient (arXiv 2405.14867)."""

    type: Literal["dmd2"] = "dmd2"
    score_times: Dmd2TimesConfig = Field(
        default_factory=Dmd2TimesConfig, description="times of the scores, and those the critic is trained at"
    )


class SelfForcingConfig(ConsistencyRolloutConfig):
    """Self-Forcing (arXiv 2506.08009): DMD2 on a causal model's own rollouts, scored as whole videos."""

    type: Literal["self_forcing"] = "self_forcing"


class CausVidConfig(Dmd2FamilyConfig):
    """CausVid (arXiv 2412.07772): DMD2 on noised real data, each chunk at a time of its own."""

    type: Literal["causvid"] = "causvid"
    score_times: CausVidTimesConfig = Field(
        default_factory=CausVidTimesConfig, description="times of the scores, and those the critic is trained at"
    )
    steps: Rollout = Field(4, description="steps of the grid whose times the data are noised to")
    shift: Shift = Field(1.0, description="of that grid; Wan uses 5")

    def grid_shift(self) -> float | None:
        """That of the grid."""
        return self.shift

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_distribution.dmd2 import dmd2_on
        from flowmap_distribution.rollouts import Denoised

        return dmd2_on(Denoised(self.steps, self.shift, self.score), self)


class TrajectoryConfig(ObjectiveConfig):
    """Regression on the ends of the teacher's trajectories (CausVid's initialisation, arXiv 2412.07772)."""

    type: Literal["trajectory"] = "trajectory"
    sampler: AnySampler = Field(default="euler", description="what the teacher samples with")
    trajectory_steps: Rollout = Field(48, description="steps of the teacher from noise to data; a multiple of steps")
    steps: Rollout = Field(4, description="steps of the grid from whose times the student jumps to the end")
    shift: Shift = Field(1.0, description="of both grids; Wan uses 5")
    cfg_scale: Guidance = Field(1.0, description="the teacher's guidance, w in null + w (cond - null); 1 is none")

    def grid_shift(self) -> float | None:
        """That of both grids."""
        return self.shift

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student and a teacher."""
        return {
            "student": RoleSpec(
                "flow_map", True, "learns the map to r = 0, from the times of the grid", diagonal=False, to_data=True
            ),
            "teacher": RoleSpec("velocity", False, "samples the trajectories", "whole"),
        }

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Grids that do not fit, and a sampler for another kind of network."""
        if self.trajectory_steps % self.steps:
            near = max(1, round(self.trajectory_steps / self.steps)) * self.steps
            why = f"{self.trajectory_steps} is not a multiple of steps = {self.steps}; use {near}"
            yield Finding("error", ("trajectory_steps",), why)
        if self.sampler.network != "velocity":
            why = f"the teacher is a velocity; '{self.sampler.type}' samples a flow map"
            yield Finding("error", ("sampler",), why)
        yield from guidance_findings(self.cfg_scale, facts.conditional)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_distribution.trajectory import Trajectory

        return Trajectory(self)


class RcmConfig(OnPolicyConfig, Dmd2FamilyConfig):
    """rCM (arXiv 2510.08431): a consistency objective, regularised by DMD on short consistency rollouts."""

    type: Literal["rcm"] = "rcm"
    forward: AnyObjective = Field(
        default="scm",
        description="the consistency objective of the student. Of an scm, what is left out is rCM's: sigma_d 1, mean "
        "0.7, std 1.6, warmup 1000, bins 0, ramp 'rcm', and this objective's cfg_scale (as released at 1.3B; at 14B "
        "mean 1.5, warmup 0)",
    )
    forward_weight: Weight = Field(100.0, description="weight of the consistency loss; that of DMD is 1")
    sampler: AnySampler = Field(default="consistency", description="what the student rolls out with")
    most_steps: Rollout = Field(4, description="rollouts take from 1 to so many steps; drawn per iteration")
    start: Step | None = Field(
        None,
        description="first step of the stage with DMD and with a critic; until then all steps are the student's. Left "
        "out, the step at which the forward objective's warm-up ends, as released",
    )
    score_times: RcmTimesConfig = Field(
        default_factory=RcmTimesConfig,
        description="times of the scores, those the critic is trained at, and those a rollout goes by",
    )
    critic_steps: Turns = Field(
        4, description="steps of the critic after one of the student; released 4 at 1.3B, 9 at 14B"
    )
    critic_sigma_d: DeviationOrNone = Field(1.0, description="as in 'dmd2'; 1 as released, 0 is no weight")

    @model_validator(mode="before")
    @classmethod
    def _with_released_scm(cls, given: Any) -> Any:
        """What is left out of an scm is rCM's, not that of sCM's own paper."""
        if not isinstance(given, Mapping):
            return given
        forward = given.get("forward", "scm")
        table = {"type": forward} if isinstance(forward, str) else forward
        if not isinstance(table, Mapping) or table.get("type") != "scm":
            return given
        scale = given.get("cfg_scale", 1.0)
        # One that is refused is refused once, where it was written.
        usable = isinstance(scale, int | float) and not isinstance(scale, bool) and scale >= 1
        ours = {**RELEASED_SCM, "cfg_scale": scale} if usable else RELEASED_SCM
        return {**given, "forward": {**ours, **table}}

    @property
    def begins(self) -> int:
        """The first step with distribution matching."""
        if self.start is not None:
            return self.start
        return self.forward.warmup_steps()

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """And what upsets the balance of both terms."""
        found = list(super().findings(facts))
        own = [finding.message for finding in found if finding.field == ("cfg_scale",)]
        # The one guidance of both, if it is wrong, is told once.
        yield from (f for f in found if f.field != ("forward", "cfg_scale") or f.message not in own)
        if self.forward.model_dump().get("bins"):
            why = (
                "divides the consistency loss by its own mean, so that forward_weight is no longer the ratio of both "
                "terms, which then goes by the size of a sample; use bins = 0"
            )
            yield Finding("warning", ("forward", "bins"), why)
        theirs = self.forward.model_dump().get("cfg_scale", self.cfg_scale)
        if theirs != self.cfg_scale:
            why = (
                f"the consistency objective is guided by {theirs:g} and the scores by {self.cfg_scale:g}; the released "
                "code has one guidance for both"
            )
            yield Finding("warning", ("cfg_scale",), why)
        if self.begins >= facts.steps:
            field = "start" if self.start is not None else "forward"
            why = f"distribution matching begins at step {self.begins}, and the stage has {facts.steps}"
            yield Finding("warning", (field,), f"{why}: this is its consistency objective alone; set start lower")

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_distribution.rcm import rcm

        return rcm(self)


RELEASED_SCM = {
    "type": "scm",
    "sigma_d": 1.0,
    "mean": 0.7,
    "std": 1.6,
    "warmup": 1000,
    "bins": 0,
    "ramp": "rcm",
}
"""sCM in rCM's released configuration for Wan2.1 1.3B."""
