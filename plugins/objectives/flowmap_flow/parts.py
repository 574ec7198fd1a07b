"""What the configurations of this package share: roles, and what is known to go wrong. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Literal, final

from pydantic import Field

from flowmap.plugin import (
    Finding,
    ObjectiveConfig,
    RoleSpec,
    StageFacts,
    guidance_findings,
    idle_drop_findings,
)
from flowmap.schema.bounds import Guidance
from flowmap.schema.settings import BranchesConfig, TimesConfig, uniform_times


def roles_of(teacher: bool, its: str = "gives the velocity", diagonal: bool = True) -> Mapping[str, RoleSpec]:
    """A student that is a flow map, and a `teacher` if there is one, with what is `its` to do.

    `diagonal` as in RoleSpec.
    """
    roles = {"student": RoleSpec("flow_map", True, "learns the flow map", diagonal=diagonal)}
    if teacher:
        roles["teacher"] = RoleSpec("velocity", False, its)
    return roles


class OfVelocityConfig(ObjectiveConfig, ABC):
    """What the objectives share that learn the flow map of a velocity, which may be a teacher's."""

    velocity: Literal["data", "teacher", "self"]

    @final
    def roles(self) -> Mapping[str, RoleSpec]:
        """A student, and a teacher if the velocity is the teacher's."""
        return roles_of(self.velocity == "teacher", diagonal=self.diagonal())

    @abstractmethod
    def diagonal(self) -> bool:
        """Whether the student learns its velocity too, as in RoleSpec."""


class PairsConfig(ObjectiveConfig, ABC):
    """What the objectives share that are trained on pairs of times r <= t, both drawn by one law."""

    times: TimesConfig = Field(default_factory=uniform_times, description="both times, of which t is the later one")
    branches: BranchesConfig = Field(default_factory=BranchesConfig, description="shares of the global batch")

    @final
    def grid_shift(self) -> float | None:
        """That of its times."""
        return self.times.shift

    @final
    def diagonal(self) -> bool:
        """Whether the student learns its velocity too, as in RoleSpec."""
        return nears_diagonal(self.branches)


class IdentityConfig(PairsConfig, OfVelocityConfig, ABC):
    """What Eulerian and Lagrangian distillation share: a velocity, which may be the student's own, and its guidance."""

    velocity: Literal["teacher", "self"]
    cfg_scale: Guidance = Field(1.0, description="the teacher's guidance, w in null + w (cond - null); 1 is none")

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """What a student that teaches itself cannot do."""
        yield from guidance_findings(self.cfg_scale, facts.conditional)
        if self.velocity == "self":
            yield from diagonal_findings(self.branches)
            if self.cfg_scale != 1:
                why = "guidance here is the teacher's; use 1, or velocity = 'teacher'"
                yield Finding("error", ("cfg_scale",), why)


def nears_diagonal(branches: BranchesConfig) -> bool:
    """Whether any pair of times has r = t, or an r as near to t as may be; not so if all have r = 0."""
    return branches.consistency < 1


def diagonal_findings(branches: BranchesConfig) -> Iterable[Finding]:
    """No sample that could bring in a velocity."""
    if not branches.diffusion:
        why = "only samples with r = t bring in a velocity; without them u = 0 is as good as any; raise the share"
        yield Finding("error", ("branches", "diffusion"), why)


def null_findings(velocity: str, cfg_scale: float, drop_condition: float, facts: StageFacts) -> Iterable[Finding]:
    """Guidance of the data's velocity leads away from the student's own null, which must be taught."""
    if facts.conditional and velocity == "data" and cfg_scale != 1 and not facts.ever(drop_condition):
        why = (
            "guidance of the data's velocity leads away from the student's own null, which nothing teaches if no "
            "condition is ever dropped; set drop_condition, to 0.1 say"
        )
        yield Finding("error", ("drop_condition",), why)


def drop_findings(drop_condition: float, facts: StageFacts) -> Iterable[Finding]:
    """A condition that is dropped must exist, and must be there at times."""
    idle = list(idle_drop_findings(drop_condition, facts))
    yield from idle
    if drop_condition == 1 and not idle:
        why = "drops every condition, so that none is ever trained; 0.1 is usual"
        yield Finding("warning", ("drop_condition",), why)
