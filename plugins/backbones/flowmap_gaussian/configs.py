"""Backbone and data `gaussian`: mixtures of Gaussians, whose velocity and flow map are known exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from flowmap.plugin import (
    BackboneConfig,
    Config,
    DataConfig,
    Finding,
    Pretrained,
    SampleSpec,
)
from flowmap.schema.bounds import MOST_PARTS, Coordinate, Coordinates, Deviation, Part

if TYPE_CHECKING:
    from flowmap.interfaces import Backbone, Data


class MixtureConfig(Config):
    """A mixture of Gaussians on the line; every coordinate of a sample is drawn from it independently."""

    means: tuple[Coordinate, ...] = Field((0.5,), min_length=1, max_length=MOST_PARTS, description="one per component")
    stds: tuple[Deviation, ...] = Field(
        (0.5,), min_length=1, max_length=MOST_PARTS, description="one per component, above 0"
    )
    weights: tuple[Part, ...] = Field(
        (1.0,), min_length=1, max_length=MOST_PARTS, description="one per component; they sum to 1"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.means) == len(self.stds) == len(self.weights):
            raise ValueError("means, stds and weights must have the same length")
        if min(self.stds) <= 0 or min(self.weights) <= 0 or not math.isclose(sum(self.weights), 1.0, rel_tol=1e-6):
            raise ValueError("stds and weights must be above 0, and the weights must sum to 1")
        return self


class GaussianConfig(BackboneConfig):
    """The exact velocity and flow map of mixture data, plus a small trainable error (zero at first)."""

    type: Literal["gaussian"] = "gaussian"
    mixture: MixtureConfig = Field(default_factory=MixtureConfig, description="the distribution of a coordinate")

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """It fits samples of any shape."""
        return []

    def has_blocks(self) -> bool:
        """None that are worth compiling."""
        return False

    def pretrained(self) -> Pretrained:
        """The exact flow map, right on any grid."""
        return Pretrained("flow_map", shift=None)

    def build(self, spec: SampleSpec) -> Backbone:
        """Make the backbone."""
        from flowmap.workshop.backbone import Architecture, ModuleBackbone
        from flowmap.workshop.codec import NoCodec
        from flowmap_gaussian.exact import Disturbed, Mixture

        architecture = Architecture(lambda two_times, chosen: Disturbed(Mixture(self.mixture)), times="frame")
        return ModuleBackbone(self.type, architecture, NoCodec(spec.shape))


class GaussianDataConfig(DataConfig):
    """Points whose coordinates are independent draws from a mixture of Gaussians."""

    type: Literal["gaussian"] = "gaussian"
    mixture: MixtureConfig = Field(default_factory=MixtureConfig, description="the distribution of a coordinate")
    dimension: Coordinates = Field(2, description="coordinates of a point")

    def spec(self) -> SampleSpec:
        """One frame of `dimension` coordinates."""
        return SampleSpec((1, self.dimension), classes=0)

    def build(self) -> Data:
        """Make the source."""
        from flowmap_gaussian.data import gaussian_data

        return gaussian_data(self)
