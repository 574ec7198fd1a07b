"""Who looks on while samples are made: told of every network call and of every chunk, and able to end the work."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Watcher(ABC):
    """Looks on, in the thread that samples; what either method raises ends the work. Changes no sample."""

    @abstractmethod
    def calling(self) -> None:
        """The network is about to be called."""

    @abstractmethod
    def finished(self, x: Tensor) -> None:
        """The frames `x` `[B, f, ...]` in model space are finished, those that were given among them; more follow.

        A model of all frames at once has none such, and no sample is told of when it is whole.
        """
