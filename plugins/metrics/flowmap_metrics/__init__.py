"""Metrics (Fréchet and sliced Wasserstein distances, semigroup error, nearest training sample) and two features."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_metrics.configs import (
    ClassifierConfig,
    FrechetConfig,
    FrechetFeaturesConfig,
    FrechetPixelsConfig,
    FrechetTeacherConfig,
    NearestTrainConfig,
    PixelsConfig,
    SemigroupConfig,
    SlicedWassersteinConfig,
)


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [
        FrechetConfig,
        FrechetFeaturesConfig,
        FrechetPixelsConfig,
        FrechetTeacherConfig,
        SlicedWassersteinConfig,
        SemigroupConfig,
        NearestTrainConfig,
        PixelsConfig,
        ClassifierConfig,
    ]
