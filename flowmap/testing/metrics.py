"""The contract of metrics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowmap.interfaces import Batch, Evidence, Metric, NoCond, References, Samples
from flowmap.maths.draw import Draw
from flowmap.plugin.kinds import MetricConfig
from flowmap.schema.specs import SampleSpec
from flowmap.testing.closed_form import Field, network, points
from flowmap.testing.contract import build_quietly, check_config, own_randomness_only, require, require_no_errors, whole

_SHAPE = (1, 1, 8, 8)
_COUNT = 128


def check_metric(config: MetricConfig, references: References | None = None) -> None:
    """Check the metric that `config` builds; raises AssertionError with what is broken.

    Scores are finite, the same for the same evidence, and better for samples of the reference distribution
    (or the exact network) than for noise (or a wrong network): lower, or higher and never below 0, as `better` says.
    The floor is finite and not worse than noise. It calls the network as often as `calls` says, and changes no sample.

    `references` are what to build it with: images `[128, 1, 1, 8, 8]` of two labelled classes if not given.
    Samples like the reference are then taken to be `references.teacher`, of which half are scored; if the references
    have labels, held-out ones of as many, which were asked for by their labels.
    """
    check_config(config)
    references = references or two_classes()
    shape = tuple(references.train.x.shape[1:])
    spec, real = spec_of(references.train), references.held_out
    require_no_errors(config.findings(spec), f"'{config.type}'")
    metric = build_quietly(config, lambda: config.build(references))
    good_field, bad_field = Field(), Field((0.5, 0.5, 1.0))
    count = len(references.teacher) // 2
    # Those whose classes are known, where a sample may be asked for by one.
    like = references.teacher if real.labels is None else real.x
    asked = None if real.labels is None else real.labels[:count]
    good = _evidence(config, like[:count], good_field, asked)
    bad = _evidence(config, whole(count).normal("noise", shape), bad_field, asked)
    score, noise = (_score(config, metric, evidence) for evidence in (good, bad))
    sign, way = (1, "below") if config.better == "lower" else (-1, "above")
    require(
        sign * score < sign * noise,
        f"{config.better} is better: '{config.type}' must score the reference ({score:g}) {way} noise ({noise:g})",
    )
    least = min(score, noise)
    require(
        config.better == "lower" or least >= 0,
        f"scores of '{config.type}' are better when higher, so they are 0 or above; {least:g} is not",
    )
    _check_calls(config, good_field)
    floor = metric.floor(count)
    require(
        math.isfinite(floor) and sign * floor <= sign * noise,
        f"the floor of '{config.type}' is what a perfect model would score; {floor:g} is not (noise: {noise:g})",
    )


def two_classes() -> References:
    """Images `[128, 1, 1, 8, 8]` of two labelled classes, bright to one side or to the other."""

    def images(draw: Draw) -> Samples:
        side = 2 * (draw.uniform("side") < 0.5).float() - 1
        bright = torch.linspace(-1, 1, 8).expand(_SHAPE) * side.reshape(-1, 1, 1, 1, 1)
        # Some labels are wrong: a classifier that could be perfect would be trained into denormal numbers.
        labels = ((side > 0) ^ (draw.uniform("mistake") < 0.15)).long()
        return Samples(bright + 0.25 * draw.normal("pixels", _SHAPE), labels)

    train, held_out, teacher, again = (images(whole(_COUNT, step)) for step in range(4))
    return References(train, held_out, teacher.x, again.x)


def spec_of(samples: Samples) -> SampleSpec:
    """What samples are that are asked for by their labels, if they have any."""
    classes = 0 if samples.labels is None else int(samples.labels.max()) + 1
    return SampleSpec(tuple(samples.x.shape[1:]), classes, labelled=samples.labels is not None)


def _evidence(config: MetricConfig, samples: Tensor, field: Field, prompts: Tensor | None) -> Evidence:
    draw = whole(len(samples))
    if config.network is None:
        return Evidence(samples, network("flow_map", field), None, draw, prompts)
    batch = Batch(points(draw, tuple(samples.shape[1:])), NoCond(), NoCond())
    return Evidence(samples[:0], network(config.network, field), batch, draw)


def _score(config: MetricConfig, metric: Metric, evidence: Evidence) -> float:
    before = evidence.samples.clone()
    with own_randomness_only(f"'{config.type}'"):
        score = metric.score(evidence)
    require(
        isinstance(score, float) and math.isfinite(score), f"'{config.type}' must give a finite float, not {score!r}"
    )
    require(torch.equal(evidence.samples, before), f"'{config.type}' must not change the samples")
    require(metric.score(evidence) == score, f"'{config.type}' must give the same score for the same evidence")
    return score


def _check_calls(config: MetricConfig, field: Field) -> None:
    expected = config.calls if config.network is not None else 0
    made = field.calls // 2  # the evidence was scored twice
    require(made == expected, f"'{config.type}' says {expected} network calls per sample; it made {made}")
