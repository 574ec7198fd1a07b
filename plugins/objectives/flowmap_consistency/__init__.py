"""Objectives `consistency`, `consistency_training`, `scm` and `tcm`: every point of a trajectory maps to its end."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_consistency.configs import ConsistencyConfig, ConsistencyTrainingConfig, ScmConfig, TcmConfig


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [ConsistencyConfig, ConsistencyTrainingConfig, TcmConfig, ScmConfig]
