"""What one pass over a Wan transformer goes over: pieces of video, and what it can attend to besides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from flowmap.workshop.memo import Text
from flowmap_wan.attention import Remembered, Slots
from flowmap_wan.sight import Reach, Runs, runs


@final
@dataclass(frozen=True)
class Piece:
    """Consecutive frames `x` `[B, f, C, H, W]`, the first of which is frame `first` of the video.

    `t`, `r` in [0, 1]: `[B, f]`, or `[B, 1]` for all frames. `chunks` is the chunk of each frame, `reach` how far back
    one sees (None: to the first frame); `coarse` pieces go through the compressed patches.
    """

    x: Tensor
    t: Tensor
    r: Tensor
    first: int
    chunks: tuple[int, ...]
    noised: bool
    coarse: bool = False
    reach: Reach | None = None

    def runs(self, tokens: int) -> Runs:
        """Its runs of `tokens` a frame."""
        return runs(self.chunks, tokens, self.noised, self.first, self.reach)


@final
@dataclass(frozen=True)
class Past:
    """What a pass can attend to besides its own tokens: what each layer remembers, and the chunks of the tokens."""

    layers: tuple[Remembered, ...]
    runs: Runs


Told = Text | tuple[Text, Text]
"""The tokens of prompts; and the features of a picture, for a network that has layers for them."""


class Passes(ABC):
    """Whoever passes over pieces: a transformer."""

    @abstractmethod
    def over(
        self, pieces: Sequence[Piece], text: Told, past: Past | None = None, causal: bool = False, slots: Slots = None
    ) -> Tensor:
        """The velocity `[B, f, C, H, W]` of the one noised piece (of the last, if none is noised).

        Everything sees everything unless `causal`. `slots` receive the keys and values of every layer.
        """

    @abstractmethod
    def layers(self) -> int:
        """How many blocks there are."""

    @abstractmethod
    def tokens_per_frame(self, piece: Piece) -> int:
        """Tokens of each frame of `piece`."""


def noised(x: Tensor, t: Tensor, r: Tensor, first: int, chunks: tuple[int, ...], reach: Reach | None = None) -> Piece:
    """Frames that are to be denoised, at their times `[B]` or `[B, f]`."""
    return Piece(x, _column(t), _column(r), first, chunks, noised=True, reach=reach)


def clean(x: Tensor, first: int, chunks: tuple[int, ...], coarse: bool = False, reach: Reach | None = None) -> Piece:
    """Frames that are given: time 0."""
    zero = x.new_zeros(len(x), 1)
    return Piece(x, zero, zero, first, chunks, noised=False, coarse=coarse, reach=reach)


def _column(t: Tensor) -> Tensor:
    return t[:, None] if t.ndim == 1 else t
