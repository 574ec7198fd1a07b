"""One component of each kind, from outside flowmap. Torch is imported only when one of them is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from flowmap.plugin import (
    BackboneConfig,
    ComponentConfig,
    DataConfig,
    Finding,
    MetricConfig,
    NetworkKind,
    ObjectiveConfig,
    RoleSpec,
    SamplerConfig,
    SampleSpec,
    StageFacts,
    hookimpl,
)


class RingConfig(DataConfig):
    """Points on a circle in the plane, with a little noise."""

    type: Literal["ring"] = "ring"
    width: float = Field(0.05, ge=0, description="standard deviation across the ring")

    def spec(self) -> SampleSpec:
        return SampleSpec((1, 2), classes=0)

    def build(self) -> Any:
        from flowmap_example.components import Ring

        return Ring(self.width)


class BilinearConfig(BackboneConfig):
    """One hidden layer, multiplied by features of the times."""

    type: Literal["bilinear"] = "bilinear"
    width: int = Field(64, ge=1, description="hidden units")

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        return []

    def build(self, spec: SampleSpec) -> Any:
        from flowmap_example.components import bilinear

        return bilinear(self.width, spec)


class HuberMatchingConfig(ObjectiveConfig):
    """Flow matching with a robust loss."""

    type: Literal["huber_matching"] = "huber_matching"
    delta: float = Field(1.0, gt=0, description="where the loss turns from quadratic to linear")

    def roles(self) -> Mapping[str, RoleSpec]:
        return {"student": RoleSpec("velocity", True, "learns the velocity of the data")}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        return []

    def build(self) -> Any:
        from flowmap_example.components import HuberMatching

        return HuberMatching(self.delta)


class MidpointConfig(SamplerConfig):
    """The midpoint rule: two calls a step, second order."""

    type: Literal["midpoint"] = "midpoint"
    network: ClassVar[NetworkKind] = "velocity"
    calls_per_step: ClassVar[int] = 2

    def build(self) -> Any:
        from flowmap_example.components import Midpoint

        return Midpoint()


class RingWidthConfig(MetricConfig):
    """How far the samples' distances to the origin spread around those of real data."""

    type: Literal["ring_width"] = "ring_width"

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        return []

    def build(self, references: Any) -> Any:
        from flowmap_example.components import RingWidth

        return RingWidth(references.train.x, references.held_out.x)


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    return [RingConfig, BilinearConfig, HuberMatchingConfig, MidpointConfig, RingWidthConfig]
