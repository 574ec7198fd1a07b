"""Metrics: distances of samples from data and teacher, those that papers on images have, and features for them."""

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
from flowmap_metrics.image_configs import (
    ClassAccuracyConfig,
    ClipScoreConfig,
    FidConfig,
    KidConfig,
    PrecisionConfig,
    RecallConfig,
)
from flowmap_metrics.network_configs import InceptionConfig, VisionModelConfig


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
        FidConfig,
        KidConfig,
        PrecisionConfig,
        RecallConfig,
        ClipScoreConfig,
        ClassAccuracyConfig,
        InceptionConfig,
        VisionModelConfig,
    ]
