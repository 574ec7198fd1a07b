"""What a metric looks at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from flowmap.files.shelf import Shelf
from flowmap.interfaces.networks import Velocity
from flowmap.interfaces.samples import Batch, Samples
from flowmap.maths.draw import Draw

T = TypeVar("T")


@final
@dataclass(frozen=True)
class References:
    """What samples are compared with, in data space.

    `train` and `held_out` are real; `teacher` are the teacher's many-step samples, and `teacher_again` more of
    them from other noise, to know how much of a distance to them is chance. What a metric makes of them at a cost (a
    network that it trains) it may keep on the `shelf`, where the other metrics and contestants find it. What takes
    long is computed on `device`.
    """

    train: Samples
    held_out: Samples
    teacher: Tensor
    teacher_again: Tensor
    shelf: Shelf = field(default_factory=Shelf)
    device: torch.device = torch.device("cpu")  # noqa: RUF009  # it cannot be changed
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes, made once for all metrics that ask by the same `key`: features, say."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found


@final
@dataclass(frozen=True)
class Evidence:
    """What a metric looks at: `samples` `[N, F, ...]` in data space, and the network that made them.

    `batch` are real encoded samples for metrics that probe the network on the path of real data (there are then no
    `samples`: N is 0); None for those that look at samples only. `prompts` are what the samples were asked to show, in
    the form in which their data give it (`Samples.prompts`: class labels `[N]`, a list of texts); None where there is
    no condition.
    """

    samples: Tensor
    network: Velocity
    batch: Batch | None
    draw: Draw
    prompts: Any = None


class Features(ABC):
    """What of samples is compared where their own numbers say too little: a network's view of each."""

    @abstractmethod
    def of(self, samples: Tensor) -> Tensor:
        """Vectors `[N, D]` of `samples` `[N, F, ...]` in data space, on any device: each of its sample alone."""


class Metric(ABC):
    """One number about a set of samples or a network; lower is better, unless its configuration says otherwise.

    A perfect model's score must be the floor on average, at any number of samples. Many distances between sets shrink
    as the sets grow: such a metric takes score and floor of equally many samples, and the floor of real samples that
    nothing in the metric was trained on.
    """

    @abstractmethod
    def score(self, evidence: Evidence) -> float:
        """The number for all samples of `evidence`."""

    @abstractmethod
    def floor(self, size: int) -> float:
        """What a perfect model scores on average with `size` samples: nothing better than that means anything.

        It is itself measured, on the perfect samples there are, and has chance in it, the same in every run: what is
        drawn for it has a seed of its own. Asked once per evaluation.
        """
