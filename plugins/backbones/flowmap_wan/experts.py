"""Two causal networks as one: the first computes from a boundary in time up, the second below it.

Both remember the same frames, each in its own keys and values: a memory has the layers of the first and then those of
the second, and a pass that writes goes through both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from flowmap.interfaces import Cond, SeveralNetworks, SharesTokens, TokenGroup
from flowmap.workshop.memo import Text
from flowmap_wan.attention import Slots
from flowmap_wan.condition import as_video
from flowmap_wan.module import WanModule
from flowmap_wan.pieces import Passes, Past, Piece
from flowmap_wan.writing import Writing


@final
class Experts(nn.Module, Passes, SharesTokens, SeveralNetworks):
    """The networks `high`, for times from `boundary` up, and `low`, of the same sizes."""

    def __init__(self, high: WanModule, low: WanModule, boundary: float) -> None:
        super().__init__()
        self.high, self.low, self._boundary = high, low, boundary

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        """The velocity of `x` `[B, F, C, H, W]` at times `[B]` or `[B, F]`, as `cond` (a VideoCond) shows it."""
        video = as_video(cond)
        return video.view.run(self, Text(video.text), x, t, t if r is None else r)

    def share(self, tokens: TokenGroup) -> None:
        """See SharesTokens.share."""
        self.high.share(tokens)
        self.low.share(tokens)

    def passes(self, cond: Cond) -> int:
        """Two where frames are written, and else one: all frames of a sampled chunk have one time."""
        return 2 if isinstance(as_video(cond).view, Writing) else 1

    def layers(self) -> int:
        """Those of both."""
        return self.high.layers() + self.low.layers()

    def tokens_per_frame(self, piece: Piece) -> int:
        """See Passes.tokens_per_frame."""
        return self.high.tokens_per_frame(piece)

    def over(
        self, pieces: Sequence[Piece], text: Text, past: Past | None = None, causal: bool = False, slots: Slots = None
    ) -> Tensor:
        """See Passes.over. What is written, is written by both; else by the times of the noised piece one computes.

        Where some of its frames are above the boundary and some below, both do.
        """
        count = self.high.layers()
        if slots is not None:
            self.high.over(pieces, text, past, causal, slots[:count])
            return self.low.over(pieces, text, past, causal, slots[count:])
        wanted = next((piece for piece in pieces if piece.noised), pieces[-1])
        above = wanted.t >= self._boundary

        def of(network: WanModule, layers: slice) -> Tensor:
            own = past and Past(past.layers[layers], past.runs)
            return network.over(pieces, text, own, causal)

        if bool(above.all()):
            return of(self.high, slice(count))
        low = of(self.low, slice(count, None))
        return (
            torch.where(above[:, :, None, None, None], of(self.high, slice(count)), low) if bool(above.any()) else low
        )
