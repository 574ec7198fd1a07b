"""What the networks of a backbone compute, whatever the times and the condition."""

from __future__ import annotations

import torch

from flowmap.interfaces import FlowMap
from flowmap.testing.backbones.subject import KINDS, BackboneSubject
from flowmap.testing.check import Laws
from flowmap.testing.contract import own_randomness_only, require, require_equal, require_like

LAWS = Laws("backbone")


@LAWS.proven(
    "A role has the name and the kind of network that was asked for.",
    "Backbone.role",
    after=("encodes_into_model_space",),
)
def roles_are_as_asked(subject: BackboneSubject) -> None:
    """Both kinds."""
    for kind in KINDS:
        role, who = subject.fresh(kind, "critic"), subject.called(kind)
        require(role.name == "critic", f"{who} must have the name that was asked for, 'critic', not '{role.name}'")
        right = isinstance(role.network, FlowMap) == (kind == "flow_map")
        require(right, f"{who} has a network of the wrong kind, {type(role.network).__name__}")


@LAWS.proven(
    "A network gives finite float32 of the shape of its x.",
    "Velocity.velocity, FlowMap.mean_velocity",
    after=("roles_are_as_asked",),
)
def networks_keep_the_shape(subject: BackboneSubject) -> None:
    """Both kinds."""
    for kind in KINDS:
        require_like(subject.at(kind), tuple(subject.batch.x0.shape), f"the result of {subject.called(kind)}")


@LAWS.proven(
    "A network's result is not rounded: it computes in float32, unless it runs under mixed precision.",
    "Velocity.velocity, FlowMap.mean_velocity",
    after=("networks_keep_the_shape",),
)
def results_are_not_rounded(subject: BackboneSubject) -> None:
    """Some number of it is none of bfloat16 or float16."""
    for kind in KINDS:
        found = subject.at(kind)
        for dtype in (torch.bfloat16, torch.float16):
            rounded = bool(found.any()) and torch.equal(found.to(dtype).float(), found)
            name = str(dtype).removeprefix("torch.")
            require(
                not rounded,
                f"the result of {subject.called(kind)} must be computed in float32; every number of it is one of "
                f"{name}, as if the result were made in {name} (is it cast, or made by a layer of {name}?)",
            )


@LAWS.proven(
    "A network leaves x and its times as they are given.",
    "Velocity.velocity, FlowMap.mean_velocity",
    after=("networks_keep_the_shape",),
)
def arguments_are_left_alone(subject: BackboneSubject) -> None:
    """Not in place."""
    for kind in KINDS:
        x, t, r, cond = subject.batch.x0.clone(), subject.t.clone(), subject.r.clone(), subject.batch.cond
        network = subject.role(kind).network
        with torch.no_grad():
            network.mean_velocity(x, t, r, cond) if isinstance(network, FlowMap) else network.velocity(x, t, cond)
        for name, given, before in (("x", x, subject.batch.x0), ("t", t, subject.t), ("r", r, subject.r)):
            require(
                torch.equal(given, before),
                f"{subject.called(kind)} must leave the {name} that it is given as it is; it changes it in place",
            )


@LAWS.proven(
    "A network draws no random number from a global generator.", "Velocity.velocity", after=("networks_keep_the_shape",)
)
def calls_draw_nothing(subject: BackboneSubject) -> None:
    """However small."""
    for kind in KINDS:
        with own_randomness_only(f"a call of {subject.called(kind)}"):
            subject.at(kind)


@LAWS.proven("A network gives the same when it is called again.", "Velocity.velocity", after=("calls_draw_nothing",))
def calls_repeat(subject: BackboneSubject) -> None:
    """To the bit."""
    for kind in KINDS:
        same = torch.equal(subject.at(kind), subject.at(kind))
        require(
            same,
            f"{subject.called(kind)} must give the same when it is called again (dropout? a buffer that a call "
            "changes?)",
        )


@LAWS.proven(
    "What a network gives for one sample does not depend on the others.",
    "Velocity.velocity",
    after=("calls_repeat", "results_are_not_rounded"),
)
def samples_are_alone(subject: BackboneSubject) -> None:
    """Others are changed."""
    others = subject.batch.x0.clone()
    others[1:] += 1
    for kind in KINDS:
        alone, among = subject.at(kind)[:1], subject.at(kind, x=others)[:1]
        require_equal(
            among, alone, f"the result of {subject.called(kind)} for one sample must not depend on the others"
        )
