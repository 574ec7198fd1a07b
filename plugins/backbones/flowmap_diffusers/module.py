"""A transformer of diffusers as a network of (x, t, r, condition)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from flowmap.interfaces import Cond
from flowmap.plugin import Recomputation
from flowmap.workshop import TensorCond
from flowmap.workshop.adapters import Chosen
from flowmap.workshop.recompute import recompute
from flowmap_diffusers.family import Family, Sizes
from flowmap_diffusers.two_times import Times, add_second_time


@final
class ImageModule(nn.Module):
    """The transformer of a family, with one time or two; what moves to a device and is sharded.

    `guidance` is what a guidance-distilled one is told; `recomputation`: what backward computes again.
    """

    def __init__(
        self,
        transformer: Any,
        family: Family,
        sizes: Sizes,
        both: bool,
        gate: float,
        guidance: float,
        recomputation: Recomputation,
        chosen: Chosen,
    ) -> None:
        super().__init__()
        self.transformer = family.settle(transformer)
        self._family, self._sizes, self._guidance = family, sizes, guidance
        self._times = Times()
        add_second_time(transformer, family.embedders(sizes), gate, self._times, both)
        recompute(blocks_of(family, self), recomputation, chosen, self._times.pinned)

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        """The velocity of `x` `[B, 1, C, h, w]` at times `[B]` in [0, 1]."""
        seen = self._family.time(t.float())
        with self._times.at(seen, seen if r is None else self._family.time(r.float())):
            made = self._family.velocity(self.transformer, x[:, 0], t, self._asked(cond, x), self._guidance)
        return made[:, None]

    def _asked(self, cond: Cond, x: Tensor) -> Mapping[str, Tensor]:
        """The tensors of `cond`; without any, a text of one token of zeros.

        Where a vector of the whole text is wanted and the data bring none, it is the mean of the tokens.
        """
        width, pooled = (self._sizes.get(name) for name in (self._family.width, self._family.pooled or ""))
        if isinstance(cond, TensorCond):
            asked = dict(cond.tensors)
        else:
            asked = {"text": torch.zeros(len(x), 1, int(width or 0), device=x.device)} if width else {}
        if pooled is not None and "pooled" not in asked:
            asked["pooled"] = asked["text"].mean(1)
        return asked


def transformer_of(module: nn.Module) -> Any:
    """The transformer of a role's module."""
    assert isinstance(module, ImageModule)
    return module.transformer


def blocks_of(family: Family, module: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a role's module, in their order."""
    return [block for name in family.blocks for block in transformer_of(module).get_submodule(name)]
