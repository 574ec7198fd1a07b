"""What a recipe may set of the other components. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from flowmap.plugin import (
    DataConfig,
    Finding,
    MetricConfig,
    NetworkKind,
    ObjectiveConfig,
    RoleSpec,
    SamplerConfig,
    SampleSpec,
    StageFacts,
)


class SeaSurfaceConfig(DataConfig):
    """Temperatures of the Pacific by the month, 1950 to 2009, in windows; their labels are the season of the first."""

    type: Literal["sea_surface"] = "sea_surface"
    months: int = Field(24, ge=2, le=60, description="of a window")

    def spec(self) -> SampleSpec:
        return SampleSpec((1, 1, self.months), classes=4, labelled=True)

    def build(self) -> Any:
        from flowmap_strangers.sea import SeaSurface

        return SeaSurface(self.months)


class EnergyConfig(ObjectiveConfig):
    """Inductive moment matching in its simplest form: the energy distance of jumps and data, within groups."""

    type: Literal["energy"] = "energy"
    samples: int = Field(4, ge=2, le=1024, description="of a group")

    def group(self) -> int:
        return self.samples

    def roles(self) -> Mapping[str, RoleSpec]:
        # All pairs have r < t: the velocity u(x, t, t) is none of what it learns.
        return {"student": RoleSpec("flow_map", True, "learns to jump", diagonal=False)}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        return ()

    def build(self) -> Any:
        from flowmap_strangers.energy import Energy

        return Energy(self.samples)


class MidpointConfig(SamplerConfig):
    """The midpoint rule: two calls a step, second order."""

    type: Literal["midpoint"] = "midpoint"
    network: ClassVar[NetworkKind] = "velocity"
    calls_per_step: ClassVar[int] = 2

    def build(self) -> Any:
        from flowmap_strangers.midpoint import Midpoint

        return Midpoint()


class LabelErrorConfig(MetricConfig):
    """Share of samples that are nearer to the mean of another class than to that of the one asked for."""

    type: Literal["label_error"] = "label_error"

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        if not (spec.classes and spec.labelled):
            yield Finding("error", ("type",), "'label_error' needs labelled data, asked for by their classes")

    def build(self, references: Any) -> Any:
        from flowmap_strangers.label_error import LabelError

        return LabelError(references.train, references.held_out)
