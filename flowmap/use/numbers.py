"""A metric's numbers, or the refusal of what is none before anything of it is written."""

from __future__ import annotations

from dataclasses import replace
from typing import SupportsFloat

from flowmap.interfaces import Evidence, Metric
from flowmap.plugin.answers import unfit
from flowmap.plugin.catalogue import whose
from flowmap.plugin.kinds import MetricConfig


def floor_of(config: MetricConfig, metric: Metric, size: int) -> float:
    """The floor of the `metric` that `config` made, for `size` samples; raises FlowmapError if that is no number."""
    return _number(config, "floor", metric.floor(size))


def score_of(config: MetricConfig, metric: Metric, evidence: Evidence) -> float:
    """The score of `evidence` by the `metric` that `config` made; raises FlowmapError if that is no number."""
    # Whatever one metric does to its samples, the next one sees them as they were made.
    own = replace(evidence, samples=evidence.samples.clone())
    return _number(config, "score", metric.score(own))


def _number(config: MetricConfig, method: str, got: object) -> float:
    try:
        if isinstance(got, SupportsFloat):
            return float(got)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers, or of a complex one
        pass
    raise unfit(whose(type(config)), f"{method}() returned", got, "a number (float)")
