"""A data source under examination."""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from flowmap.interfaces import Data, Samples
from flowmap.plugin.kinds import DataConfig
from flowmap.schema.specs import SampleSpec
from flowmap.testing.contract import build_quietly, whole
from flowmap.testing.examination import Subject

Split = Literal["train", "held_out"]

COUNT = 11
_LARGE = 20_000  # numbers of a sample, of which fewer are read from then on
REFERENCES = (3, 64)


class DataSubject(Subject):
    """The data source that `config` builds."""

    kind: ClassVar[str] = "data"
    config: DataConfig

    def found(self, name: str) -> bool:
        """See Subject.found."""
        return {"classes": self.spec.classes > 0, "labels": self.spec.labelled}.get(name, False)

    @cached_property
    def spec(self) -> SampleSpec:
        """What it says of a sample."""
        return self.config.spec()

    @cached_property
    def data(self) -> Data:
        """What the configuration builds."""
        return build_quietly(self.config, self.config.build)

    @cached_property
    def batch(self) -> Samples:
        """A batch of the first step."""
        return self.data.batch(whole(COUNT))

    @property
    def number(self) -> int:
        """How many samples are many."""
        return 24 if math.prod(self.spec.shape) > _LARGE else 128

    @cached_property
    def many(self) -> Samples:
        """More samples of another step."""
        return self.data.batch(whole(self.number, step=7))

    def all(self) -> list[tuple[str, Samples, int]]:
        """A batch and references of both splits, with what a sentence calls them, and how many there should be."""
        found = [(f"a batch of {self.who}", self.batch, COUNT)]
        for split in get_args(Split):
            samples = self.data.reference(split, REFERENCES[1])
            found.append((f"the {split} reference of {self.who}", samples, len(samples.x)))
        return found


def pictured(subject: DataSubject, samples: Samples) -> Tensor:
    """Samples in data space, which encoded ones are not in."""
    return torch.zeros(COUNT, *subject.spec.shape) if samples.encoded else samples.x
