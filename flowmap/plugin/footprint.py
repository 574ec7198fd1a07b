"""What a network takes: parameters, arithmetic and memory, of one role and of one call. Torch-free.

`flowmap plan` multiplies these by what flowmap.planning.count counts. A backbone that cannot say has no footprint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final

from flowmap.schema.words import NetworkKind

View = Literal["whole", "forced", "following", "reading"]
"""How the frames of a call stand among those of a video: see CallShape."""


@final
@dataclass(frozen=True)
class CallShape:
    """How one network call looks; all counts are frames in model space.

    `whole`: `frames` see each other, after `start` clean ones. `forced`: the window from `start` on, given the clean
    frames before it (teacher forcing). `following`: the next chunk, of `frames`, after a memory of `start` finished
    frames. `reading`: `frames` are taken into a memory of the `start` before them.
    """

    view: View
    frames: int
    start: int = 0


@final
@dataclass(frozen=True)
class Weights:
    """Parameters: how many, and their bytes in all, in the largest part that is gathered at once, and in no part."""

    count: int
    bytes: int
    unit: int
    root: int


class Footprint(ABC):
    """What the networks of a backbone take, in the recipe's precision."""

    @abstractmethod
    def base(self) -> Weights:
        """The frozen parameters that all roles share; all 0 where every role is a model of its own."""

    @abstractmethod
    def own(self, kind: NetworkKind) -> Weights:
        """The parameters of one role alone: those it trains, if it is trained."""

    @abstractmethod
    def flops(self, kind: NetworkKind, shape: CallShape, gradient: bool) -> int:
        """Floating-point operations of a call of `shape` for one sample, a multiply-add counted as 2.

        With `gradient` those of the backward of a trained role come on top: twice the forward for weights that are
        trained and for attention, once for frozen ones that a gradient passes, and the forward of what is recomputed.
        """

    @abstractmethod
    def held(self, kind: NetworkKind, shape: CallShape, samples: int) -> int:
        """Bytes that a call of `samples` with gradient keeps until its backward, besides its input."""

    @abstractmethod
    def workspace(self, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> int:
        """Bytes on top of what is held, at most, while a call runs and while its backward does (if `gradient`)."""

    @abstractmethod
    def memory(self, frames: int) -> int:
        """Bytes of what is remembered of the first `frames` frames of one sample while later ones are made."""

    @abstractmethod
    def prompt(self) -> int:
        """Bytes of what is remembered of one sample's condition from its first call to its last."""
