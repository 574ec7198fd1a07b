"""The derivatives in time that objectives take: where they stand in a recipe, and by which method. Torch-free.

Forward mode (`method = "jvp"`) is exact and needs a forward derivative of every operation. That of attention has its
scores whole, so that a backbone may have none that fits a device, on samples of such a size
(`BackboneConfig.no_forward_mode`); and where backward recomputes the network, an objective may not be able to use it.
A tangent that a recipe leaves out is then by central difference, whatever its objective has it be elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast, final

from flowmap.plugin.kinds import ObjectiveConfig
from flowmap.schema.config import Config, Finding
from flowmap.schema.settings import TangentConfig
from flowmap.schema.specs import StageFacts

C = TypeVar("C")

Field = tuple[str | int, ...]


@final
@dataclass(frozen=True)
class TangentPlace:
    """A derivative that an objective takes: its field within the objective, how, and whether it could be by jvp."""

    field: Field
    config: TangentConfig
    jvp: bool


def tangents(objective: ObjectiveConfig, facts: StageFacts) -> list[TangentPlace]:
    """Every TangentConfig within `objective`, those of objectives inside it too."""
    return [TangentPlace(f, config, _may_be_jvp(objective, f, facts)) for f, config, _ in _within(objective)]


def with_methods(objective: ObjectiveConfig, facts: Callable[[], StageFacts]) -> ObjectiveConfig:
    """`objective` with central differences where a tangent that is left out would be by a jvp that cannot be had."""
    left_out = [field for field, config, told in _within(objective) if config.method == "jvp" and not told]
    for field in left_out:
        if not _may_be_jvp(objective, field, facts()):
            objective = _with(objective, field, TangentConfig())
    return objective


def method_findings(objective: ObjectiveConfig, facts: StageFacts, sequence: int) -> Iterator[Finding]:
    """Refuse forward mode where the backbone has none, and where a `sequence` of processes shares each sample."""
    reason, way = facts.no_forward_mode, ""
    if reason is None and sequence > 1:
        # Left out, it is not settled by how many share a sample: that is to change no training.
        reason, way = "no forward derivative goes from one process to another", ", or leave out compute.sequence"
    for field, config, _ in _within(objective):
        if config.method == "jvp" and reason is not None:
            why = f"'jvp' cannot be had here: {reason}; set method = 'central'{way}"
            yield Finding("error", (*field, "method"), why)


def settled(value: C, step: float) -> C:
    """`value` with `step` in every difference within it whose own is left out."""
    if isinstance(value, TangentConfig):
        left_out = value.method == "central" and "step" not in value.model_fields_set
        return value.model_copy(update={"step": step}) if left_out else value
    if isinstance(value, Config):
        parts = {name: getattr(value, name) for name in type(value).model_fields}
        changed = {name: part for name, old in parts.items() if (part := settled(old, step)) is not old}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, tuple):
        elements = tuple(settled(part, step) for part in value)
        return value if all(a is b for a, b in zip(value, elements, strict=True)) else cast(C, elements)
    if isinstance(value, dict):
        entries = {key: settled(part, step) for key, part in value.items()}
        return value if all(value[key] is part for key, part in entries.items()) else cast(C, entries)
    return value


def _within(value: Any, field: Field = (), told: bool = True) -> Iterator[tuple[Field, TangentConfig, bool]]:
    """Every TangentConfig within `value`, where it stands, and whether it was told or is what a field has left out."""
    if isinstance(value, TangentConfig):
        yield field, value, told
    elif isinstance(value, Config):
        for name in type(value).model_fields:
            yield from _within(getattr(value, name), (*field, name), name in value.model_fields_set)
    elif isinstance(value, tuple):
        for index, part in enumerate(value):
            yield from _within(part, (*field, index), told)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _within(part, (*field, key), told)


def _may_be_jvp(objective: ObjectiveConfig, field: Field, facts: StageFacts) -> bool:
    """Whether neither the backbone nor `objective` has anything against its derivative at `field` by forward mode."""
    if facts.no_forward_mode is not None:
        return False
    by_jvp = _with(objective, field, TangentConfig(method="jvp"))
    by_difference = _with(objective, field, TangentConfig())
    already = {finding.field for finding in by_difference.findings(facts) if finding.level == "error"}
    return all(f.level != "error" or f.field in already for f in by_jvp.findings(facts))


def _with(value: Any, field: Field, tangent: TangentConfig) -> Any:
    """`value` with `tangent` at `field`."""
    if not field:
        return tangent
    first, rest = field[0], field[1:]
    if isinstance(value, Config):
        return value.model_copy(update={str(first): _with(getattr(value, str(first)), rest, tangent)})
    if isinstance(value, dict):
        return {**value, first: _with(value[first], rest, tangent)}
    return tuple(_with(part, rest, tangent) if index == first else part for index, part in enumerate(value))
