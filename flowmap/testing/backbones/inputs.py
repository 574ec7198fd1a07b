"""What the networks of a backbone make of x and of their times."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowmap.interfaces import as_flow_map
from flowmap.testing.backbones.subject import KINDS, BackboneSubject, weights_of
from flowmap.testing.check import Laws
from flowmap.testing.contract import require, require_equal, unchanged_rows, whole

LAWS = Laws("backbone")

_PLACES = {1.0: (0.0, 0.3, 0.6, 0.94), 0.5: (0.0, 0.15, 0.3, 0.44)}
"""At such a t the r of each sample, from where it goes a little on, and not to t, where a network may be another."""
_ON = 0.05
_FROM_ZERO = 0.02  # that of a discrete diffusion ends at 0.01
_TINY = 2.0**-14  # of a time
_LITTLE = 2.0**-13  # of a number: less than half of what bfloat16 and float16 tell apart


@LAWS.proven("A network depends on x.", "Velocity.velocity", after=("calls_repeat", "own_is_what_computes"))
def x_is_used(subject: BackboneSubject) -> None:
    """Every row of it."""
    _every_row(subject, lambda x, sign: x + 0.1 * sign, "must depend on x; at another x it says the same")


@LAWS.proven(
    "A network depends on every number of x.", "Velocity.velocity", after=("x_is_used", "own_is_what_is_trained")
)
def all_of_x_is_used(subject: BackboneSubject) -> None:
    """By the gradient, in one sample at least."""
    for kind in KINDS:
        role, x = subject.role(kind), subject.batch.x0.clone().requires_grad_()
        weights = whole(len(x)).normal("weights", tuple(x.shape[1:]))
        (subject.call(role.network, x=x) * weights).sum().backward()
        role.module.zero_grad(set_to_none=True)
        unread = torch.ones_like(x[0]) if x.grad is None else (x.grad == 0).all(dim=0)
        places = unread.nonzero().tolist()
        first = ", ".join(map(str, places[0])) if places else ""
        why = "is a channel or another part never read" if len(places) < unread.numel() else "is something detached"
        require(
            not places,
            f"{subject.called(kind)} must depend on every number of x; no gradient reaches {len(places)} of the "
            f"{unread.numel()} of a sample, the first x[:, {first}] ({why}?)",
        )


@LAWS.proven(
    "A network computes with x in float32, unless it runs under mixed precision.",
    "Velocity.velocity",
    after=("x_is_used", "results_are_not_rounded"),
)
def x_is_not_rounded(subject: BackboneSubject) -> None:
    """What bfloat16 and float16 cannot tell apart, float32 can."""
    how = (
        f"must compute with x in float32; what changes x by a relative {_LITTLE:.1g} changes nothing, as if x were "
        "rounded to bfloat16 or float16"
    )
    _every_row(
        subject, lambda x, sign: x.bfloat16().float() * (1 + _LITTLE * sign), how, lambda x: x.bfloat16().float()
    )


def _every_row(
    subject: BackboneSubject,
    change: Callable[[Tensor, Tensor], Tensor],
    how: str,
    start: Callable[[Tensor], Tensor] = torch.clone,
) -> None:
    """Require that the result changes with x, in every row. Signs are mixed, which no normalisation takes away."""
    x = subject.batch.x0
    sign = (1.0 - 2.0 * (torch.arange(x[0].numel()) % 2)).reshape(x.shape[1:])
    for kind in KINDS:
        same = unchanged_rows(subject.at(kind, x=change(x, sign)), subject.at(kind, x=start(x)))
        require(not same, f"{subject.called(kind)} {how} (in {same} of {len(x)} samples)")


@LAWS.proven(
    "A network takes times [B, F], and equal times in all frames are the same as times [B].",
    "Velocity.velocity",
    after=("calls_repeat",),
)
def frames_may_have_times(subject: BackboneSubject) -> None:
    """On the diagonal."""
    frames = subject.batch.x0.shape[1]
    for kind in KINDS:
        t = subject.t[:, None].expand(-1, frames)
        contract = (
            f"{subject.called(kind)} must take times [B, F], and equal times in all frames must be the same as times "
            "[B]"
        )
        require_equal(subject.at(kind, t=t, r=t), subject.at(kind, r=subject.t), contract)


@LAWS.proven(
    "A network depends on t.",
    "Velocity.velocity",
    equation="dx/dt = v(x, t): arXiv 2210.02747",
    after=("calls_repeat", "own_is_what_computes"),
)
def t_is_used(subject: BackboneSubject) -> None:
    """In every row; with two times at the same r."""
    t = torch.where(subject.t > 0.5, subject.t - 0.05, subject.t + 0.05)
    for kind in KINDS:
        same = unchanged_rows(subject.at(kind, t=t, r=0 * t), subject.at(kind, r=0 * t))
        require(
            not same,
            f"{subject.called(kind)} must depend on t; at times 0.05 away it says the same in {same} of {len(t)} "
            "samples",
        )


@LAWS.proven(
    "A flow map depends on r, unless its configuration says that it has one time: then not at all.",
    "FlowMap.mean_velocity, BackboneConfig.one_time",
    equation="u(x, t, r) = 1/(t - r) x the integral of v from r to t: arXiv 2505.13447, eq. 3",
    after=("t_is_used",),
)
def r_is_used(subject: BackboneSubject) -> None:
    """In every row that has r < t in one call and r = t in the other, and wherever r goes a little on; less from 0."""
    apart, who = subject.t != subject.r, subject.called("flow_map")
    jump, diagonal = (subject.at("flow_map", r=r)[apart] for r in (subject.r, subject.t))
    same = unchanged_rows(jump, diagonal)
    if subject.config.one_time:
        why = f"{who} must not depend on r, as its configuration says one_time"
        require(same == len(jump), f"{why}; it does in {len(jump) - same} of {len(jump)} samples")
    else:
        require(
            not same,
            f"{who} must depend on r; u(x, t, r) of `mean_velocity` is u(x, t, t) in {same} of {len(jump)} samples",
        )
        for time, places in _PLACES.items():
            t, r = torch.full_like(subject.t, time), torch.tensor(places)
            here, on = (subject.at("flow_map", t=t, r=at) for at in (r, r + _ON))
            still = [f"{place:g}" for place, a, b in zip(places, here, on, strict=True) if torch.equal(a, b)]
            require(
                not still,
                f"{who} must depend on r wherever it is; at t = {time:g}, u(x, t, r) of `mean_velocity` is the same at "
                f"r = {', '.join(still)} and at r {_ON:g} later (is r clamped?)",
            )
        here, on = (subject.at("flow_map", r=torch.full_like(subject.r, r)) for r in (0.0, _FROM_ZERO))
        same = unchanged_rows(here, on)
        require(
            not same,
            f"{who} must depend on r as far as 0, where most jumps end; u(x, t, r) of `mean_velocity` is the same at "
            f"r = {_FROM_ZERO:g} in {same} of {len(here)} samples (is r clamped?)",
        )


@LAWS.proven(
    "What a flow map has of a velocity reads t, and what it has beyond that reads r.",
    "Backbone.role",
    needs=("time_parameters",),
    after=("t_is_used", "r_is_used"),
)
def t_and_r_keep_their_places(subject: BackboneSubject) -> None:
    """With zeros for what is beyond, t alone is left."""
    role, velocity = subject.disturbed("flow_map"), subject.role("velocity")
    with torch.no_grad():
        for name in role.own.keys() - velocity.own.keys():
            role.own[name].zero_()
        here, later = (subject.call(role.network, t=t, r=0 * t) for t in (subject.t, 0.5 + 0.5 * subject.t))
    moving = subject.t < 1
    same = unchanged_rows(here[moving], later[moving])
    require(
        not same,
        f"{subject.called('flow_map')} must have t read by the parameters that it shares with a velocity; with those "
        "of r "
        f"at zero it does not depend on t in {same} of {int(moving.sum())} samples (are t and r swapped in "
        "`mean_velocity`? say "
        "time_parameters = False if it is meant so)",
    )


@LAWS.proven(
    "A network computes with its times in float32: they are not rounded.",
    "Velocity.velocity",
    after=("t_is_used", "r_is_used", "roles_share_nothing_of_their_own", "results_are_not_rounded"),
)
def times_are_not_rounded(subject: BackboneSubject) -> None:
    """Neither to whole thousandths nor to bfloat16, both of which leave a derivative of 0."""
    t = subject.t.clamp(max=0.9002)
    r = torch.where(subject.t > 0.5, 0.30021, 0.05021)  # away from 0, where noise schedules end
    for kind in KINDS:
        same = unchanged_rows(subject.at(kind, t=t - _TINY, r=r), subject.at(kind, t=t, r=r))
        require(not same, _rounded(subject.called(kind), "t", same, len(t)))
    if subject.config.one_time:
        return
    same = unchanged_rows(subject.at("flow_map", t=t, r=r + _TINY), subject.at("flow_map", t=t, r=r))
    require(not same, _rounded(subject.called("flow_map"), "r", same, len(t)))


def _rounded(who: str, time: str, same: int, count: int) -> str:
    return (
        f"{who} must compute with {time} as it is; what changes {time} by {_TINY:.1g} changes nothing in {same} of "
        f"{count} samples, "
        f"as if {time} were rounded (to whole thousandths? to bfloat16?), and a derivative in {time} is then 0"
    )


@LAWS.proven(
    "A flow map made from a velocity's weights equals it at r = t.",
    "Backbone.role",
    equation="u(x, t, t) = v(x, t): arXiv 2505.13447, eq. 3 as r goes to t",
    after=("t_is_used", "r_is_used", "weights_make_the_same_role", "misfits_are_refused"),
)
def student_starts_as_its_teacher(subject: BackboneSubject) -> None:
    """On the diagonal."""
    teacher = subject.role("velocity")
    student = as_flow_map(subject.backbone.role("critic", "flow_map", weights_of(teacher), whole(1, step=9)).network)
    with torch.no_grad():
        found = subject.call(student, r=subject.t)
    require_equal(
        found,
        subject.at("velocity"),
        f"a flow_map role of {subject.who} made from a velocity's weights must equal that velocity at r = t",
    )
