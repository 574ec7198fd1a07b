"""What the configurations of Wan backbones have that make a second time from plain Wan's one. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from flowmap.plugin import Finding, Precision, SampleSpec
from flowmap.schema.bounds import Share
from flowmap_wan.common_config import CommonConfig
from flowmap_wan.findings import checkpoint_findings
from flowmap_wan.settings import LoraConfig

if TYPE_CHECKING:
    from flowmap.plugin.footprint import Footprint


class TwoTimesConfig(CommonConfig):
    """What backbones have that make a second time from plain Wan's one."""

    gate: Share = Field(0.25, description="share of the r-embedding, for weights that have none yet")

    def _weights_findings(self) -> Iterable[Finding]:
        gate = self.gate if "gate" in self.model_fields_set else None
        return checkpoint_findings(self.weights, self._sizes(), gate, self.pictures)

    def _measured(self, spec: SampleSpec, sizes: Mapping[str, Any], precision: Precision) -> Footprint:
        from flowmap_wan.footprint import wan_footprint

        return wan_footprint(self, spec, sizes, precision)  # type: ignore[arg-type]

    def rehearsed(self, folder: Path) -> Self:
        """The same with a tiny random checkpoint in diffusers' layout, made in `folder` if it is not there yet."""
        if self.random_base:
            return self
        from flowmap_wan.twin import make_null, make_twin

        small = {
            "weights": str(make_twin(folder / ("wan-i2v-twin" if self.pictures else "wan-twin"), self.pictures)),
            "lora": self.lora and LoraConfig(rank=4, alpha=4.0),
            "text_length": 32,
            "null_embedding": self.null_embedding and str(make_null(folder / "null.safetensors")),
        }
        return self.model_copy(update=small)
