"""The laws of metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, final

from torch import Tensor

from flowmap.interfaces import Batch, Evidence, Metric, NoCond, References, Samples
from flowmap.plugin.kinds import MetricConfig
from flowmap.testing.alike import some_prompts, some_rows
from flowmap.testing.check import Laws
from flowmap.testing.closed_form import Field, network, points
from flowmap.testing.contract import build_quietly, own_randomness_only, require, whole
from flowmap.testing.referenced import ReferencedSubject, asked_of, spec_of

LAWS = Laws("metric")


@final
@dataclass(frozen=True)
class Scored:
    """A score, what else there was to see while it was made."""

    value: float
    again: float
    changed: bool
    calls: int


class MetricSubject(ReferencedSubject):
    """The metric that `config` builds with `references`: images `[128, 1, 1, 8, 8]` of two classes if not given.

    Samples like the reference are taken to be `references.teacher`, of which half are scored; if the references have
    prompts or labels, held-out ones of as many, which were asked for by these.
    """

    kind: ClassVar[str] = "metric"
    config: MetricConfig

    def found(self, name: str) -> bool:
        """See Subject.found."""
        return name == "own_floor" and self.config.network is None

    @cached_property
    def metric(self) -> Metric:
        """What the configuration builds."""
        self.require_taken(self.config.findings(spec_of(self.references.train)))
        return build_quietly(self.config, self.built)

    def built(self) -> Metric:
        """Another one."""
        return self.config.build(self._built_with)

    @cached_property
    def _built_with(self) -> References:
        """What it is built with: half of the held-out samples. What it never saw shows what perfect samples score."""
        return replace(self.references, held_out=some_rows(self.references.held_out, range(self._half)))

    @cached_property
    def unseen(self) -> Samples:
        """The other half."""
        return some_rows(self.references.held_out, range(self._half, len(self.references.held_out.x)))

    @property
    def _half(self) -> int:
        return len(self.references.held_out.x) // 2

    @property
    def count(self) -> int:
        """How many samples are scored."""
        return len(self.references.teacher) // 2

    @cached_property
    def good(self) -> Scored:
        """Samples like the reference, by the exact network."""
        real, count = self.unseen, self.count
        # Those of which it is known what they show, where a sample may be asked for.
        like = self.references.teacher if asked_of(real) is None else real.x
        return self._scored(like[:count], Field())

    @cached_property
    def bad(self) -> Scored:
        """Noise, by a wrong network."""
        shape = tuple(self.references.train.x.shape[1:])
        return self._scored(whole(self.count).normal("noise", shape), Field((0.5, 0.5, 1.0)))

    def _scored(self, samples: Tensor, field: Field) -> Scored:
        evidence = self._evidence(samples.clone(), field, some_prompts(asked_of(self.unseen), range(len(samples))))
        before = evidence.samples.clone()
        value = self.metric.score(evidence)
        changed = not evidence.samples.equal(before)
        # What it has spoilt is another check's.
        evidence.samples.copy_(before)
        return Scored(value, self.metric.score(evidence), changed, field.calls // 2)

    def _evidence(self, samples: Tensor, field: Field, prompts: Any) -> Evidence:
        draw = whole(len(samples))
        if self.config.network is None:
            return Evidence(samples, network("flow_map", field), None, draw, prompts)
        batch = Batch(points(draw, tuple(samples.shape[1:])), NoCond(), NoCond())
        return Evidence(samples[:0], network(self.config.network, field), batch, draw)

    def perfect(self, size: int) -> float:
        """What real samples score that it never saw, on average over as many parts of so many as there are."""
        real = self.unseen
        scores = []
        for begin in range(0, len(real.x) - size + 1, size):
            part = some_rows(real, range(begin, begin + size))
            evidence = self._evidence(part.x, Field(), asked_of(part))
            scores.append(self.metric.score(evidence))
        return sum(scores) / len(scores)


@LAWS.proven(
    "It takes the samples that it is examined with, and random numbers come from its draw alone.",
    "MetricConfig.findings, MetricConfig.build, Evidence.draw",
)
def draws_from_its_draw(subject: MetricSubject) -> None:
    """No global generator."""
    assert subject.metric
    with own_randomness_only(subject.who):
        assert subject.good
        assert subject.bad
        subject.metric.floor(subject.count)


@LAWS.proven("A score is a finite float.", "Metric.score", after=("draws_from_its_draw",))
def scores_are_finite(subject: MetricSubject) -> None:
    """Of good samples and of bad ones."""
    for score in (subject.good.value, subject.bad.value):
        good = isinstance(score, float) and math.isfinite(score)
        require(good, f"{subject.who} must give a finite float, not {score!r}")


@LAWS.proven("Samples are left as they are.", "Metric.score", after=("draws_from_its_draw",))
def leaves_samples_alone(subject: MetricSubject) -> None:
    """Not in place."""
    require(not (subject.good.changed or subject.bad.changed), f"{subject.who} must not change the samples")


@LAWS.proven("The same evidence has the same score.", "Metric.score", after=("scores_are_finite",))
def repeats_itself(subject: MetricSubject) -> None:
    """To the last digit."""
    for scored in (subject.good, subject.bad):
        require(
            scored.value == scored.again,
            f"{subject.who} must give the same score for the same evidence, not {scored.value!r} and {scored.again!r}",
        )


@LAWS.proven(
    "The reference scores better than noise, in the way that the configuration says is better.",
    "MetricConfig.better",
    after=("repeats_itself",),
)
def better_is_better(subject: MetricSubject) -> None:
    """Lower or higher."""
    better, score, noise = subject.config.better, subject.good.value, subject.bad.value
    sign, way = (1, "below") if better == "lower" else (-1, "above")
    require(
        sign * score < sign * noise,
        f"{better} is better: {subject.who} must score the reference ({score:g}) {way} noise ({noise:g})",
    )
    least = min(score, noise)
    require(
        better == "lower" or least >= 0,
        f"scores of {subject.who} are better when higher, so they are 0 or above; {least:g} is not",
    )


@LAWS.proven(
    "It makes as many network calls per sample as the configuration says.",
    "MetricConfig.calls",
    after=("draws_from_its_draw",),
)
def makes_its_calls(subject: MetricSubject) -> None:
    """Counted by the network."""
    expected = subject.config.calls if subject.config.network is not None else 0
    made = subject.good.calls
    require(made == expected, f"{subject.who} says {expected} network calls per sample; it made {made}")
