"""Backbone `mlp`: a small residual network for small images and points."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from flowmap.plugin import BackboneConfig, Finding, SampleSpec
from flowmap.schema.bounds import MOST_WIDTH, Depth, Frequency, Range, Share

if TYPE_CHECKING:
    from flowmap.interfaces import Backbone

HiddenWidth = Annotated[
    int, Range(8, MOST_WIDTH, "below 8 nothing is learned; one layer of the widest has 4e9 weights")
]
"""Units of every layer."""


class MlpConfig(BackboneConfig):
    """A residual MLP with adaptive layer norm, for samples of up to a few thousand numbers."""

    type: Literal["mlp"] = "mlp"
    random_base: ClassVar[bool] = True
    width: HiddenWidth = Field(160, description="hidden units")
    depth: Depth = Field(3, description="residual blocks")
    frequency: Frequency = Field(30.0, description="highest frequency of the time features, in radians per unit of t")
    gate: Share = Field(0.25, description="share of the r-embedding in a two-time network")

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """One time per sample is all this network knows."""
        if spec.shape[0] != 1:
            yield Finding("error", ("type",), f"'mlp' takes single frames; these data have {spec.shape[0]}")

    def has_blocks(self) -> bool:
        """None that are worth compiling."""
        return False

    def time_frequency(self) -> float:
        """As `frequency` says."""
        return self.frequency

    def build(self, spec: SampleSpec) -> Backbone:
        """Make the backbone."""
        from flowmap.workshop.backbone import Architecture, ModuleBackbone
        from flowmap.workshop.codec import NoCodec
        from flowmap.workshop.conditions import labelled
        from flowmap_mlp.network import MlpModule

        architecture = Architecture(
            lambda two_times, chosen: MlpModule(self, spec, two_times), copies={"target_time.": "time."}
        )
        return ModuleBackbone(self.type, architecture, NoCodec(spec.shape), labelled(spec.classes))
