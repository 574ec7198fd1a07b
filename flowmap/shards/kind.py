"""What the samples of an archive are."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowmap.errors import ClipError
from flowmap.shards.entries import Entry, Members


class Kind(ABC):
    """How a raw sample becomes x, and what is said of it: all that an archive of some kind of samples has of its own.

    What cannot be used raises ClipError, a sentence without a subject: "it has 3 frames, 5 are needed".
    """

    @abstractmethod
    def members(self) -> Members:
        """What belongs to a sample."""

    @abstractmethod
    def load(self, entry: Entry) -> Tensor:
        """The raw sample in data space, of the shape of the spec, or of one of its `sizes`: then what `size` says."""

    def size(self, entry: Entry) -> tuple[int, ...]:
        """Which of the `sizes` of the spec a raw sample comes to, from as little of it as says that."""
        raise NotImplementedError("samples of this kind are of one size")

    def captions(self, entry: Entry) -> list[str]:
        """The captions of a raw sample; at least one."""
        raise ClipError("samples of this kind have no captions")

    def label(self, entry: Entry) -> int:
        """The class of a raw sample."""
        raise ClipError("samples of this kind have no class")

    @abstractmethod
    def about(self, entry: Entry) -> bytes:
        """What is said of a raw sample, as the JSON that its encoded one keeps."""

    @abstractmethod
    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """Draw samples `[B, F, ...]` in data space as one picture `[H, W, 3]`."""
