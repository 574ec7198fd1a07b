"""What a plugin registers: configuration classes, one base per kind of component, and what they are made of.

Torch-free. A plugin imports these names from here. Rooms of the core from `recipe` on import the modules.
"""

from flowmap.plugin.fields import AnyBackbone, AnyData, AnyFeatures, AnyMetric, AnyObjective, AnySampler, FromCatalogue
from flowmap.plugin.hookspecs import hookimpl
from flowmap.plugin.kinds import (
    ArchiveConfig,
    BackboneConfig,
    ComponentConfig,
    DataConfig,
    FeaturesConfig,
    MetricConfig,
    ObjectiveConfig,
    SamplerConfig,
)
from flowmap.plugin.version import INTERFACE
from flowmap.schema.config import Config, Finding, frozen, guidance_findings, idle, idle_drop_findings
from flowmap.schema.specs import Origin, OwnTimes, Pretrained, RoleSpec, SampleSpec, StageFacts
from flowmap.schema.words import (
    NAME,
    Better,
    Fit,
    FrameChoice,
    FrameView,
    NetworkKind,
    Precision,
    Recomputation,
    Weights,
    context_refusal,
    listed,
    plain,
    unknown_word,
)

__all__ = [
    "INTERFACE",
    "NAME",
    "AnyBackbone",
    "AnyData",
    "AnyFeatures",
    "AnyMetric",
    "AnyObjective",
    "AnySampler",
    "ArchiveConfig",
    "BackboneConfig",
    "Better",
    "ComponentConfig",
    "Config",
    "DataConfig",
    "FeaturesConfig",
    "Finding",
    "Fit",
    "FrameChoice",
    "FrameView",
    "FromCatalogue",
    "MetricConfig",
    "NetworkKind",
    "ObjectiveConfig",
    "Origin",
    "OwnTimes",
    "Precision",
    "Pretrained",
    "Recomputation",
    "RoleSpec",
    "SampleSpec",
    "SamplerConfig",
    "StageFacts",
    "Weights",
    "context_refusal",
    "frozen",
    "guidance_findings",
    "hookimpl",
    "idle",
    "idle_drop_findings",
    "listed",
    "plain",
    "unknown_word",
]
