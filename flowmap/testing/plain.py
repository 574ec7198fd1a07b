"""The kit as plain functions, one for each kind of component."""

from __future__ import annotations

from flowmap.interfaces import References, Samples
from flowmap.plugin.kinds import (
    BackboneConfig,
    DataConfig,
    FeaturesConfig,
    MetricConfig,
    ObjectiveConfig,
    SamplerConfig,
)
from flowmap.schema.specs import SampleSpec
from flowmap.testing.kit import check


def check_backbone(config: BackboneConfig, spec: SampleSpec, samples: Samples | None = None) -> None:
    """Check the backbone that `config` builds for samples of `spec`; raises AssertionError with what is broken.

    `samples` `[4, *spec.shape]` are what it encodes: noise if not given, with labels for prompts if `spec` has
    classes, or texts if it has text.
    """
    check(config, spec=spec, samples=samples)


def check_data(config: DataConfig) -> None:
    """Check the data source that `config` builds; raises AssertionError with what is broken."""
    check(config)


def check_objective(config: ObjectiveConfig) -> None:
    """Check the objective that `config` builds; raises AssertionError with what is broken."""
    check(config)


def check_sampler(config: SamplerConfig) -> None:
    """Check the sampler that `config` builds; raises AssertionError with what is broken."""
    check(config)


def check_metric(config: MetricConfig, references: References | None = None) -> None:
    """Check the metric that `config` builds; raises AssertionError with what is broken.

    `references` are what to build it with: images `[128, 1, 1, 8, 8]` of two labelled classes if not given.
    Samples like the reference are then taken to be `references.teacher`, of which half are scored; if the references
    have labels, held-out ones of as many, which were asked for by their labels.
    """
    check(config, references=references)


def check_features(config: FeaturesConfig, references: References | None = None) -> None:
    """Check the features that `config` builds; raises AssertionError with what is broken.

    `references` are what to build them with: images `[128, 1, 1, 8, 8]` of two labelled classes if not given.
    """
    check(config, references=references)
