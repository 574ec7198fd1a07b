"""Configurations of the parts that objectives share: times, branches, tangents, distances. Torch-free."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from flowmap.schema.bounds import Deviation, Difference, Logit, Share, Shift
from flowmap.schema.config import Config


class TimesConfig(Config):
    """How training times are drawn: a distribution on [0, 1] (1 = noise), then shifted."""

    distribution: Literal["uniform", "logit_normal"] = Field("logit_normal", description="before the shift")
    mean: Logit = Field(0.0, description="of the logit, for logit_normal")
    std: Deviation = Field(1.0, description="of the logit, for logit_normal")
    shift: Shift = Field(1.0, description="s in s a / (1 + (s - 1) a); 1 changes nothing, Wan uses 5")


def uniform_times(shift: float = 1.0) -> TimesConfig:
    """Uniform times, shifted."""
    return TimesConfig(distribution="uniform", shift=shift)


class TangentConfig(Config):
    """How a derivative in time is computed: du/dt along the trajectory or, for Lagrangian distillation, du/dr."""

    method: Literal["central", "jvp"] = Field(
        "central",
        description="central difference (one-sided at the ends of [0, 1]) or forward-mode derivative",
    )
    step: Difference = Field(
        0.005,
        description="half width of the difference, in units of t; if a recipe leaves it out, at most 0.3 radians of "
        "the backbone's highest time frequency (Wan 0.0003), but in bf16 0.005 whatever that is",
    )
    batched: bool = Field(True, description="evaluate both sides in one call of twice the batch (central only)")


class BranchesConfig(Config):
    """Shares of the global batch with r = t (`diffusion`) and r = 0 (`consistency`); the rest has free r < t."""

    diffusion: Share = Field(0.5, description="share with r = t")
    consistency: Share = Field(0.25, description="share with r = 0")

    @model_validator(mode="after")
    def _at_most_everything(self) -> Self:
        if self.diffusion + self.consistency > 1:
            raise ValueError(f"diffusion + consistency is {self.diffusion + self.consistency:g}; it must not exceed 1")
        return self
