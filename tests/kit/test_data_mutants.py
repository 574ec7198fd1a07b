"""Data whose labels, classes or scale are not what they say: each is caught by the check that is meant for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowmap.interfaces import Samples
from flowmap.maths.draw import Draw
from flowmap.plugin import SampleSpec

from .reference import broken, outcomes
from .test_other_mutants import SPEC, Blobs, source

pytestmark = pytest.mark.usefixtures("one_thread")


class Pool(Blobs):
    """Of 400 blobs every fifth is held out; every eleventh of their labels is wrong, as real ones are."""

    def __init__(self) -> None:
        found = super().batch(Draw.whole(0, "pool", 0, "samples", 400))
        assert found.labels is not None
        wrong = torch.arange(400) % 11 == 0
        labels = torch.where(wrong, (found.labels + 1) % 4, found.labels)
        kept = torch.arange(400) % 5 == 0
        self.splits = {name: (found.x[rows], labels[rows]) for name, rows in (("train", ~kept), ("held_out", kept))}

    def batch(self, draw: Draw) -> Samples:
        x, labels = self.splits["train"]
        rows = torch.tensor(draw.below("rows", [len(x)] * draw.count))
        return self.labelled(x[rows], labels[rows])

    def labelled(self, x: Tensor, labels: Tensor) -> Samples:
        return Samples(x, labels, labels)

    def reference(self, split: Any, count: int) -> Samples:
        x, labels = (part[:count] for part in self.splits[split])
        return Samples(x, labels, labels)


class AllOfOneClass(Pool):
    def labelled(self, x: Tensor, labels: Tensor) -> Samples:
        return Samples(x, 0 * labels, 0 * labels)


class LabelsReversed(Pool):
    """In references: every number is there, and none is right."""

    def reference(self, split: Any, count: int) -> Samples:
        samples = super().reference(split, count)
        assert samples.labels is not None
        return Samples(samples.x, samples.labels.flip(0), samples.labels.flip(0))


class HeldOutLabelsReversed(LabelsReversed):
    """Where no sample is in both, those that are nearest say it."""

    def reference(self, split: Any, count: int) -> Samples:
        return super().reference(split, count) if split == "held_out" else Pool.reference(self, split, count)


class NewSamplesLabelsReversed(Blobs):
    """A source that never ends, of which no sample comes twice."""

    def reference(self, split: Any, count: int) -> Samples:
        samples = super().reference(split, count)
        assert samples.labels is not None
        return Samples(samples.x, samples.labels.flip(0), samples.labels.flip(0))


class Sorted(Pool):
    """The first of its classes is all that a small reference has."""

    def __init__(self) -> None:
        super().__init__()
        orders = {name: labels.argsort(stable=True) for name, (_, labels) in self.splits.items()}
        self.splits = {name: (x[orders[name]], labels[orders[name]]) for name, (x, labels) in self.splits.items()}


class AsksForOne(Blobs):
    def prompts(self, draw: Draw) -> Any:
        return torch.zeros(draw.count, dtype=torch.int64)


class AsksForThree(Blobs):
    def prompts(self, draw: Draw) -> Any:
        return torch.tensor(draw.below("asked", [3] * draw.count))


CLASSES = 3000


class ManyClasses(Blobs):
    """So many that few are in a batch, and others in a reference."""

    def at(self, draw: Draw, name: str) -> Tensor:
        return torch.tensor(draw.below(name, [CLASSES] * draw.count))

    def batch(self, draw: Draw) -> Samples:
        labels = self.at(draw, "class")
        places = torch.stack([labels % 4, labels // 4 % 4], dim=1)[:, None] / 2 - 0.75
        return Samples(places + 0.05 * draw.normal("x", (1, 2)), labels, labels)


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (AllOfOneClass, "labels_are_of_their_samples"),
        (LabelsReversed, "labels_are_of_their_samples"),
        (HeldOutLabelsReversed, "labels_are_of_their_samples"),
        (NewSamplesLabelsReversed, "labels_are_of_their_samples"),
        (Sorted, "classes_are_of_the_data"),
        (AsksForOne, "prompts_ask_for_what_there_is"),
        (AsksForThree, "prompts_ask_for_what_there_is"),
    ],
)
def test_labels_that_are_not_the_samples(data: type[Blobs], check: str) -> None:
    assert list(broken(source(data))) == [check]


@pytest.mark.parametrize(
    ("data", "spec"), [(Pool, SPEC), (ManyClasses, SampleSpec((1, 2), classes=CLASSES, labelled=True))]
)
def test_sources_that_keep_every_law(data: type[Blobs], spec: SampleSpec) -> None:
    assert {o.check.name: o.sentence for o in outcomes(source(data, spec)) if o.status != "passed"} == {}


def rescaled(by: float, moved: float) -> type[Blobs]:
    class Rescaled(Blobs):
        def asked(self, samples: Samples, draw: Draw) -> Samples:
            return Samples(by * (samples.x.clamp(-0.5, 1.5) - 0.5) + moved, samples.labels, samples.prompts)

    return Rescaled


@pytest.mark.parametrize(("by", "moved"), [(127.5, 127.5), (0.5, 0.5), (32768.0, 0.0), (0.001, 0.0), (1.0, -1.5)])
def test_samples_on_another_scale_than_the_noise(by: float, moved: float) -> None:
    assert list(broken(source(rescaled(by, moved)))) == ["samples_are_on_the_scale_of_noise"]


@pytest.mark.parametrize(("by", "moved"), [(1.0, 0.0), (2.0, 1.0), (0.2, 0.1), (9.0, 0.0)])
def test_samples_about_the_scale_of_the_noise(by: float, moved: float) -> None:
    assert broken(source(rescaled(by, moved))) == {}
