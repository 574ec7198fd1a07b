"""Draw the pairs of times (t, r) that flow-map objectives train on, and name the branch of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from flowmap.maths.draw import Draw
from flowmap.maths.path import shifted
from flowmap.schema.settings import BranchesConfig, TimesConfig

BRANCHES = ("diffusion", "consistency", "free")


@final
@dataclass(frozen=True)
class Pairs:
    """Times `t >= r`, and `branch`, the index into `BRANCHES`, of each sample; all `[B]`.

    `elsewhere` says whether any process has a sample with r < t in its micro-batch of the moment.
    """

    t: Tensor
    r: Tensor
    branch: Tensor
    elsewhere: bool = False

    def moving(self) -> Tensor:
        """The rows `[K]` with some r < t; if there are none but another process has some, one spare row with r = t.

        All processes must make the same network calls; what comes of a spare row is thrown away.
        """
        rows = (self.r < self.t).reshape(len(self.t), -1).any(dim=1).nonzero().flatten()
        return rows if len(rows) or not self.elsewhere else rows.new_zeros(1)


def draw_pairs(draw: Draw, config: BranchesConfig, times: TimesConfig) -> Pairs:
    """t = max, r = min of two draws of `times`; then r = t or r = 0 on the shares of the branches; then both shifted.

    The shares are stratified over the global batch: sample i stands at (order(i) + U) / B on the line of
    branches, with one random order and one U for all processes. So each branch has its share to within one
    sample, and in a batch too small for all, branches come up at random with these probabilities. Micro-batches
    follow that order too (Draw.split): those with r = t come first.
    """
    if times.distribution == "uniform":
        two = draw.uniform("pair", (2,))
    else:
        two = torch.sigmoid(times.mean + times.std * draw.normal("pair", (2,)))
    r, t = torch.aminmax(two, dim=1)
    offset, order = draw.shared("branches").random(), draw.order()
    edges = torch.tensor([config.diffusion, config.diffusion + config.consistency], dtype=torch.float64)

    def branches(rows: Sequence[int]) -> Tensor:
        places = torch.from_numpy(order[np.asarray(rows, dtype=np.int64)]).to(torch.float64)
        return torch.bucketize((places + offset) / draw.total, edges, right=True)

    branch = branches(draw.rows).to(t.device)
    elsewhere = len(draw.peers) > draw.count and bool(branches(draw.peers).any())
    r = torch.where(branch == 0, t, torch.where(branch == 1, torch.zeros_like(r), r))
    return Pairs(shifted(t, times.shift), shifted(r, times.shift), branch, elsewhere)


def per_branch(losses: Tensor, branch: Tensor) -> dict[str, Tensor]:
    """Of per-sample `losses` `[B]` those of each branch, to log; there may be none."""
    losses = losses.detach()
    return {name: losses[branch == i] for i, name in enumerate(BRANCHES)}
