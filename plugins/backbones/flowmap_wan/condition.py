"""What a Wan network is called with beside frames and times: its text, and the view of the frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Cond
from flowmap_wan.attention import TextMemo
from flowmap_wan.views import View, Whole


@final
@dataclass(frozen=True)
class VideoCond(Cond):
    """Text `[B, M, D]`, and a view. The same text under another view shares its `memo`."""

    text: Tensor
    view: View = field(default_factory=Whole)
    memo: TextMemo | None = field(default_factory=TextMemo, compare=False, repr=False)

    def take(self, index: Tensor) -> VideoCond:
        """See Cond.take."""
        return VideoCond(self.text[index], self.view.take(index))

    def join(self, other: VideoCond) -> VideoCond:
        """See Cond.join. Nothing is kept for such a pair: it is made for one call."""
        if type(self.view) is not type(other.view):
            raise ValueError(f"cannot join {type(self.view).__name__} and {type(other.view).__name__}")
        return VideoCond(torch.cat([self.text, other.text]), self.view.join(other.view), memo=None)
