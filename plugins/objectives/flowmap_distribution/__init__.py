"""Objectives `backward_simulation`, `dmd2`, `self_forcing`, `causvid`, `rcm` (match distributions), `trajectory`."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_distribution.configs import (
    BackwardSimulationConfig,
    CausVidConfig,
    Dmd2Config,
    RcmConfig,
    SelfForcingConfig,
    TrajectoryConfig,
)


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [BackwardSimulationConfig, Dmd2Config, SelfForcingConfig, CausVidConfig, TrajectoryConfig, RcmConfig]
