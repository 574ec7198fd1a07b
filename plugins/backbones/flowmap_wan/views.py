"""What a Wan network is conditioned on: text, and how the frames it is given stand among the frames of a video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar, final

import torch
from torch import Tensor

from flowmap.workshop.memo import Text
from flowmap_wan.pieces import Passes, clean, noised
from flowmap_wan.sight import Reach

R = TypeVar("R", bound="RowView")


class View(ABC):
    """One way of calling the network on frames `x` at times `t`, `r` (`[B]` or `[B, F]`)."""

    @abstractmethod
    def run(self, passes: Passes, text: Text, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """The velocity of `x` `[B, F, C, H, W]`."""


class RowView(View):
    """A view with a row for every sample, of which some can be taken, and others joined."""

    @abstractmethod
    def take(self: R, index: Tensor) -> R:
        """The rows `index`."""

    @abstractmethod
    def join(self: R, other: R) -> R:
        """The rows of this one, then those of `other`."""


@final
@dataclass(frozen=True)
class Whole(RowView):
    """All frames see each other; the clean frames `context` `[B, k, C, H, W]`, if any, come first."""

    context: Tensor | None = None

    def run(self, passes: Passes, text: Text, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """See View.run."""
        if self.context is None:
            return passes.over([noised(x, t, r, 0, (0,) * x.shape[1])], text)
        given = self.context.shape[1]
        pieces = [clean(self.context, 0, (0,) * given), noised(x, t, r, given, (0,) * x.shape[1])]
        return passes.over(pieces, text)

    def take(self, index: Tensor) -> Whole:
        """See RowView.take."""
        return Whole(None if self.context is None else self.context[index])

    def join(self, other: Whole) -> Whole:
        """See RowView.join."""
        if self.context is None or other.context is None:
            if self.context is not other.context:
                raise ValueError("cannot join a condition with given frames and one without")
            return self
        return Whole(torch.cat([self.context, other.context]))


@final
@dataclass(frozen=True)
class Forced(RowView):
    """Teacher forcing (FAR): every noised chunk sees the clean chunks before it; old ones only compressed.

    `context` `[B, Fc, C, H, W]` are the frames before x, to be compressed; `clean` `[B, F, C, H, W]` are x's own
    frames at t = 0. `chunks` is the chunk of every frame of both, `reach` how far back one sees.
    """

    context: Tensor
    clean: Tensor
    chunks: tuple[int, ...]
    reach: Reach | None = None

    def run(self, passes: Passes, text: Text, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """See View.run."""
        given = self.context.shape[1]
        own = self.chunks[given:]
        pieces = [noised(x, t, r, given, own, self.reach), clean(self.clean, given, own, reach=self.reach)]
        if given:
            pieces.insert(0, clean(self.context, 0, self.chunks[:given], coarse=True))
        return passes.over(pieces, text, causal=True)

    def take(self, index: Tensor) -> Forced:
        """See RowView.take."""
        return replace(self, context=self.context[index], clean=self.clean[index])

    def join(self, other: Forced) -> Forced:
        """See RowView.join."""
        context, clean = torch.cat([self.context, other.context]), torch.cat([self.clean, other.clean])
        return replace(self, context=context, clean=clean)
