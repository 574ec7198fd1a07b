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
    MetricConfig,
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
    named = f'"{name}"'
    if kind == "objective":
        guided = f"{{ type = {named}, cfg_scale = 2.0 }}"
        return Example(f"objective = {guided}", objective=guided)
    return _named(Example(""), kind, name)


def of_copy(config: ComponentConfig, name: str, catalogue: Catalogue) -> Example:
    """That of a package from a copy of what `config` is, under `name`. Raises UncopyableError if there is none."""
    example = _named(Example(""), config.kind, name)
    if isinstance(config, BackboneConfig):
        data, spec = next(_data_for(config, catalogue), (None, None))
        if data is None or spec is None:
            raise UncopyableError("no installed data fit it as they are, to begin with")
        return replace(example, **_for(spec), data=data, spec=spec)
    if isinstance(config, DataConfig):
        spec = config.spec()
        mlp = catalogue.find("backbone", "mlp").model_validate({"type": "mlp"})
        if spec.text or not _fits(mlp, spec):
            raise UncopyableError("the backbone 'mlp', with which a copy begins, does not take its samples")
        return replace(example, **_for(spec))
    if isinstance(config, ObjectiveConfig):
        roles = config.roles()
        student = roles["student"]
        sampler = "euler" if student.kind == "velocity" else "consistency" if student.to_data else "flow_map"
        return replace(example, roles=tuple(roles), sampler=sampler)
    if isinstance(config, SamplerConfig):
        own, each = config.own_times(), config.calls_per_step
        calls = tuple(each * steps for steps in ((own.steps,) if own else (1, 2, 4)))
        return replace(example, calls=calls, stage="teacher" if config.network == "velocity" else "student")
    assert isinstance(config, MetricConfig)
    return example


def _named(example: Example, kind: str, name: str) -> Example:
    """The example with `name` in its place."""
    field = kind if kind in ("data", "backbone", "objective") else ""
    if field:
        return replace(example, **{field: f'"{name}"', "usage": f'{field} = "{name}"'})
    return replace(example, **{kind: name, "usage": f'{kind}s = ["{name}"]'})


def _for(spec: SampleSpec) -> dict[str, str]:
    """The objectives for samples of `spec`: guidance and null conditions are for conditional ones."""
    return {} if spec.conditional else {"teaching": '"flow_matching"', "objective": _PLAIN}


def _data_for(config: BackboneConfig, catalogue: Catalogue) -> Iterator[tuple[str, SampleSpec]]:
    """Data that `config` takes as they are, as a recipe names them: those of its own name before others."""
    if _own_data := [c for c in catalogue.components if (c.kind, c.name) == ("data", config.type)]:
        candidates = [(f'"{config.type}"', _own_data[0].config)]
    else:
        candidates = []
    others = [(f'"{c.name}"', c.config) for c in catalogue.components if c.kind == "data"]
    digits = catalogue.find("data", "digits").model_validate({"type": "digits", "conditional": True})
    assert isinstance(digits, DataConfig)
    found = [*_specs(candidates), (_DIGITS, digits.spec()), *_specs(others)]
    return ((text, spec) for text, spec in found if _fits(config, spec) and (config.reads_text() or not spec.text))


def _specs(candidates: list[tuple[str, type[ComponentConfig]]]) -> Iterator[tuple[str, SampleSpec]]:
    for text, cls in candidates:
        if not any(field.is_required() for field in cls.model_fields.values()):
            config = cls.model_validate({"type": cls.type_name()})
            assert isinstance(config, DataConfig)
            yield text, config.spec()


def _fits(config: ComponentConfig, spec: SampleSpec) -> bool:
    assert isinstance(config, BackboneConfig)
    return not any(finding.level == "error" for finding in config.findings(spec))
