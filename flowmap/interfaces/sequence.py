"""One sample over several processes (Ulysses, arXiv 2309.14509): each holds a share of its tokens.

All but attention goes token by token. For attention the processes exchange: each gives away its tokens' share of most
heads, and gets all tokens of its own heads, so that masks and memories of attention stay what they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from flowmap.errors import FlowmapError

Grid = tuple[int, int]
"""Consecutive tokens of a sample: so many frames, of so many tokens each."""


class SharesTokens(ABC):
    """A module that computes for samples whose tokens are shared among processes, once it has been told of them."""

    @abstractmethod
    def share(self, tokens: TokenGroup) -> None:
        """Share the tokens of all samples among the processes of the group from now on.

        All of them call the module alike, with the same whole samples, and get the same whole answers. A gradient that
        arrives at a parameter is n times what this process's tokens contribute, so that its mean over the n processes
        is that of the whole sample; one that arrives at what the module is called with is whole.
        """


@final
class TokenGroup:
    """The `number` processes of torch's `group`, which share samples, as process `index` of them sees it."""

    def __init__(self, number: int, index: int, group: Any) -> None:
        self.number, self.index = number, index
        self._group = group

    def entering(self, x: Tensor) -> Tensor:
        """`x`, which all processes compute with: its gradient is made of the shares of all."""
        entered: Tensor = _Entering.apply(x, self.number, self._group)  # type: ignore[no-untyped-call]
        return entered

    def exchanged(self, x: Tensor) -> Tensor:
        """`[n, ...]`, of which each process gives the i-th part to process i, and gets that process's part of it."""
        result: Tensor = _Exchanged.apply(x, self._group)  # type: ignore[no-untyped-call]
        return result

    def gathered(self, x: Tensor) -> Tensor:
        """The `x` of every process `[n, *x.shape]`, with which all go on alike."""
        result: Tensor = _Gathered.apply(x, self.number, self.index, self._group)  # type: ignore[no-untyped-call]
        return result


def share_tokens(module: nn.Module, tokens: TokenGroup | None) -> None:
    """Have `module` share the tokens of samples as `tokens` says, if it says anything.

    Raises FlowmapError if the module cannot.
    """
    if tokens is None:
        return
    if not isinstance(module, SharesTokens):
        raise FlowmapError(f"a {type(module).__name__} cannot share the tokens of a sample among processes")
    module.share(tokens)


@final
class Shared:
    """How the tokens of a pass are shared: among whom, and of what `grids` they are, one after the other.

    Each process holds as many tokens of every frame as the others: frames that cannot be divided are filled up with
    tokens of zeros, which attention never sees.
    """

    def __init__(self, group: TokenGroup, grids: Sequence[Grid]) -> None:
        self._group, self._grids = group, tuple(grids)

    def lengths(self) -> list[int]:
        """How many tokens of each grid a process holds."""
        return [frames * self._share(tokens) for frames, tokens in self._grids]

    def mine(self, x: Tensor) -> Tensor:
        """Of all tokens `[..., L, D]` this process's share `[..., l, D]`."""
        n, index = self._group.number, self._group.index
        parts = [grid.unflatten(-2, (n, -1)).select(-3, index).flatten(-3, -2) for grid in self._filled(x)]
        return _joined(parts)

    def heads(self, x: Tensor) -> Tensor:
        """Of this process's tokens `[K, B, H, l, d]` and everybody else's, those of its own heads: `[K, B, h, L, d]`.

        h is H over the number of processes, which must divide it.
        """
        # [K, B, n, h, l, d] to [n, K, B, h, l, d]
        given = x.unflatten(2, (self._group.number, -1)).movedim(2, 0)
        got = self._group.exchanged(given).split(self.lengths(), dim=-2)
        return _joined([self._whole(part, grid) for part, grid in zip(got, self._grids, strict=True)])

    def tokens(self, x: Tensor) -> Tensor:
        """The way back: of all tokens of this process's heads `[B, h, L, d]` its tokens of all heads `[B, H, l, d]`."""
        n = self._group.number
        # [B, h, F, n share, d] to [n, B, h, F share, d]
        parts = [grid.unflatten(-2, (n, -1)).movedim(-3, 0).flatten(-3, -2) for grid in self._filled(x)]
        # [n, B, h, l, d] to [B, n h, l, d]
        return self._group.exchanged(_joined(parts)).transpose(0, 1).flatten(1, 2)

    def whole(self, x: Tensor, index: int) -> Tensor:
        """Of everybody's shares `[B, l, D]` of grid `index` all tokens `[B, L, D]`, the same in all processes."""
        return self._whole(self._group.gathered(x), self._grids[index])

    def _share(self, tokens: int) -> int:
        return -(-tokens // self._group.number)

    def _filled(self, x: Tensor) -> Iterator[Tensor]:
        """The grids `[..., F, n share, D]` of tokens `[..., L, D]`, each frame filled up with zeros."""
        parts = x.split([frames * tokens for frames, tokens in self._grids], dim=-2)
        for part, grid in zip(parts, self._grids, strict=True):
            missing = self._share(grid[1]) * self._group.number - grid[1]
            frames = part.unflatten(-2, grid)
            yield F.pad(frames, (0, 0, 0, missing)) if missing else frames

    def _whole(self, shares: Tensor, grid: Grid) -> Tensor:
        """The tokens `[..., L, D]` of a grid from all shares `[n, ..., F share, D]`."""
        frames, tokens = grid
        whole: Tensor = shares.unflatten(-2, (frames, -1)).movedim(0, -3).flatten(-3, -2)
        return whole[..., :tokens, :].flatten(-3, -2)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=-2)


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _all_to_all(x, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return _all_to_all(slope, ctx.group), None


def _all_to_all(x: Tensor, group: Any) -> Tensor:
    given = x.contiguous()
    got = torch.empty_like(given)
    distributed.all_to_all_single(got, given, group=group)
    return got


class _Gathered(torch.autograd.Function):
    """`[n, *x.shape]`; whoever gets it goes on alike, so that the n equal gradients of a share are n times one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, number: int, index: int, group: Any) -> Tensor:
        ctx.number, ctx.index = number, index
        given = x.contiguous()
        got = [torch.empty_like(given) for _ in range(number)]
        distributed.all_gather(got, given, group=group)
        return torch.stack(got)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.number * slope[ctx.index], None, None, None


class _Entering(torch.autograd.Function):
    """The identity, whose gradient is the mean over the processes: each has n times its own share."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, number: int, group: Any) -> Tensor:
        ctx.number, ctx.group = number, group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        total = slope.contiguous().clone()
        distributed.all_reduce(total, group=ctx.group)
        return total / ctx.number, None, None
