"""Objective `backward_simulation`: on-policy distribution matching through the student's own flow map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from flowmap.blocks import TimesConfig
from flowmap.configs import AnyObjective, AnySampler, ComponentConfig, Finding, ObjectiveConfig, RoleSpec, StageFacts
from flowmap.hookspecs import hookimpl

if TYPE_CHECKING:
    from flowmap.interfaces import Objective


class BackwardSimulationConfig(ObjectiveConfig):
    """Flow Map Backward Simulation with DMD (AnyFlow's stage 3, arXiv 2605.13724; DMD2, 2405.14867)."""

    type: Literal["backward_simulation"] = "backward_simulation"
    rollout_steps: tuple[int, ...] = Field(
        (1, 2, 4, 8, 16), min_length=1, description="grids to simulate, in steps; one is drawn per iteration"
    )
    sampler: AnySampler = Field(default="flow_map", description="what the student rolls out with")
    shift: float = Field(1.0, gt=0, description="of the rollout's grid and of the score times; Wan uses 5")
    cfg_scale: float = Field(1.0, ge=1, description="of the real score, w in null + w (cond - null); AnyFlow uses 4")
    score: Literal["forced", "whole"] = Field(
        "forced",
        description="how a causal model scores a rollout: 'forced' scores the last chunks given the clean ones before "
        "(as in its training), 'whole' all frames as one chunk (as a bidirectional teacher would)",
    )
    replay: bool = Field(
        True,
        description="causal models: roll out without gradient and make each chunk that needs one again in backward, so "
        "that one chunk's graph is held at a time, not all; costs another call for each with gradient",
    )
    critic_times: TimesConfig = Field(default_factory=TimesConfig, description="times the critic is trained at")
    forward: AnyObjective | None = Field(None, description="forward objective that the student is co-trained with")
    forward_weight: float = Field(1.0, gt=0, description="weight of the co-trained loss")

    def roles(self) -> Mapping[str, RoleSpec]:
        """Student, teacher and critic, and what the co-trained objective needs."""
        own = {
            "student": RoleSpec("flow_map", True, "generates, and learns from its own samples"),
            "teacher": RoleSpec("velocity", False, "the real score"),
            "critic": RoleSpec("velocity", True, "the fake score, kept up to date with the student"),
        }
        return {**(self.forward.roles() if self.forward else {}), **own}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """What is known to go wrong with rollouts and with co-training."""
        if any(steps < 1 for steps in self.rollout_steps):
            yield Finding("error", ("rollout_steps",), "a rollout takes at least one step")
        elif 1 not in self.rollout_steps:
            why = "without 1 the jump from noise to data is never trained on-policy; expect poor one-step samples"
            yield Finding("warning", ("rollout_steps",), why)
        if self.sampler.network != "flow_map":
            yield Finding("error", ("sampler",), f"the student is a flow map; '{self.sampler.type}' samples a velocity")
        if self.cfg_scale != 1 and not facts.conditional:
            yield Finding("error", ("cfg_scale",), "guidance needs a condition, and these data have none; use 1")
        if self.forward is None:
            why = "without a forward objective, distribution matching is known to ruin sampling in many steps"
            yield Finding("warning", ("forward",), why)
            return
        roles = self.forward.roles()
        if [name for name, role in roles.items() if role.trained] != ["student"] or roles["student"].kind != "flow_map":
            why = f"'{self.forward.type}' cannot be co-trained: it must train the student's flow map and nothing else"
            yield Finding("error", ("forward",), why)
        for finding in self.forward.findings(facts):
            yield Finding(finding.level, ("forward", *finding.field), finding.message)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_distribution.backward_simulation import BackwardSimulation

        return BackwardSimulation(self)


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [BackwardSimulationConfig]
