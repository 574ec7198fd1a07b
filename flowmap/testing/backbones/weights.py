"""What a role owns, and how it is made from weights."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Role
from flowmap.plugin.blame import said_of
from flowmap.schema.words import NetworkKind
from flowmap.testing.backbones.subject import KINDS, BackboneSubject, disturb, weights_of
from flowmap.testing.check import Laws
from flowmap.testing.contract import own_randomness_only, require, whole

LAWS = Laws("backbone")

_NAMES = 4
"""Of a role's parameters so many are left out and misshapen, one at a time: a role is made anew for each."""


@LAWS.proven(
    "A role owns parameters, all of which can be trained until it is frozen.", "Role", after=("roles_are_as_asked",)
)
def own_can_be_trained(subject: BackboneSubject) -> None:
    """At least one."""
    for kind in KINDS:
        role, who = subject.role(kind), subject.called(kind)
        require(bool(role.own), f"{who} owns no parameters")
        frozen = [name for name, parameter in role.own.items() if not parameter.requires_grad]
        require(not frozen, f"{who} must be trainable until it is frozen; {_listed(frozen)} are not")


@LAWS.proven(
    "A role owns every parameter that a gradient of its network reaches, and a gradient reaches some.",
    "Role",
    after=("networks_keep_the_shape", "own_can_be_trained"),
)
def own_is_what_is_trained(subject: BackboneSubject) -> None:
    """What the optimiser gets is what learns."""
    for kind in KINDS:
        role, who = subject.role(kind), subject.called(kind)
        role.module.zero_grad(set_to_none=True)
        result = subject.call(role.network)
        require(
            result.requires_grad,
            f"no gradient reaches the own parameters of {who}: its result has none (no_grad? detach?)",
        )
        result.square().sum().backward()
        # The module may be shared with other roles, whose own parameters this one's calls never reach.
        owned = {id(parameter) for parameter in role.own.values()}
        named = [(name, p) for name, p in role.module.named_parameters() if p.grad is not None]
        missing = [name for name, parameter in named if id(parameter) not in owned]
        reached = any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in role.own.values())
        role.module.zero_grad(set_to_none=True)
        require(not missing, f"{who} must own every parameter that it trains; {_listed(missing)} are not in own")
        require(reached, f"no gradient reaches the own parameters of {who}")


@LAWS.proven(
    "A network computes with what its role owns, averaged within `averaged` and trained again after it.",
    "Role.averaged",
    after=("calls_repeat", "own_is_what_is_trained"),
)
def own_is_what_computes(subject: BackboneSubject) -> None:
    """An average of zeros."""
    for kind in KINDS:
        role, who = subject.role(kind), subject.called(kind)
        before = subject.at(kind)
        role.average = {name: torch.zeros_like(parameter) for name, parameter in role.own.items()}
        try:
            with role.averaged():
                averaged = subject.at(kind)
        finally:
            role.average = {}
        changed = not torch.equal(averaged, before)
        require(changed, f"{who} must compute with its own parameters; its average changes nothing")
        require(torch.equal(subject.at(kind), before), f"{who} must be the same after its average was used")


@LAWS.proven(
    "Base weights are the same for the same draw, and random numbers come from that draw alone.",
    "Backbone.role",
    after=("roles_are_as_asked",),
)
def base_weights_are_drawn(subject: BackboneSubject) -> None:
    """No global generator, no state."""
    for kind in KINDS:
        who = subject.called(kind)
        with own_randomness_only(who):
            first = weights_of(subject.fresh(kind))
        second = weights_of(subject.fresh(kind))
        other = [name for name in first if not torch.equal(first[name], second.get(name, torch.empty(0)))]
        require(not other, f"the base weights of {who} must be the same for the same draw; {_listed(other)} are not")


@LAWS.proven(
    "A role made from the weights of another computes exactly the same, by the same names.",
    "Backbone.role",
    after=("calls_repeat", "own_is_what_computes", "base_weights_are_drawn"),
)
def weights_make_the_same_role(subject: BackboneSubject) -> None:
    """To the bit."""
    for kind in KINDS:
        weights, who = weights_of(subject.role(kind)), subject.called(kind)
        again = subject.backbone.role("critic", kind, weights, whole(1, step=9))
        names = sorted(again.own.keys() ^ weights.keys())
        require(
            not names, f"{who} must own the same names when it is made from weights; {_listed(names)} are in one only"
        )
        with torch.no_grad():
            same = torch.equal(subject.call(again.network), subject.at(kind))
        require(same, f"{who} made from another's own parameters must compute exactly the same")


@LAWS.proven(
    "A role copies the weights that it is made from.",
    "Backbone.role",
    after=("base_weights_are_drawn", "own_is_what_is_trained"),
)
def weights_are_copied(subject: BackboneSubject) -> None:
    """Training it does not change them."""
    for kind in KINDS:
        weights = weights_of(subject.role(kind))
        again = subject.backbone.role("critic", kind, weights, whole(1, step=9))
        _overwrite(again)
        before = weights_of(subject.role(kind))
        changed = [name for name, value in weights.items() if not torch.equal(before[name], value)]
        require(
            not changed,
            f"{subject.called(kind)} must copy the weights it is made from; training it changes {_listed(changed)}",
        )


@LAWS.proven(
    "Two roles share no parameters of their own.",
    "Role",
    after=("calls_repeat", "own_is_what_computes", "base_weights_are_drawn"),
)
def roles_share_nothing_of_their_own(subject: BackboneSubject) -> None:
    """Changing one leaves the other."""
    for kind in KINDS:
        before = subject.at(kind)
        _overwrite(subject.fresh(kind))
        same = torch.equal(subject.at(kind), before)
        require(
            same, f"two {kind} roles of {subject.who} must not share own parameters; changing one changed the other"
        )


@LAWS.proven(
    "Weights that lack a parameter, or have one too many or of another shape, are refused with a FlowmapError.",
    "Backbone.role",
    after=("base_weights_are_drawn",),
)
def misfits_are_refused(subject: BackboneSubject) -> None:
    """A few parameters, drawn at random, the same every time."""
    for kind in KINDS:
        weights, who = weights_of(subject.role(kind)), subject.called(kind)
        names = random.Random(0).sample(sorted(weights), min(_NAMES, len(weights)))
        for name in names:
            others = {key: tensor for key, tensor in weights.items() if key != name}
            _refused(subject, kind, others, f"{who} must refuse weights without '{name}'")
            odd = {**others, name: torch.zeros((*weights[name].shape, 2))}
            _refused(subject, kind, odd, f"{who} must refuse weights whose '{name}' has another shape")
        odd = {**weights, "no.such.parameter": torch.zeros(1)}
        _refused(subject, kind, odd, f"{who} must refuse weights with a parameter that it does not have")


def _refused(subject: BackboneSubject, kind: NetworkKind, weights: dict[str, Tensor], contract: str) -> None:
    """Require a FlowmapError."""
    try:
        subject.backbone.role("critic", kind, weights, whole(1))
    except FlowmapError:
        return
    except Exception as error:
        raise AssertionError(f"{contract} with a FlowmapError, not {said_of(error, subject.config)}") from error
    raise AssertionError(contract)


@LAWS.proven(
    "Roles on one base leave each other's graphs alone: a gradient is the same, whoever is called before it.",
    "Role",
    needs=("adapters",),
    after=("own_is_what_is_trained", "roles_share_nothing_of_their_own"),
)
def roles_do_not_get_in_the_way(subject: BackboneSubject) -> None:
    """Another role is called between a forward and its backward."""
    role, other = subject.role("flow_map"), subject.disturbed("flow_map")
    _overwrite(other)
    alone = _gradient(subject, role)
    among = _gradient(subject, role, between=other)
    off = [name for name in alone if not torch.allclose(alone[name], among[name], rtol=1e-4, atol=1e-6)]
    require(
        not off,
        f"a gradient of one role of {subject.who} must not depend on another role that is called before its "
        f"backward; those of {_listed(off)} do (is recomputation done as the role of the call?)",
    )


def _gradient(subject: BackboneSubject, role: Role, between: Role | None = None) -> dict[str, Tensor]:
    role.module.zero_grad(set_to_none=True)
    loss = subject.call(role.network).square().sum()
    if between is not None:
        with torch.no_grad():
            subject.call(between.network)
    loss.backward()
    found = {name: p.grad.clone() for name, p in role.own.items() if p.grad is not None}
    role.module.zero_grad(set_to_none=True)
    return found


def _overwrite(role: Role) -> None:
    """Change all that a role owns, as training does."""
    disturb(role)
    with torch.no_grad():
        for parameter in role.own.values():
            parameter.add_(0.5)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
