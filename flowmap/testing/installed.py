"""The kit on what is installed, by its name: which components are meant, and what each is examined with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pydantic import ValidationError

from flowmap.console.options import option
from flowmap.errors import FlowmapError
from flowmap.interfaces import References, Samples
from flowmap.plugin import catalogue as installed
from flowmap.plugin.catalogue import Catalogue, Component, clash
from flowmap.plugin.kinds import BackboneConfig, ComponentConfig, DataConfig, FeaturesConfig, MetricConfig
from flowmap.recipe.messages import Source, validation_findings
from flowmap.recipe.overrides import override
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import listed, unknown_word
from flowmap.testing.backbones.subject import COUNT
from flowmap.testing.contract import whole
from flowmap.testing.examination import Examination
from flowmap.testing.kit import examination
from flowmap.testing.referenced import references_of, spec_of, two_classes

_SHAPES = ((1, 1, 8, 8), (1, 2), (1, 3, 32, 32), (1, 3, 64, 64), (1, 4, 8, 8), (1, 1, 16), (5, 3, 32, 32), (4, 3, 8, 8))
_CLASSES = 10


@final
@dataclass(frozen=True)
class Asked:
    """A component that is asked for: its examination, or why there is none; `twin` says that it is a tiny one."""

    component: Component
    examination: Examination | None
    why: str = ""
    twin: bool = False


def asked_for(name: str, kind: str | None, settings: Sequence[str], data: str | None, folder: Path) -> Iterator[Asked]:
    """The components called `name`, or those of a package of that name; tiny twins are made in `folder`.

    `settings` are fields, as in `width=8`; `data` is an installed source whose samples they are examined on. Raises
    FlowmapError for a name that nobody has, or that several kinds have, and for fields that a component does not take.
    """
    found = _named(name, kind, installed.catalogue())
    alone = len(found) == 1
    if settings and not alone:
        raise FlowmapError(f"{option('set')} is for one component; '{name}' has {len(found)}")
    source = None if data is None else _source(data)
    for component in found:
        try:
            config = _config(component, settings)
            yield _asked(component, config, source, folder)
        except FlowmapError as error:
            if alone:
                raise
            yield Asked(component, None, str(error))


def _named(name: str, kind: str | None, catalogue: Catalogue) -> list[Component]:
    everything = [c for c in catalogue.components if kind is None or c.kind == kind]
    found = [component for component in everything if component.name == name]
    if found:
        if len(found) > 1:
            kinds = sorted({component.kind for component in found})
            if len(kinds) == 1:
                raise FlowmapError(clash(found))
            raise FlowmapError(
                f"several are called '{name}' ({', '.join(kinds)}); give {option('kind', kinds[0])}, say"
            )
        return found
    package = [c for c in everything if name in (c.distribution.split(" ")[0], c.config.__module__.split(".")[0])]
    if not package:
        broken = [
            plugin for plugin in catalogue.broken if name in (plugin.entry_point, plugin.distribution.split(" ")[0])
        ]
        if broken:
            raise FlowmapError(f"the plugin '{name}' cannot be loaded: {broken[0].reason}", 1)
        raise FlowmapError(unknown_word(kind or "component or package", name, sorted({c.name for c in everything})))
    return package


def _config(component: Component, settings: Sequence[str]) -> ComponentConfig:
    """Its configuration, of which fields are set."""
    source = Source(component.name, "", {"type": component.name})
    for text in settings:
        override(source, text)
    try:
        return component.config.model_validate(source.raw)
    except ValidationError as error:
        fields = component.config.model_fields
        needed = [name for name, info in fields.items() if info.is_required() and name not in source.raw]
        if needed:
            told = "; ".join(f"{option('set', f'{name}=...')} ({fields[name].description})" for name in needed)
            raise FlowmapError(f"{component.kind} '{component.name}' needs {told}") from None
        findings = [f"{'.'.join(map(str, f.field))}: {f.message}" for f in validation_findings(error)]
        raise FlowmapError(f"{component.kind} '{component.name}': {'; '.join(findings)}") from None


def _asked(component: Component, config: ComponentConfig, source: DataConfig | None, folder: Path) -> Asked:
    twin = config
    if isinstance(config, BackboneConfig) and not config.random_base:
        twin = config.rehearsed(folder)
    absent = [finding.message for finding in twin.missing()]
    if absent:
        return Asked(component, None, "; ".join(absent))
    given: dict[str, Any] = {}
    if isinstance(twin, BackboneConfig):
        twin, given = _fitting(twin, source)
    elif isinstance(twin, MetricConfig | FeaturesConfig):
        references = two_classes() if source is None else references_of(source)
        _refuse_unread(twin, references, source)
        given = {"references": references}
    return Asked(component, examination(twin, **given), twin=twin is not config)


def _source(name: str) -> DataConfig:
    found = [c for c in _named(name, "data", installed.catalogue()) if c.name == name]
    config = _config(found[0], ())
    assert isinstance(config, DataConfig)
    return config


def _fitting(config: BackboneConfig, source: DataConfig | None) -> tuple[BackboneConfig, dict[str, Any]]:
    """The backbone made to fit, and samples for it: those of `source`, or else noise of some usual size."""
    if source is not None:
        spec = source.spec()
        batch: Samples = source.build().batch(whole(COUNT))
        return config.sized(spec), {"spec": spec, "samples": batch}
    tried = []
    for spec in _specs(config):
        fit = config.sized(spec)
        errors = [finding.message for finding in fit.findings(spec) if finding.level == "error"]
        if not errors:
            return fit, {"spec": spec}
        tried.append(f"[{listed(spec.shape)}]: {errors[0]}")
    raise FlowmapError(
        f"backbone '{config.type}' takes none of the samples that the kit has by itself ({tried[0]}; {tried[-1]}); "
        "name a "
        f"source of such as it takes, {option('data', 'moving_digits')}, say"
    )


def _refuse_unread(config: MetricConfig | FeaturesConfig, references: References, source: DataConfig | None) -> None:
    """Raise FlowmapError if it does not take such samples."""
    errors = [finding.message for finding in config.findings(spec_of(references.train)) if finding.level == "error"]
    if errors and source is None:
        shape = listed(references.train.x.shape[1:])
        raise FlowmapError(
            f"'{config.type}' does not take the samples that the kit has by itself, [{shape}] of two classes "
            f"({errors[0]}); name a source of such as it takes, {option('data', 'moving_digits')}, say"
        )
    if errors:
        raise FlowmapError(f"'{config.type}' does not take the samples of that source: {errors[0]}")


def _specs(config: BackboneConfig) -> Iterator[SampleSpec]:
    """Specifications to try: with texts where they are read, with classes, with neither."""
    for shape in _SHAPES:
        if config.reads_text():
            yield SampleSpec(shape, text=True)
    for shape in _SHAPES:
        yield SampleSpec(shape, classes=_CLASSES, labelled=True)
    for shape in _SHAPES:
        yield SampleSpec(shape)
