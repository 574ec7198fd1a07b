"""Draw the pairs of times (t, r) that flow-map objectives train on, and name the branch of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from flowmap.draw import Draw
from flowmap.path import shifted
from flowmap_flow import BranchesConfig

BRANCHES = ("diffusion", "consistency", "free")


@final
@dataclass(frozen=True)
class Pairs:
    """Times `t >= r`, and `branch`, the index into `BRANCHES`, of each sample; all `[B]`."""

    t: Tensor
    r: Tensor
    branch: Tensor


def draw_pairs(draw: Draw, config: BranchesConfig, shift: float) -> Pairs:
    """t = max, r = min of two uniforms; then r = t or r = 0 on the branches' shares; then both shifted.

    The shares are stratified over the global batch: sample i stands at (permutation(i) + U) / B on the line
    of branches, with one permutation and one U for all processes. So each branch has its share to within one
    sample, no branch is tied to a process, and in a batch too small for all, branches come up at random with
    these probabilities.
    """
    r, t = torch.aminmax(draw.uniform("pair", (2,)), dim=1)
    shared = draw.shared("branches")
    offset, places = shared.random(), shared.permutation(draw.total)
    mine = torch.from_numpy(places[draw.first : draw.first + draw.count]).to(torch.float64)
    edges = torch.tensor([config.diffusion, config.diffusion + config.consistency], dtype=torch.float64)
    branch = torch.bucketize((mine + offset) / draw.total, edges, right=True).to(t.device)
    r = torch.where(branch == 0, t, torch.where(branch == 1, torch.zeros_like(r), r))
    return Pairs(shifted(t, shift), shifted(r, shift), branch)


def moving_rows(t: Tensor, r: Tensor) -> Tensor:
    """The rows `[K]` of `t`, `r` (`[B]` or `[B, F]`) in which some r < t."""
    return (r < t).reshape(len(t), -1).any(dim=1).nonzero().flatten()


def mean_per_branch(losses: Tensor, branch: Tensor) -> dict[str, Tensor]:
    """The mean of per-sample `losses` `[B]` on each branch that has samples here."""
    losses = losses.detach()
    sums = torch.zeros(len(BRANCHES), dtype=losses.dtype, device=losses.device).index_add_(0, branch, losses)
    counts = torch.bincount(branch, minlength=len(BRANCHES)).tolist()
    return {name: sums[i] / counts[i] for i, name in enumerate(BRANCHES) if counts[i]}
