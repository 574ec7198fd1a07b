"""What a Wan network is conditioned on: text, and how the frames it is given stand among the frames of a video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar, final

import torch
from torch import Tensor

from flowmap_wan.attention import TextMemo
from flowmap_wan.module import Piece, WanModule

V = TypeVar("V", bound="View")


class View(ABC):
    """One way of calling the network on frames `x` at times `t`, `r` (`[B]` or `[B, F]`)."""

    @abstractmethod
    def run(
        self,
        module: WanModule,
        adapter: str | None,
        text: Tensor,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        memo: TextMemo | None = None,
    ) -> Tensor:
        """The velocity of `x` `[B, F, C, H, W]`; `memo` is what is known of `text` `[B, M, D]`."""

    @abstractmethod
    def take(self: V, index: Tensor) -> V:
        """The rows `index`."""

    @abstractmethod
    def join(self: V, other: V) -> V:
        """The rows of this one, then those of `other`."""


@final
@dataclass(frozen=True)
class Whole(View):
    """All frames see each other; the clean frames `context` `[B, k, C, H, W]`, if any, come first."""

    context: Tensor | None = None

    def run(
        self,
        module: WanModule,
        adapter: str | None,
        text: Tensor,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        memo: TextMemo | None = None,
    ) -> Tensor:
        """See View.run."""
        if self.context is None:
            return module([noised(x, t, r, 0, (0,) * x.shape[1])], text, adapter, memo=memo)
        given = self.context.shape[1]
        pieces = [clean(self.context, 0, (0,) * given), noised(x, t, r, given, (0,) * x.shape[1])]
        return module(pieces, text, adapter, memo=memo)

    def take(self, index: Tensor) -> Whole:
        """See View.take."""
        return Whole(None if self.context is None else self.context[index])

    def join(self, other: Whole) -> Whole:
        """See View.join."""
        if self.context is None or other.context is None:
            if self.context is not other.context:
                raise ValueError("cannot join a condition with given frames and one without")
            return self
        return Whole(torch.cat([self.context, other.context]))


@final
@dataclass(frozen=True)
class Forced(View):
    """Teacher forcing (FAR): every noised chunk sees the clean chunks before it; old ones only compressed.

    `context` `[B, Fc, C, H, W]` are the frames before x, to be compressed; `clean` `[B, F, C, H, W]` are x's own
    frames at t = 0. `chunks` is the chunk of every frame of both.
    """

    context: Tensor
    clean: Tensor
    chunks: tuple[int, ...]

    def run(
        self,
        module: WanModule,
        adapter: str | None,
        text: Tensor,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        memo: TextMemo | None = None,
    ) -> Tensor:
        """See View.run."""
        given = self.context.shape[1]
        own = self.chunks[given:]
        pieces = [noised(x, t, r, given, own), clean(self.clean, given, own)]
        if given:
            pieces.insert(0, clean(self.context, 0, self.chunks[:given], coarse=True))
        return module(pieces, text, adapter, causal=True, memo=memo)

    def take(self, index: Tensor) -> Forced:
        """See View.take."""
        return replace(self, context=self.context[index], clean=self.clean[index])

    def join(self, other: Forced) -> Forced:
        """See View.join."""
        context, clean = torch.cat([self.context, other.context]), torch.cat([self.clean, other.clean])
        return replace(self, context=context, clean=clean)


def _column(t: Tensor) -> Tensor:
    return t[:, None] if t.ndim == 1 else t


def noised(x: Tensor, t: Tensor, r: Tensor, first: int, chunks: tuple[int, ...]) -> Piece:
    """Frames that are to be denoised, at their times."""
    return Piece(x, _column(t), _column(r), first, chunks, noised=True)


def clean(x: Tensor, first: int, chunks: tuple[int, ...], coarse: bool = False) -> Piece:
    """Frames that are given: time 0."""
    zero = torch.zeros(len(x), 1, device=x.device)
    return Piece(x, zero, zero, first, chunks, noised=False, coarse=coarse)
