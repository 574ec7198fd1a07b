"""What the configurations of Wan backbones have that make a second time from plain Wan's one. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from flowmap.plugin import Finding
from flowmap.schema.bounds import Share
from flowmap_wan.common_config import CommonConfig
from flowmap_wan.findings import checkpoint_findings


class TwoTimesConfig(CommonConfig):
    """What backbones have that make a second time from plain Wan's one."""

    gate: Share = Field(0.25, description="share of the r-embedding, for weights that have none yet")

    def _weights_findings(self) -> Iterable[Finding]:
        gate = self.gate if "gate" in self.model_fields_set else None
        return checkpoint_findings(self.weights, self._sizes(), gate)
