"""Draw the pairs of times (t, r) that flow-map objectives train on, and name the branch of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.maths.devices import rows_where, sent
from flowmap.maths.draw import Draw
from flowmap.maths.path import shifted
from flowmap.schema.settings import BranchesConfig, TimesConfig

BRANCHES = ("diffusion", "consistency", "free")


@final
@dataclass(frozen=True)
class Pairs:
    """Times `t >= r`, and `branch`, the index into `BRANCHES`, of each sample; all `[B]`, on one device.

    `elsewhere` says whether any process has a sample with r < t in its micro-batch of the moment, and `drawn` are the
    same pairs on the CPU, if they were drawn there and these are on an accelerator.
    """

    t: Tensor
    r: Tensor
    branch: Tensor
    elsewhere: bool = False
    drawn: Pairs | None = field(default=None, kw_only=True, repr=False, compare=False)

    def on(self, device: torch.device) -> Pairs:
        """The same pairs, which are on the CPU, on `device`."""
        if device.type == "cpu":
            return self
        t, r, branch = (sent(part, device) for part in (self.t, self.r, self.branch))
        return Pairs(t, r, branch, self.elsewhere, drawn=self)

    @property
    def here(self) -> Pairs:
        """The same pairs on the CPU. Those that were made on an accelerator are fetched from there, which waits."""
        if self.drawn is not None or self.t.device.type == "cpu":
            return self.drawn or self
        return Pairs(self.t.cpu(), self.r.cpu(), self.branch.cpu(), self.elsewhere)

    def moving(self) -> Tensor:
        """The rows `[K]` with some r < t; if there are none but another process has some, one spare row with r = t.

        All processes must make the same network calls; what comes of a spare row is thrown away.
        """
        here = self.here
        return self._rows((here.r < here.t).reshape(len(here.t), -1).any(dim=1), spare=self.elsewhere)

    def resting(self) -> Tensor:
        """The rows `[K]` with r = t; if there are none, one spare row, so that all processes make the same calls."""
        here = self.here
        return self._rows(here.r == here.t, spare=True)

    def _rows(self, mask: Tensor, spare: bool) -> Tensor:
        """The rows where `mask`, which is on the CPU, is true, on the device of the times; or a spare one."""
        rows = mask.nonzero().flatten()
        return sent(rows if len(rows) or not spare else rows.new_zeros(1), self.t.device)


def draw_pairs(draw: Draw, config: BranchesConfig, times: TimesConfig) -> Pairs:
    """t = max, r = min of two draws of `times`; then r = t or r = 0 on the shares of the branches; then both shifted.

    The shares are stratified over the global batch: sample i stands at (order(i) + U) / B on the line of
    branches, with one random order and one U for all processes. So each branch has its share to within one
    sample, and in a batch too small for all, branches come up at random with these probabilities. Micro-batches
    follow that order too (Draw.split): those with r = t come first.
    """
    if times.distribution == "uniform":
        two = draw.here.uniform("pair", (2,))
    else:
        two = torch.sigmoid(times.mean + times.std * draw.here.normal("pair", (2,)))
    r, t = torch.aminmax(two, dim=1)
    offset, order = draw.shared("branches").random(), draw.order()
    edges = config.diffusion, config.diffusion + config.consistency

    def branches(rows: Sequence[int]) -> NDArray[np.int64]:
        return np.searchsorted(edges, (order[np.asarray(rows, dtype=np.int64)] + offset) / draw.total, side="right")

    branch = torch.from_numpy(branches(draw.rows))
    elsewhere = len(draw.peers) > draw.count and bool(branches(draw.peers).any())
    r = torch.where(branch == 0, t, torch.where(branch == 1, torch.zeros_like(r), r))
    return Pairs(shifted(t, times.shift), shifted(r, times.shift), branch, elsewhere).on(draw.device)


def per_branch(losses: Tensor, pairs: Pairs) -> dict[str, Tensor]:
    """Of per-sample `losses` `[B]` those of each branch of `pairs`, to log; there may be none."""
    losses, branch = losses.detach(), pairs.here.branch
    return {name: losses[rows_where(branch == i, losses.device)] for i, name in enumerate(BRANCHES)}
