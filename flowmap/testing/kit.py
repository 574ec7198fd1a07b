"""The kit: which checks a component has to pass, and the ways to run them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowmap.interfaces import References, Samples
from flowmap.plugin.kinds import (
    BackboneConfig,
    ComponentConfig,
    DataConfig,
    FeaturesConfig,
    MetricConfig,
    ObjectiveConfig,
    SamplerConfig,
)
from flowmap.schema.specs import SampleSpec
from flowmap.testing import backbones, configurations, data, features, floors, metrics, objectives, samplers
from flowmap.testing.backbones.subject import BackboneSubject
from flowmap.testing.capabilities import Capabilities
from flowmap.testing.check import Check, gathered
from flowmap.testing.data.subject import DataSubject
from flowmap.testing.examination import Case, Examination, Subject
from flowmap.testing.features import FeaturesSubject
from flowmap.testing.metrics import MetricSubject
from flowmap.testing.objectives.subject import ObjectiveSubject
from flowmap.testing.samplers.subject import SamplerSubject

CHECKS: Mapping[str, tuple[Check, ...]] = {
    "backbone": backbones.CHECKS,
    "data": data.CHECKS,
    "objective": objectives.CHECKS,
    "sampler": samplers.CHECKS,
    "metric": gathered(metrics.LAWS, floors.LAWS),
    "features": tuple(features.LAWS),
}
"""The checks of each kind, besides those of all configurations."""


def checks_of(kind: str) -> tuple[Check, ...]:
    """All checks of `kind`, in order."""
    return (*configurations.LAWS, *CHECKS[kind])


def examination(
    config: ComponentConfig,
    spec: SampleSpec | None = None,
    samples: Samples | None = None,
    references: References | None = None,
    capabilities: Capabilities = Capabilities(),  # noqa: B008  # it cannot be changed
    expected: Mapping[str, str] | None = None,
) -> Examination:
    """All checks of the component that `config` builds.

    A backbone is examined on samples of `spec`, on `samples` `[4, *spec.shape]` if they are given; a metric and
    features are built with `references`, if they are given. `expected` are checks that are known to fail, with the
    reason of each. Raises ValueError for a name there that no check has, and TypeError for a backbone without `spec`.
    """
    subject = _subject(config, spec, samples, references, capabilities)
    return Examination(subject, checks_of(subject.kind), expected or {})


def cases(config: ComponentConfig, **given: Any) -> list[Case]:
    """The checks of a component by name, to be called one by one; what is `given` is as for `examination`."""
    return examination(config, **given).cases()


def check(config: ComponentConfig, **given: Any) -> None:
    """Run all checks; raises AssertionError with the sentences of those that failed, each on a line of its own."""
    failed = [o for o in examination(config, **given).outcomes() if o.status == "failed"]
    if failed:
        raise AssertionError("\n".join(outcome.sentence for outcome in failed))


def _subject(
    config: ComponentConfig,
    spec: SampleSpec | None,
    samples: Samples | None,
    references: References | None,
    capabilities: Capabilities,
) -> Subject:
    if isinstance(config, BackboneConfig):
        if spec is None:
            raise TypeError(f"the backbone '{config.type}' is examined on samples: give their `spec`")
        return BackboneSubject(config, spec, samples, capabilities)
    if isinstance(config, MetricConfig):
        return MetricSubject(config, references, capabilities)
    if isinstance(config, FeaturesConfig):
        return FeaturesSubject(config, references, capabilities)
    if isinstance(config, DataConfig):
        return DataSubject(config, capabilities)
    if isinstance(config, ObjectiveConfig):
        return ObjectiveSubject(config, capabilities)
    assert isinstance(config, SamplerConfig)
    return SamplerSubject(config, capabilities)
