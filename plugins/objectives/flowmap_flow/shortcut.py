"""Shortcut models (arXiv 2410.12557): the semigroup at the midpoint, on jumps of dyadic lengths.

A jump of length d, from t = k d to t - d, learns from two of d / 2 (equation 4); d = 1, 1/2, ... 1/64. The other
samples learn the velocity of the data, at r = t (docs/derivations.md, eq. 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch

from flowmap.interfaces import Loss, Scene, StudentObjective
from flowmap.maths.draw import Draw
from flowmap.maths.pairs import Pairs, draw_pairs
from flowmap.networks.points import on_path
from flowmap.schema.settings import BranchesConfig, uniform_times
from flowmap_flow.composed_configs import ShortcutConfig
from flowmap_flow.semigroup import semigroup_loss


def dyadic_pairs(draw: Draw, bootstrap: float, levels: int) -> Pairs:
    """Of a share `bootstrap`, jumps from one multiple of d to the next below, d one of 1, 1/2, ... 2^(1 - levels).

    All lengths are as frequent, and so are all places. The others have r = t, a multiple of 2^-levels above 0.
    """
    here = draw.here
    pairs = draw_pairs(here, BranchesConfig(diffusion=1 - bootstrap, consistency=0.0), uniform_times())
    rests = pairs.branch == 0
    level = torch.where(rests, levels, (here.uniform("length") * levels).floor())
    parts = 2**level
    place = (here.uniform("place") * parts).floor()
    t = (place + 1) / parts
    r = torch.where(rests, t, place / parts)
    return Pairs(t, r, torch.where(r == 0, 1, pairs.branch), pairs.elsewhere).on(draw.device)


@final
@dataclass(frozen=True)
class Shortcut(StudentObjective):
    """|u - sg[(u_ema(x_t, t, s) + u_ema(X_{t->s}, s, r)) / 2]|^2 with s = (t + r) / 2; |u - (e - x0)|^2 at r = t.

    Published beside this configuration: AdamW 1e-4 with weight decay 0.1, without which the paper finds training
    unstable, and EMA 0.999. The first sections of the published batch have one length each; here lengths are drawn.

    Pitfalls. The finest jumps, of 1/128, are asked for but never trained: the released code tells them and r = t apart
    by nothing (both have the embedding of 1/128), and so learns the velocity for them; here the network must carry
    over from r = t and from 1/64, but the exact map is at rest, without an Euler step's error. Other jumps than dyadic
    ones are not trained either: sample with 2^k steps. Guidance belongs at r = t alone, where the data are: applied to
    the two half jumps as well it compounds, to about w^7 over the levels.
    """

    config: ShortcutConfig

    def losses(self, scene: Scene) -> Iterator[Loss]:
        """See StudentObjective.losses."""
        config = self.config
        pairs = dyadic_pairs(scene.draw, config.bootstrap, config.levels)
        at = on_path(scene, pairs, "data", config.cfg_scale, config.drop_condition, rows=pairs.resting())
        yield semigroup_loss(scene, at, 0.5 * (at.t + at.r), "shortcut")
