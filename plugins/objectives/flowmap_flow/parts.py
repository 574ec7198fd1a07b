"""What the configurations of this package share: roles, and what is known to go wrong. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flowmap.plugin import Finding, RoleSpec, StageFacts
from flowmap.schema.settings import BranchesConfig


def roles_of(teacher: bool) -> Mapping[str, RoleSpec]:
    """A student that is a flow map, and a teacher if its velocity is in the target."""
    roles = {"student": RoleSpec("flow_map", True, "learns the flow map")}
    if teacher:
        roles["teacher"] = RoleSpec("velocity", False, "gives the velocity")
    return roles


def self_findings(velocity: str, cfg_scale: float, branches: BranchesConfig) -> Iterable[Finding]:
    """What goes wrong where the student is its own teacher."""
    if velocity != "self":
        return
    yield from diagonal_findings(branches)
    if cfg_scale != 1:
        yield Finding("error", ("cfg_scale",), "guidance here is the teacher's; use 1, or velocity = 'teacher'")


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
