"""Samplers of velocities: euler, heun, unipc, dpm_solver; of flow maps: flow_map, consistency, gamma, lcm."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_samplers.configs import (
    ConsistencyConfig,
    DpmSolverConfig,
    EulerConfig,
    FlowMapConfig,
    GammaConfig,
    HeunConfig,
    LcmConfig,
    UniPCConfig,
)


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [
        EulerConfig,
        HeunConfig,
        UniPCConfig,
        DpmSolverConfig,
        FlowMapConfig,
        ConsistencyConfig,
        GammaConfig,
        LcmConfig,
    ]
