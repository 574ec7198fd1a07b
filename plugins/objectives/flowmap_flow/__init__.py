"""Objectives that learn a velocity or a flow map from points on the path: see each configuration."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_flow.composed_configs import SemigroupConfig, ShortcutConfig
from flowmap_flow.configs import DiscreteFlowMapConfig, FlowMapConfig, FlowMatchingConfig
from flowmap_flow.derivative_configs import EulerianConfig, LagrangianConfig, MeanFlowConfig, TransitionConfig


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
