"""How a model splits frames into chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces.networks import Cond, Velocity
from flowmap.interfaces.samples import Batch
from flowmap.maths.draw import Draw


@final
@dataclass(frozen=True)
class Window:
    """What one training step looks at: of the frames before `stop`, those from `start` on are noised.

    The frames before `start` are clean context.
    """

    start: int
    stop: int


class Chunking(ABC):
    """How a model splits frames into chunks that are generated one after the other.

    All counts are frames in model space.
    """

    @abstractmethod
    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        """Frames per chunk to generate, in order, when the first `given` of `frames` are given clean.

        They sum to `frames - given`. Raises FlowmapError if so many cannot be given.
        """

    @abstractmethod
    def window(self, frames: int, draw: Draw) -> Window:
        """What this step of training looks at, in videos of `frames`; the same in all processes."""

    @abstractmethod
    def forced(self, batch: Batch, window: Window) -> Batch:
        """The teacher-forced view of `batch`: `x0` is what gets noised, the conditions carry the clean context."""

    @abstractmethod
    def whole(self, batch: Batch) -> Batch:
        """The view of `batch` as one chunk, in which every frame sees every other."""

    def unchunked(self) -> Chunking:
        """The same model as one of a single chunk, which generates all frames together (the view of `whole`).

        Raises FlowmapError unless a subclass says how.
        """
        raise FlowmapError("this backbone generates chunk by chunk only; train its stages with view = 'forced'")

    @abstractmethod
    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        """The condition of what follows the clean `frames` `[B, f, ...]`, the first of a video.

        Raises FlowmapError if the model cannot be given so many. Called without gradient.
        """

    @abstractmethod
    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        """The condition of the next chunk, once `chunk` `[B, f, ...]` is finished. Called without gradient."""


class LaidOutAs(Chunking, ABC):
    """A chunking of the same sizes and windows as `inner`, which shows frames and remembers in another way."""

    def __init__(self, inner: Chunking) -> None:
        self._inner = inner

    @final
    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        """Those of `inner`."""
        return self._inner.sizes(frames, given)

    @final
    def window(self, frames: int, draw: Draw) -> Window:
        """That of `inner`."""
        return self._inner.window(frames, draw)


@final
class OneChunk(Chunking):
    """A model of all frames at once that takes no context: nothing is given, and nothing remembered."""

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        """All frames at once."""
        if given:
            raise FlowmapError("this backbone generates whole samples; no frames can be given to it")
        return (frames,)

    def window(self, frames: int, draw: Draw) -> Window:
        """All frames, noised."""
        return Window(0, frames)

    def forced(self, batch: Batch, window: Window) -> Batch:
        """The batch itself: there is no context."""
        return batch

    def whole(self, batch: Batch) -> Batch:
        """The batch itself."""
        return batch

    def unchunked(self) -> Chunking:
        """The same."""
        return self

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        """Raises FlowmapError: no frames can be given."""
        self.sizes(frames.shape[1], frames.shape[1])
        return cond

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        """The condition itself: nothing follows."""
        return cond
