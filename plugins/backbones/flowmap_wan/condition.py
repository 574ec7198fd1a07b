"""What a Wan network is called with beside frames and times: its text, and the view of the frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Cond, EncodedText
from flowmap.workshop.memo import TextMemo
from flowmap_wan.views import RowView, View, Whole


@final
@dataclass(frozen=True)
class VideoCond(Cond):
    """Text `[B, M, D]`, and a view. The same text under another view shares its `memo`."""

    text: Tensor
    view: View = field(default_factory=Whole)
    memo: TextMemo | None = field(default_factory=TextMemo, compare=False, repr=False)

    def take(self, index: Tensor) -> VideoCond:
        """See Cond.take."""
        return VideoCond(self.text[index.to(self.text.device)], _rows(self.view).take(index))

    def join(self, other: VideoCond) -> VideoCond:
        """See Cond.join. Nothing is kept for such a pair: it is made for one call."""
        if type(self.view) is not type(other.view):
            raise ValueError(f"cannot join {type(self.view).__name__} and {type(other.view).__name__}")
        joined = _rows(self.view).join(_rows(other.view))
        return VideoCond(torch.cat([self.text, other.text]), joined, memo=None)


def as_video(cond: Cond) -> VideoCond:
    """`cond` as what it is; raises TypeError if it is of another backbone."""
    if not isinstance(cond, VideoCond):
        raise TypeError(f"a Wan model takes conditions of its own backbone, not {type(cond).__name__}")
    return cond


def _rows(view: View) -> RowView:
    """`view` as one of samples; raises TypeError if it is of a whole batch that is being read."""
    if not isinstance(view, RowView):
        raise TypeError(f"{type(view).__name__} is done for a whole batch, which cannot be divided meanwhile")
    return view


def conditions(
    width: Callable[[], int],
    null: Callable[[EncodedText], Tensor],
    prompts: Any,
    count: int,
    device: torch.device,
) -> tuple[Cond, Cond]:
    """The condition of encoded `prompts` and the null condition, or those of no text: one row of zeros of `width`.

    `null` `[L, D]` is what stands for no prompt beside such prompts.
    """
    if prompts is None:
        empty = torch.zeros(count, 1, width(), device=device)
        return VideoCond(empty), VideoCond(empty)
    if not isinstance(prompts, EncodedText):
        raise FlowmapError(f"this backbone takes texts or their embeddings for prompts, not {type(prompts).__name__}")
    found = null(prompts).to(device)
    return VideoCond(prompts.text.to(device)), VideoCond(found.expand(count, *found.shape))
