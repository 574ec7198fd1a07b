"""The exact velocity and flow map of mixture-of-Gaussians data on the rectified-flow path.

With data sum_k w_k N(m_k, s_k^2) the marginal at t is sum_k w_k N((1 - t) m_k, (1 - t)^2 s_k^2 + t^2). The
velocity is E[e - x0 | x_t]. In one dimension the flow of a velocity preserves quantiles, so the flow map is
X_{t->r}(x) = F_r^-1(F_t(x)) with F the distribution functions; for one component it is affine
(docs/derivations.md, eq. 26).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from flowmap.interfaces import Cond
from flowmap.maths.path import like
from flowmap_gaussian.configs import MixtureConfig

_HALVINGS = 80  # bisection until float64 has no more digits


@final
class Mixture:
    """Closed forms for a mixture on the line; times broadcast against x, everything in float64 inside."""

    def __init__(self, config: MixtureConfig) -> None:
        self.means = torch.tensor(config.means, dtype=torch.float64)
        self.stds = torch.tensor(config.stds, dtype=torch.float64)
        self.weights = torch.tensor(config.weights, dtype=torch.float64)

    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each component at `t`, `[..., K]`."""
        t = t.double().unsqueeze(-1)
        return (1 - t) * self.means, ((1 - t) ** 2 * self.stds**2 + t**2).sqrt()

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """E[e - x0 | x_t = x], the shape of `x`."""
        mean, std = self._marginal(t)
        time = t.double().unsqueeze(-1)
        off = x.double().unsqueeze(-1) - mean
        posterior = (self.weights.log() - std.log() - 0.5 * (off / std) ** 2).softmax(dim=-1)
        slope = (time - (1 - time) * self.stds**2) / std**2
        return (posterior * (slope * off - self.means)).sum(-1).to(x.dtype)

    def _cdf(self, x: Tensor, t: Tensor) -> Tensor:
        mean, std = self._marginal(t)
        return (self.weights * torch.special.ndtr((x.unsqueeze(-1) - mean) / std)).sum(-1)

    def _density(self, x: Tensor, t: Tensor) -> Tensor:
        mean, std = self._marginal(t)
        z = (x.unsqueeze(-1) - mean) / std
        return (self.weights / std * torch.exp(-0.5 * z**2)).sum(-1) / (2 * torch.pi) ** 0.5

    def map(self, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """X_{t->r}(x) in float64, differentiable in `x`, `t` and `r`."""
        x = x.double()
        mean_t, std_t = self._marginal(t)
        mean_r, std_r = self._marginal(r)
        if len(self.means) == 1:
            return (mean_r + std_r / std_t * (x.unsqueeze(-1) - mean_t)).squeeze(-1)
        quantile = self._cdf(x, t)
        with torch.no_grad():
            z = 12.0
            low = (mean_r - z * std_r).amin(-1).expand_as(x).clone()
            high = (mean_r + z * std_r).amax(-1).expand_as(x).clone()
            for _ in range(_HALVINGS):
                middle = 0.5 * (low + high)
                below = self._cdf(middle, r) < quantile
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            y = 0.5 * (low + high)
            density = self._density(y, r)
        # One Newton step: changes nothing, but carries the implicit derivative dF_t(x) = dF_r(y).
        return y - (self._cdf(y, r) - quantile) / density

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """(x - X_{t->r}(x)) / (t - r), and the velocity where r = t."""
        gap = (t - r).double()
        apart = gap.abs() > 1e-9
        jumped = (x.double() - self.map(x, t, r)) / torch.where(apart, gap, torch.ones_like(gap))
        return torch.where(apart, jumped, self.velocity(x.double(), t)).to(x.dtype)


class Disturbed(nn.Module):
    """The exact field plus `theta` . (1, x, t, t - r, x (t - r)): exact at theta = 0."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.theta = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        """u(x, t, r) for `x` `[B, F, ...]`, `t` and `r` `[B, F]`; the velocity without `r`."""
        t, r = like(t, x), like(t if r is None else r, x)
        terms = (torch.ones_like(x), x, t.expand_as(x), (t - r).expand_as(x), x * (t - r))
        error = torch.stack(terms, dim=-1).to(self.theta.dtype) @ self.theta
        return self.mixture.mean_velocity(x, t, r) + error
