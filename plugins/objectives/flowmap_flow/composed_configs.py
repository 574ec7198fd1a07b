"""Configurations of the flow-map family: a jump is held to what shorter ones make of it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from flowmap.plugin import Finding, ObjectiveConfig, RoleSpec, StageFacts, guidance_findings
from flowmap.schema.bounds import Guidance, Probability, Range, SomeShare
from flowmap_flow.parts import OfVelocityConfig, PairsConfig, diagonal_findings, null_findings, roles_of

if TYPE_CHECKING:
    from flowmap.interfaces import Objective


Levels = Annotated[int, Range(1, 20, "the finest step is 2^-20, which is 16 times what float32 tells apart near 1")]
"""Lengths of jumps, each half the one before."""


class SemigroupConfig(PairsConfig, OfVelocityConfig):
    """Progressive distillation by the semigroup (arXiv 2505.18825): X_{t->r} = X_{s->r}(X_{t->s})."""

    type: Literal["semigroup"] = "semigroup"
    velocity: Literal["teacher", "data"] = Field(
        "teacher", description="what the r = t samples learn: a teacher's velocity, or the sample velocity e - x0"
    )
    middle: Literal["uniform", "midpoint"] = Field("uniform", description="s: anywhere between r and t, or halfway")
    cfg_scale: Guidance = Field(
        1.0, description="w in null + w (cond - null), at r = t alone (longer jumps inherit it); 1 is none"
    )
    drop_condition: Probability = Field(
        0.0, description="probability that a sample's condition becomes null (velocity = 'data' only)"
    )

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Without r = t, nothing says what velocity the jumps belong to."""
        yield from guidance_findings(self.cfg_scale, facts.conditional)
        yield from null_findings(self.velocity, self.cfg_scale, self.drop_condition, facts)
        yield from diagonal_findings(self.branches)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_flow.semigroup import Semigroup

        return Semigroup(self)


class ShortcutConfig(ObjectiveConfig):
    """Shortcut models (arXiv 2410.12557): jumps of dyadic lengths, each learnt from two of half its length."""

    type: Literal["shortcut"] = "shortcut"
    levels: Levels = Field(7, description="lengths of jumps: 1, 1/2, ...; 2^levels finest steps (128)")
    bootstrap: SomeShare = Field(
        0.125, description="share of the global batch that learns jumps (r < t); 1/8 as released"
    )
    cfg_scale: Guidance = Field(
        1.0, description="w in null + w (cond - null), at r = t alone (longer jumps inherit it); 1 is none"
    )
    drop_condition: Probability = Field(0.1, description="probability that a sample's condition becomes null")

    def grid_shift(self) -> float | None:
        """1: its jumps are dyadic parts of [0, 1]."""
        return 1.0

    def roles(self) -> Mapping[str, RoleSpec]:
        """A student only."""
        return roles_of(False)

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Guidance needs a condition, and a null that somebody teaches."""
        yield from guidance_findings(self.cfg_scale, facts.conditional)
        yield from null_findings("data", self.cfg_scale, self.drop_condition, facts)

    def build(self) -> Objective:
        """Make the objective."""
        from flowmap_flow.shortcut import Shortcut

        return Shortcut(self)
