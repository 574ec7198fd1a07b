"""The recipe that a new package comes with: two stages in which its component has its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import final

from flowmap.plugin.catalogue import Catalogue
from flowmap.plugin.kinds import (
    BackboneConfig,
    ComponentConfig,
    DataConfig,
    ObjectiveConfig,
    SamplerConfig,
)
from flowmap.scaffold.closure import UncopyableError
from flowmap.schema.specs import SampleSpec

_DIGITS = '{ type = "digits", conditional = true }'
_GUIDED, _PLAIN = '{ type = "discrete_flow_map", cfg_scale = 2.0 }', '"discrete_flow_map"'
_DROPPING = '{ type = "flow_matching", drop_condition = 0.1 }'


@final
@dataclass(frozen=True)
class Example:
    """What stands in the recipe, as TOML has it; `usage` is the line of it that names the component.

    `spec` are its samples, if the component is a backbone.
    """

    usage: str
    data: str = _DIGITS
    backbone: str = '"mlp"'
    teaching: str = _DROPPING
    objective: str = _GUIDED
    roles: tuple[str, ...] = ("student", "teacher")
    calls: tuple[int, ...] = (1, 2, 4)
    metric: str = "frechet_pixels"
    stage: str = "student"
    sampler: str = "flow_map"
    spec: SampleSpec | None = None

    def words(self) -> Mapping[str, str]:
        """By the names that the template of a recipe has."""
        roles = "".join(f'roles.{role}.from = "teacher"\n' for role in self.roles)
        texts = {key: getattr(self, key) for key in ("data", "backbone", "teaching", "objective", "usage")}
        names = {key: getattr(self, key) for key in ("metric", "stage", "sampler")}
        return {**texts, **names, "roles": roles, "calls": str(list(self.calls))}


def of_template(kind: str, name: str) -> Example:
    """That of a package from the template of `kind`."""
    if kind == "objective":
        guided = f'{{ type = "{name}", cfg_scale = 2.0 }}'
        return Example(f"objective = {guided}", objective=guided)
    return _with(kind, name)


def of_copy(config: ComponentConfig, name: str, catalogue: Catalogue) -> Example:
    """That of a package from a copy of what `config` is, under `name`. Raises UncopyableError if there is none."""
    example = _with(config.kind, name)
    if isinstance(config, BackboneConfig):
        data, spec = next(_data_for(config, catalogue), ("", None))
        if spec is None:
            raise UncopyableError("no installed data fit it as they are, to begin with")
        return replace(_suited(example, spec), data=data, spec=spec)
    if isinstance(config, DataConfig):
        spec = config.spec()
        mlp = catalogue.find("backbone", "mlp").model_validate({"type": "mlp"})
        if not _fits(mlp, spec):
            raise UncopyableError("the backbone 'mlp', with which a copy begins, does not take its samples")
        return _suited(example, spec)
    if isinstance(config, ObjectiveConfig):
        roles = config.roles()
        student = roles["student"]
        sampler = "euler" if student.kind == "velocity" else "consistency" if student.to_data else "flow_map"
        return replace(example, roles=tuple(roles), sampler=sampler)
    if isinstance(config, SamplerConfig):
        own, each = config.own_times(), config.calls_per_step
        calls = tuple(each * steps for steps in ((own.steps,) if own else (1, 2, 4)))
        return replace(example, calls=calls, stage="teacher" if config.network == "velocity" else "student")
    return example


def _with(kind: str, name: str) -> Example:
    """The example with the component `name` in its place."""
    quoted = f'"{name}"'
    if kind in ("sampler", "metric"):
        usage = f"{kind}s = [{quoted}]"
        return Example(usage, sampler=name) if kind == "sampler" else Example(usage, metric=name)
    usage = f"{kind} = {quoted}"
    if kind == "data":
        return Example(usage, data=quoted)
    return Example(usage, backbone=quoted) if kind == "backbone" else Example(usage, objective=quoted)


def _suited(example: Example, spec: SampleSpec) -> Example:
    """The example for samples of `spec`: guidance and null conditions are for conditional ones."""
    return example if spec.conditional else replace(example, teaching='"flow_matching"', objective=_PLAIN)


def _data_for(config: BackboneConfig, catalogue: Catalogue) -> Iterator[tuple[str, SampleSpec]]:
    """Data that `config` takes as they are, as a recipe names them: those of its own name, labelled digits, others."""
    others = list(_data(catalogue))
    digits = catalogue.find("data", "digits").model_validate({"type": "digits", "conditional": True})
    assert isinstance(digits, DataConfig)
    own = [each for each in others if each[0] == f'"{config.type}"']
    found = (*own, (_DIGITS, digits.spec()), *others)
    return ((text, spec) for text, spec in found if _fits(config, spec) and _takes_labels(config, spec))


def _data(catalogue: Catalogue) -> Iterator[tuple[str, SampleSpec]]:
    """Data that need no settings, as a recipe names them."""
    for component in catalogue.components:
        if component.kind == "data" and not any(f.is_required() for f in component.config.model_fields.values()):
            config = component.config.model_validate({"type": component.name})
            assert isinstance(config, DataConfig)
            yield f'"{component.name}"', config.spec()


def _fits(config: ComponentConfig, spec: SampleSpec) -> bool:
    assert isinstance(config, BackboneConfig)
    wrong = any(finding.level == "error" for finding in config.findings(spec))
    return not wrong and (config.reads_text() or not spec.text)


def _takes_labels(config: BackboneConfig, spec: SampleSpec) -> bool:
    """Whether the backbone takes class labels, if samples of `spec` have any; its findings need not say so."""
    if not spec.classes:
        return True
    import torch

    try:
        config.build(spec).condition(torch.zeros(1, dtype=torch.int64), 1, torch.device("cpu"))
    except Exception:  # a stranger's code may raise anything
        return False
    return True
