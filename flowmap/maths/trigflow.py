"""TrigFlow and rectified flow: the same paths in other coordinates (sCM, arXiv 2410.11081; rCM, 2510.08431).

TrigFlow goes by an angle a in [0, pi/2], x_trig = cos a x0 + sigma_d sin a e, with dx_trig/da = sigma_d F. With
c = 1 / (cos a + sigma_d sin a), the rectified-flow point is x = c x_trig, at the time t = c sigma_d sin a, and the
prediction of x0 is the same in both:

    x - t u = D = cos a x_trig - sigma_d sin a F,    so    F = c (u + (sigma_d cos a - sin a) x_trig / sigma_d).

(docs/derivations.md, eqs. 28, 29 and 30). This form divides by nothing that vanishes; F = (cos a x_trig - D) /
(sigma_d sin a) would at a = 0. Because it is affine in u, it also turns the velocity of the one path into that of the
other, of a sample or of a teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from flowmap.maths.path import like

RIGHT_ANGLE = torch.pi / 2
"""The angle of pure noise."""


@final
@dataclass(frozen=True)
class TrigFlow:
    """Conversions for data of standard deviation `sigma_d` > 0; all is computed in float64.

    Angles and times are any shape `[...]` and come out in float64; points and velocities are `[B, F, ...]`, with
    angles `[B]` or `[B, F]`, and come out as they came in. All are finite at both ends, and differentiable there.
    """

    sigma_d: float

    def angle_of(self, t: Tensor) -> Tensor:
        """The angle a, tan a = t / (sigma_d (1 - t)), of times `t` in [0, 1]."""
        t = t.double()
        return torch.atan2(t, self.sigma_d * (1 - t))

    def time_of(self, angle: Tensor) -> Tensor:
        """The time in [0, 1] of angles in [0, pi/2]; what rounding puts outside of [0, 1] is at its end."""
        cos, sin = self._turn(angle)
        return (self.sigma_d * sin / (cos + self.sigma_d * sin)).clamp(0.0, 1.0)

    def scale(self, angle: Tensor) -> Tensor:
        """c = 1 / (cos a + sigma_d sin a), in float64: rectified points per TrigFlow points."""
        cos, sin = self._turn(angle)
        return 1 / (cos + self.sigma_d * sin)

    def noised(self, x0: Tensor, noise: Tensor, angle: Tensor) -> Tensor:
        """The TrigFlow point cos a x0 + sigma_d sin a e."""
        cos, sin = self._turn(like(angle, x0))
        return (cos * x0 + self.sigma_d * sin * noise).to(x0.dtype)

    def trig_point(self, x: Tensor, angle: Tensor) -> Tensor:
        """The TrigFlow point of a rectified-flow point `x`."""
        return (x / self.scale(like(angle, x))).to(x.dtype)

    def rectified_point(self, x_trig: Tensor, angle: Tensor) -> Tensor:
        """The rectified-flow point of a TrigFlow point."""
        return (x_trig * self.scale(like(angle, x_trig))).to(x_trig.dtype)

    def trig_velocity(self, u: Tensor, x_trig: Tensor, angle: Tensor) -> Tensor:
        """F of an average velocity `u` to r = 0 at `x_trig`; or (dx_trig/da) / sigma_d of a velocity `u` = dx/dt."""
        angle = like(angle, x_trig)
        return (self.scale(angle) * (u + self._skip(angle) * x_trig)).to(x_trig.dtype)

    def rectified_velocity(self, F: Tensor, x_trig: Tensor, angle: Tensor) -> Tensor:
        """The inverse of `trig_velocity`: u = F / c - (sigma_d cos a - sin a) x_trig / sigma_d."""
        angle = like(angle, x_trig)
        return (F / self.scale(angle) - self._skip(angle) * x_trig).to(x_trig.dtype)

    def _skip(self, angle: Tensor) -> Tensor:
        cos, sin = self._turn(angle)
        return cos - sin / self.sigma_d

    @staticmethod
    def _turn(angle: Tensor) -> tuple[Tensor, Tensor]:
        angle = angle.double()
        return torch.cos(angle), torch.sin(angle)
