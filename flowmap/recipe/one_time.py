"""What a network of one time cannot learn. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from flowmap.plugin.kinds import BackboneConfig, ObjectiveConfig
from flowmap.schema.config import Finding


def one_time_findings(objective: ObjectiveConfig, backbone: BackboneConfig) -> Iterator[Finding]:
    """Say that an objective trains a map between any two times where networks have one, and would ignore the other."""
    trained = [spec for spec in objective.roles().values() if spec.kind == "flow_map" and spec.trained]
    if backbone.one_time and not all(spec.to_data for spec in trained):
        why = f"'{objective.type}' trains a map between any two times, and networks of '{backbone.type}' have one"
        how = "take an objective that learns to jump to data, such as dmd2 or a consistency model"
        yield Finding("error", ("type",), f"{why}; {how}, or a backbone with two times")
