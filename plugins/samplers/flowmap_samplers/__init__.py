"""Samplers `euler`, `heun`, `unipc`, `dpm_solver` (velocities), `flow_map`, `consistency` and `gamma` (flow maps)."""

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
    ]
