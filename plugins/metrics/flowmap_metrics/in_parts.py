"""A metric that is a number of a set of vectors, which depends on how many there are."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from flowmap.interfaces import Evidence, Features, Metric
from flowmap_metrics.parts import FLOOR_PARTS, Vectors, in_parts


class InParts(Metric):
    """The number of parts of samples in `features`; `perfect` are what ideal samples would be.

    Samples are scored in parts of at most as many as are `perfect`, and the floor is of parts of that same size.
    """

    def __init__(self, features: Features, perfect: Tensor) -> None:
        self._features = features
        self._perfect = self.vectors(perfect)

    def score(self, evidence: Evidence) -> float:
        """The mean number of parts of the samples, as large as there are ideal samples."""
        return in_parts(self.number, self.vectors(evidence.samples), len(self._perfect))

    def floor(self, size: int) -> float:
        """The mean number of some parts of the ideal samples, of `size` (of all there are, if they are fewer)."""
        return in_parts(self.number, self._perfect, size, FLOOR_PARTS)

    def vectors(self, samples: Tensor) -> Vectors:
        """The features of `samples`."""
        return self._features.of(samples).double().cpu().numpy()

    @abstractmethod
    def number(self, vectors: Vectors) -> float:
        """What a set of vectors `[N, D]` scores."""
