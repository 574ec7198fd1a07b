"""Backbone and data `gaussian`: mixtures of Gaussians, whose velocity and flow map are known exactly."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_gaussian.configs import GaussianConfig, GaussianDataConfig


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [GaussianConfig, GaussianDataConfig]
