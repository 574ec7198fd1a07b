"""Floors that no perfect model would score, or that no other run would find again, are caught by their check."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from flowmap.interfaces import Evidence, Metric, References, Samples
from flowmap.plugin import Finding, MetricConfig, SampleSpec
from flowmap.testing.capabilities import Capabilities

from .reference import broken

pytestmark = pytest.mark.usefixtures("one_thread")


class Means(Metric):
    """Distance between means; `flowmap new metric` writes one like it."""

    def __init__(self, references: References) -> None:
        self.mean, self.others = references.held_out.x.flatten(1).mean(0), references.train

    def score(self, evidence: Evidence) -> float:
        return self.of(evidence.samples)

    def floor(self, size: int) -> float:
        return self.of(self.others.x[self.rows(size)])

    def rows(self, size: int) -> Tensor:
        return torch.randperm(len(self.others.x), generator=torch.Generator().manual_seed(0))[:size]

    def of(self, x: Tensor) -> float:
        return float((x.flatten(1).mean(0) - self.mean).norm())


class OfItself(Means):
    """What is held out is compared with what is held out."""

    def __init__(self, references: References) -> None:
        super().__init__(references)
        self.others = references.held_out


class Unseeded(Means):
    def rows(self, size: int) -> Tensor:
        return torch.randperm(len(self.others.x))[:size]


class UnseededOfItsOwn(Means):
    """A generator that is not the global one, and goes on from run to run; with a seed, for the sake of this test."""

    ours: ClassVar[np.random.Generator] = np.random.default_rng(0)

    def rows(self, size: int) -> Tensor:
        return torch.from_numpy(self.ours.permutation(len(self.others.x))[:size])


class AnotherAtEveryCall(Means):
    """Which is right: it is asked once, and every run has the same first one."""

    def __init__(self, references: References) -> None:
        super().__init__(references)
        self.generator = np.random.default_rng(0)

    def rows(self, size: int) -> Tensor:
        return torch.from_numpy(self.generator.permutation(len(self.others.x))[:size])


class Shown(Metric):
    """The share of samples that are nearest to a training sample of the class that was asked for."""

    def __init__(self, references: References) -> None:
        self.train, self.held_out = references.train, references.held_out

    def score(self, evidence: Evidence) -> float:
        return self.of(Samples(evidence.samples, evidence.prompts))

    def floor(self, size: int) -> float:
        return self.of(self.held_out)

    def of(self, samples: Samples) -> float:
        nearest = torch.cdist(samples.x.flatten(1), self.train.x.flatten(1)).argmin(1)
        assert self.train.labels is not None
        assert samples.labels is not None
        return float((self.train.labels[nearest] == samples.labels).double().mean())


class ShownByWhatItKnows(Shown):
    def floor(self, size: int) -> float:
        return self.of(self.train)


def config(metric: type[Any], way: Literal["lower", "higher"]) -> MetricConfig:
    class ReferenceConfig(MetricConfig):
        """The reference."""

        type: Literal["reference"] = "reference"
        better: ClassVar[Literal["lower", "higher"]] = way

        def findings(self, spec: SampleSpec) -> Iterable[Finding]:
            return []

        def build(self, references: References) -> Metric:
            return metric(references)  # type: ignore[no-any-return]

    return ReferenceConfig()


@pytest.mark.parametrize(
    ("metric", "way", "check"),
    [
        (OfItself, "lower", "floors_are_what_is_perfect"),
        (ShownByWhatItKnows, "higher", "floors_are_what_is_perfect"),
        (Unseeded, "lower", "draws_from_its_draw"),
        (UnseededOfItsOwn, "lower", "floors_repeat"),
    ],
)
def test_a_floor_that_is_none(metric: type[Metric], way: Literal["lower", "higher"], check: str) -> None:
    assert list(broken(config(metric, way), Capabilities(own_floor=True))) == [check]


@pytest.mark.parametrize(("metric", "way"), [(Means, "lower"), (AnotherAtEveryCall, "lower"), (Shown, "higher")])
def test_floors_that_are_right(metric: type[Metric], way: Literal["lower", "higher"]) -> None:
    assert broken(config(metric, way), Capabilities(own_floor=True)) == {}
