"""Objective `consistency`: discrete consistency distillation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from flowmap.configs import ComponentConfig, Finding, ObjectiveConfig, RoleSpec, StageFacts
from flowmap.hookspecs import hookimpl

if TYPE_CHECKING:
    from flowmap.interfaces import Objective


class ConsistencyConfig(ObjectiveConfig):
    """Discrete consistency distillation (CM, arXiv 2303.01469): every point of a trajectory maps to its end."""

    type: Literal["consistency"] = "consistency"
    points: int = Field(32, ge=2, description="intervals of the time grid")
    solver: Literal["euler", "heun"] = Field("heun", description="how the teacher steps to the next grid point")
    shift: float = Field(1.0, gt=0, description="of the time grid; Wan uses 5")
    cfg_scale: float = Field(1.0, ge=1, description="the teacher's guidance, w in null + w (cond - null); 1 is none")

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student and a teacher."""
        return {
            "student": RoleSpec("flow_map", True, "learns the map to r = 0, and only that"),
            "teacher": RoleSpec("velocity", False, "takes one step along its velocity"),
        }

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Guidance needs a condition."""
        if self.cfg_scale != 1 and not facts.conditional:
            yield Finding("error", ("cfg_scale",), "guidance needs a condition, and these data have none; use 1")

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_consistency.discrete import DiscreteConsistency

        return DiscreteConsistency(self)


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [ConsistencyConfig]
