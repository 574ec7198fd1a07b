"""Distribution matching (DMD2, arXiv 2405.14867): the student's loss, and the critic's that stands for the student.

The gradient of KL(student || data) at a sample x, noised to y at time tau, is proportional to fake - real, the
difference of what critic and teacher predict as x0 from y. A loss with that gradient is |x - sg(x - g)|^2
(docs/derivations.md, eqs. 20, 21 and 35).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Batch, Loss, Objective, Scene, Taken, Turn, always
from flowmap.maths.devices import sent
from flowmap.maths.distances import squared
from flowmap.maths.draw import Draw
from flowmap.maths.path import like, noised, shifted
from flowmap.networks.guidance import guided_velocity
from flowmap.training.watchdog import DATA, SAMPLES
from flowmap_distribution.parts import ScoreTimesConfig
from flowmap_distribution.rollouts import Times


def dmd_gradient(x: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """(fake - real) / mean|x - real| per sample, 0 where that is NaN (as published); all `[B, F, ...]`."""
    size = (x - real).abs().flatten(1).mean(1)
    gradient = (fake - real) / like(size, x)
    return torch.where(gradient.isnan(), 0.0, gradient)


@torch.no_grad()
def moments(x: Tensor, real: Tensor, draw: Draw) -> dict[str, Tensor]:
    """First and second moments `[B]` of samples `x` and of `real` ones, both `[B, F, ...]`, along a random direction.

    It is one for both, another at each step, the same in all processes: means over a global batch give a variance,
    whose share of the data's is a sign of a collapse (`flowmap.training.watchdog`). Of real samples the first frames
    count.
    """
    dice = torch.Generator().manual_seed(int(draw.shared("direction").integers(2**31)))
    direction = sent(torch.randn(x[0].numel(), generator=dice) / x[0].numel() ** 0.5, x.device)
    along = x.detach().flatten(1).float() @ direction
    of_data = real[:, : x.shape[1]].flatten(1).float() @ direction
    return {SAMPLES[0]: along, SAMPLES[1]: along**2, DATA[0]: of_data, DATA[1]: of_data**2}


def score_times(config: ScoreTimesConfig) -> Times:
    """How to draw the times of scores, see ScoreTimesConfig.limits."""

    def ranged(draw: Draw, name: str) -> Tensor:
        return shifted(config.low + (config.high - config.low) * draw.uniform(name), config.shift)

    def clamped(draw: Draw, name: str) -> Tensor:
        return shifted(draw.uniform(name), config.shift).clamp(config.low, config.high)

    return ranged if config.limits == "range" else clamped


@final
@dataclass(frozen=True)
class Matching:
    """The loss `factor` * mean((x - sg[x - g])^2) in float64, g the DMD gradient at `times`.

    `cfg_scale` is the guidance of the real score, null + w (cond - null). With `masked`, a sample of which anything is
    not finite adds nothing (rCM, arXiv 2510.08431); else only the elements of g that are NaN are 0.
    """

    factor: float
    times: Times
    cfg_scale: float
    masked: bool = False

    def loss(self, scene: Scene, made: Batch) -> Loss:
        """The loss of the samples `made`, as the scores see them."""
        tau = self.times(scene.draw, "score time")
        return self.at(scene, made, tau, scene.draw.normal("score noise", made.x0.shape[1:]))

    def at(self, scene: Scene, made: Batch, tau: Tensor, noise: Tensor) -> Loss:
        """The loss for given score times `tau` `[B]` and `noise` `[B, F, ...]`."""
        x, batch = made.x0, made
        with torch.no_grad():
            y = noised(x, noise, tau)
            v_fake = scene.velocity("critic").velocity(y, tau, batch.cond)
            v_real = guided_velocity(scene.velocity("teacher"), y, tau, batch.cond, batch.null, self.cfg_scale)
            fake, real = y - like(tau, y) * v_fake, y - like(tau, y) * v_real
        if self.masked:
            good = like((x + fake + real).isfinite().flatten(1).all(1), x)
            x, fake, real = (torch.where(good, part, 0.0) for part in (x, fake, real))
        with torch.no_grad():
            gradient = dmd_gradient(x, fake, real)
            target = x.double() - gradient.double()
        squares = (x.double() - target).square()
        # Of each sample: the root of a mean over all would depend on how the batch is split.
        raw = {"gradient_rms": gradient.square().flatten(1).mean(1).sqrt(), **moments(x, scene.batch.x0, scene.draw)}
        return Loss("dmd", self.factor * squares.mean(), raw)


def critic_loss(scene: Scene, made: Batch, tau: Tensor, sigma_d: float = 0.0) -> Loss:
    """Flow matching of the samples `made` at times `tau` `[B]`, by which the critic learns their velocity.

    With `sigma_d` above 0 it weighs (1 - tau)^2 + (tau / sigma_d)^2. That is EDM's weight (arXiv 2206.00364) of an
    error of the predicted x0 at the noise level tau / (1 - tau); with `sigma_d` 1 the error on the TrigFlow path (rCM;
    docs/derivations.md, eq. 36).
    """
    x = made.x0
    noise = scene.draw.normal("critic noise", x.shape[1:])
    predicted = scene.velocity("critic").velocity(noised(x, noise, tau), tau, made.cond)
    losses = squared(predicted, noise - x)
    if not sigma_d:
        return Loss("critic", losses.mean())
    weight = (1 - tau) ** 2 + (tau / sigma_d) ** 2
    return Loss("critic", (weight * losses).mean(), {"velocity": losses.detach()})


def co_trained(turns: Sequence[Turn], scene: Scene, weight: float) -> Iterator[Loss]:
    """The losses of a forward objective's `turns`, which share the student's step, with their `weight`."""
    for turn in turns:
        for loss in turn.losses(replace(scene, draw=scene.draw.child("forward"))):
            yield Loss(loss.branch, loss.value * weight, loss.raw)


@final
@dataclass(frozen=True)
class Duel(Objective):
    """Student against critic, each on samples of its own that `make` gives, as the scores see them.

    At the steps of which `student` says so the student takes its turn, with the losses of `forward` beside its own,
    and at those of `critic` the critic. The student's own loss starts at step `start`.
    """

    make: Callable[[Scene], Batch]
    matching: Matching
    critic_times: Times
    forward: Objective | None = None
    forward_weight: float = 1.0
    critic_sigma_d: float = 0.0
    student: Taken = always
    critic: Taken = always
    start: int = 0

    def turns(self) -> tuple[Turn, ...]:
        """The student's, then the critic's."""
        return (Turn("student", self._student, self.student), Turn("critic", self._critic, self.critic))

    def _student(self, scene: Scene) -> Iterator[Loss]:
        if scene.draw.step >= self.start:
            yield self.matching.loss(scene, self.make(scene))
        if self.forward:
            yield from co_trained(self.forward.turns(), scene, self.forward_weight)

    def _critic(self, scene: Scene) -> Iterator[Loss]:
        with torch.no_grad():
            made = self.make(scene)
        yield critic_loss(scene, made, self.critic_times(scene.draw, "critic time"), self.critic_sigma_d)
