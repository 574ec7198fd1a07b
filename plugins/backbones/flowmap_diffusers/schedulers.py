"""The scheduler of diffusers that is written beside a transformer."""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from flowmap_diffusers.family import Family
from flowmap_diffusers.noise_prediction import SCHEDULE


def scheduler_of(family: Family, shift: float) -> Any:
    """Times of a velocity, shifted by `shift`; or the table that a model of noise was trained on."""
    if family.is_velocity:
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    return DDIMScheduler(**SCHEDULE, clip_sample=False)
