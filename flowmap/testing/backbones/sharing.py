"""What has to hold for networks that are sharded over several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from flowmap.testing.backbones.subject import KINDS, BackboneSubject
from flowmap.testing.check import Laws
from flowmap.testing.contract import require

LAWS = Laws("backbone")


@LAWS.proven(
    "A network computes by calling its module, so that the module can be sharded.",
    "Role",
    after=("networks_keep_the_shape",),
)
def calls_go_through_the_module(subject: BackboneSubject) -> None:
    """Seen by a hook, as FSDP has them."""
    for kind in KINDS:
        role = subject.role(kind)
        with _called([role.module]) as called:
            subject.at(kind)
        require(
            bool(called),
            f"{subject.called(kind)} must compute by calling its module, `role.module(...)`; hooks on it, as of "
            "FSDP, do not run",
        )


@LAWS.proven(
    "The units of a role are parts of its module, which compute by being called.",
    "Role",
    needs=("sharded",),
    after=("calls_go_through_the_module", "own_is_what_is_trained"),
)
def units_are_called(subject: BackboneSubject) -> None:
    """Units whose parameters a gradient reaches have been called."""
    for kind in KINDS:
        role, who = subject.role(kind), subject.called(kind)
        parts = {id(part) for part in role.module.modules()}
        strange = sum(id(unit) not in parts for unit in role.units)
        require(not strange, f"the units of {who} must be parts of its module; {strange} of {len(role.units)} are not")
        role.module.zero_grad(set_to_none=True)
        with _called(role.units) as called:
            subject.call(role.network).square().sum().backward()
        past = sum(id(unit) not in called and any(p.grad is not None for p in unit.parameters()) for unit in role.units)
        role.module.zero_grad(set_to_none=True)
        require(
            not past,
            f"the units of {who} must compute by being called, `unit(...)`; {past} of {len(role.units)} do not, and "
            "would not be gathered where they are sharded",
        )


@contextmanager
def _called(modules: Any) -> Iterator[set[int]]:
    """Within this context the set fills with the ids of those of `modules` that are called."""
    called: set[int] = set()

    def note(module: nn.Module, arguments: Any) -> None:
        called.add(id(module))

    handles = [module.register_forward_pre_hook(note) for module in modules]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()
