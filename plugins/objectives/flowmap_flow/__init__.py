"""Objectives that learn a velocity or a flow map from points on the path: see each configuration."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_flow.family_configs import (
    EulerianConfig,
    LagrangianConfig,
    MeanFlowConfig,
    SemigroupConfig,
    ShortcutConfig,
    TransitionConfig,
)
from flowmap_flow.forward_configs import DiscreteFlowMapConfig, FlowMapConfig, FlowMatchingConfig

__all__ = [
    "DiscreteFlowMapConfig",
    "EulerianConfig",
    "FlowMapConfig",
    "FlowMatchingConfig",
    "LagrangianConfig",
    "MeanFlowConfig",
    "SemigroupConfig",
    "ShortcutConfig",
    "TransitionConfig",
    "flowmap_components",
]


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [
        FlowMatchingConfig,
        FlowMapConfig,
        DiscreteFlowMapConfig,
        MeanFlowConfig,
        EulerianConfig,
        LagrangianConfig,
        SemigroupConfig,
        ShortcutConfig,
        TransitionConfig,
    ]
