"""Metrics: three Fréchet distances, sliced Wasserstein, semigroup error, nearest training sample."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_metrics.configs import (
    FrechetFeaturesConfig,
    FrechetPixelsConfig,
    FrechetTeacherConfig,
    NearestTrainConfig,
    SemigroupConfig,
    SlicedWassersteinConfig,
)


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [
        FrechetFeaturesConfig,
        FrechetPixelsConfig,
        FrechetTeacherConfig,
        SlicedWassersteinConfig,
        SemigroupConfig,
        NearestTrainConfig,
    ]
