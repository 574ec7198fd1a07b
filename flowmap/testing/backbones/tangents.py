"""Whether derivatives in time can be taken of the networks of a backbone, and by how long a difference."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from flowmap.interfaces import as_flow_map
from flowmap.networks.tangent import Question, tangent, value_and_slope
from flowmap.plugin.blame import said_of
from flowmap.recipe.step_length import default_step, percent
from flowmap.schema.settings import TangentConfig
from flowmap.testing.backbones.subject import COUNT, BackboneSubject
from flowmap.testing.check import Laws
from flowmap.testing.contract import whole

LAWS = Laws("backbone")

_JVP = TangentConfig(method="jvp")
_STEPS = tuple(0.02 * 2.0**-k for k in range(11))
_FAST = 3.0
"""Times all differences: they are too long, for what goes by them all and is right is as large as they are."""
_WRONG = 0.5
"""Of a derivative: no difference of any length is as near, so it is not the derivative of what is computed."""
_LONG = 0.3
"""The same of a difference over the default step, which training measures at every hundredth step or so."""


def _inside(subject: BackboneSubject) -> tuple[Tensor, Tensor]:
    """Times t and r < t that are away from the ends, so that differences are central."""
    return subject.t.clamp(max=0.95), torch.full_like(subject.t, 0.05)


def _moving(subject: BackboneSubject, config: TangentConfig, speed: Tensor) -> Tensor:
    """du/dt at x that moves with `speed`."""
    t, r = _inside(subject)
    return tangent(subject.student(), subject.batch.x0.clone(), t, r, speed, subject.batch.cond, config)


def _in_r(subject: BackboneSubject, config: TangentConfig) -> Tensor:
    """du/dr."""
    t, r = _inside(subject)
    rows = torch.arange(COUNT)
    at = Question(subject.batch.x0.clone(), t, r, subject.batch.cond)
    return value_and_slope(as_flow_map(subject.role("flow_map").network), at, rows, config)[1].detach()


def _off(a: Tensor, b: Tensor) -> float:
    """|a - b| relative to the larger of both; 0 if both are 0."""
    largest = torch.maximum(a.double().norm(), b.double().norm())
    return float((a.double() - b.double()).norm() / largest) if largest else 0.0


@LAWS.proven(
    "Forward-mode derivatives in t and in r are those of what the network computes.",
    "BackboneConfig.no_forward_mode",
    equation="d/dt u(x_t, t, r) = (v . grad_x) u + du/dt: arXiv 2505.13447, eq. 8",
    needs=("has_jvp",),
    after=("arguments_are_left_alone", "r_is_used", "times_are_not_rounded", "samples_are_alone"),
)
def derivatives_go_through_times(subject: BackboneSubject) -> None:
    """Against the differences of several lengths, of which one must be near."""
    for time in ("t", "r"):
        where = f"`mean_velocity` of {subject.called('flow_map')}"
        still = torch.zeros_like(subject.batch.x0)
        try:
            # torch loads for its first such derivative what it deprecates itself.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                exact = _moving(subject, _JVP, still) if time == "t" else _in_r(subject, _JVP)
        except Exception as error:
            why = said_of(error, subject.config)
            raise AssertionError(
                f"{where} has no forward-mode derivative in {time} ({why}); `no_forward_mode` must say so"
            ) from error
        steps = [TangentConfig(step=step) for step in _STEPS]
        differences = [_moving(subject, s, still) if time == "t" else _in_r(subject, s) for s in steps]
        nearest = min(_off(difference, exact) for difference in differences)
        if nearest >= _WRONG:
            largest = max(float(difference.norm()) for difference in differences)
            raise AssertionError(_unlike(where, time, float(exact.norm()), largest))


def _unlike(where: str, time: str, exact: float, largest: float) -> str:
    """What is wrong where forward mode gives a derivative of norm `exact`, and differences `largest` at most."""
    sizes = f"its norm is {exact:.2g}, that of differences {largest:.2g} at most"
    if exact > _FAST * largest:
        return (
            f"{where} changes faster with {time} than a difference over {_STEPS[-1]:.0e} can follow: no derivative in "
            f"{time} is good for anything ({sizes}; is {time} multiplied by 1000 twice?)"
        )
    return (
        f"the forward-mode derivative in {time} of {where} is not the network's own ({sizes}; is {time} detached, or "
        "made anew as a tensor, or an integer?)"
    )


@LAWS.proven(
    "The difference that an objective takes by default is near the derivative: `time_frequency` says how long it may "
    "be.",
    "BackboneConfig.time_frequency",
    needs=("has_jvp",),
    after=("derivatives_go_through_times",),
)
def default_step_is_short_enough(subject: BackboneSubject) -> None:
    """Against forward mode, along a path."""
    frequency = subject.config.time_frequency()
    step = default_step(frequency, "no")
    speed = whole(COUNT).normal("speed", subject.batch.x0.shape[1:]) - subject.batch.x0
    exact = _moving(subject, _JVP, speed)
    error = _off(_moving(subject, TangentConfig(step=step), speed), exact)
    if error <= _LONG:
        return
    good = [s for s in _STEPS if s < step and _off(_moving(subject, TangentConfig(step=s), speed), exact) < _LONG / 3]
    way = (
        f"a step of {good[0]:.1g} is right: let `time_frequency` say {0.3 / good[0]:.0f} or more, or take forward mode"
        if good
        else "take forward mode"
    )
    said = "nothing" if frequency is None else f"{frequency:g}"
    raise AssertionError(
        f"the difference over the default step {step:g} is {percent(error)} off the derivative of `mean_velocity` of "
        f"{subject.called('flow_map')}, whose `time_frequency` says {said}; {way}"
    )
