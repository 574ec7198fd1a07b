"""Backbone `mlp`: a small residual network for small images and points."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from flowmap.configs import BackboneConfig, ComponentConfig, Finding, Precision, SampleSpec
from flowmap.hookspecs import hookimpl

if TYPE_CHECKING:
    from flowmap.footprint import Footprint
    from flowmap.interfaces import Backbone


class MlpConfig(BackboneConfig):
    """A residual MLP with adaptive layer norm, for samples of up to a few thousand numbers."""

    type: Literal["mlp"] = "mlp"
    random_base: ClassVar[bool] = True
    width: int = Field(160, ge=8, description="hidden units")
    depth: int = Field(3, ge=1, description="residual blocks")
    frequency: float = Field(30.0, gt=0, description="highest frequency of the time features, in radians per unit of t")
    gate: float = Field(0.25, ge=0, le=1, description="share of the r-embedding in a two-time network")

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """One time per sample is all this network knows."""
        if spec.shape[0] != 1:
            yield Finding("error", ("type",), f"'mlp' takes single frames; these data have {spec.shape[0]}")

    def time_frequency(self) -> float:
        """As `frequency` says."""
        return self.frequency

    def footprint(self, spec: SampleSpec, precision: Precision) -> Footprint | None:
        """Counted on the meta device."""
        from flowmap_mlp.footprint import MlpFootprint

        return MlpFootprint(self, spec, precision)

    def build(self, spec: SampleSpec) -> Backbone:
        """Make the backbone."""
        from flowmap_mlp.backbone import MlpBackbone

        return MlpBackbone(self, spec)


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [MlpConfig]
