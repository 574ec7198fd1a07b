"""Whether a backbone takes what it says."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from flowmap.plugin.footprint import CallShape, Footprint
from flowmap.testing.backbones.subject import COUNT, KINDS, NAMED, BackboneSubject
from flowmap.testing.check import Laws
from flowmap.testing.contract import require, whole

LAWS = Laws("backbone")

_FACTOR = 3


def _footprint(subject: BackboneSubject) -> Footprint:
    footprint = subject.config.footprint(subject.spec, "no")
    assert footprint is not None
    return footprint


@LAWS.proven(
    "A footprint counts the parameters that a role has, its own and those that it shares.",
    "Footprint.own, Footprint.base",
    needs=("footprint",),
    after=("own_can_be_trained",),
)
def footprint_counts_parameters(subject: BackboneSubject) -> None:
    """To the number."""
    footprint, backbone = _footprint(subject), subject.config.build(subject.spec)
    # Of a backbone with no other role, whose own parameters would be in a module that all share.
    roles = {kind: backbone.role(name, kind, None, whole(1)) for kind, name in NAMED.items()}
    for kind, role in roles.items():
        own, said = sum(parameter.numel() for parameter in role.own.values()), footprint.own(kind).count
        require(
            said == own,
            f"`footprint` of {subject.who} says that {subject.called(kind)} owns {said:,} parameters; it owns {own:,}",
        )
    owned = {id(parameter) for role in roles.values() for parameter in role.own.values()}
    one, two = ({id(p): p.numel() for p in role.module.parameters()} for role in roles.values())
    shared = sum(number for parameter, number in one.items() if parameter in two and parameter not in owned)
    said = footprint.base().count
    require(
        said == shared,
        f"`footprint` of {subject.who} says that roles share {said:,} parameters; they share {shared:,}",
    )


@LAWS.proven(
    "A footprint says what a call with gradient keeps until its backward, within a factor of 3.",
    "Footprint.held",
    needs=("footprint",),
    after=("own_is_what_is_trained", "windows_lie_in_the_frames"),
)
def footprint_counts_memory(subject: BackboneSubject) -> None:
    """Against the tensors that autograd keeps."""
    batch = subject.backbone.chunking().whole(subject.batch)
    shape = CallShape("whole", batch.x0.shape[1])
    for kind in KINDS:
        role = subject.role(kind)
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor, kept: dict[int, Tensor] = kept) -> Any:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            result = subject.call(role.network, cond=batch.cond)
        known = {p.untyped_storage().data_ptr() for p in (*role.module.parameters(), *role.module.buffers())}
        real = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in known)
        del result
        said = _footprint(subject).held(kind, shape, COUNT)
        # Texts may be longer than those of these samples, so more may be said.
        near = real <= _FACTOR * said and (subject.spec.text or said <= _FACTOR * real)
        require(
            near,
            f"`footprint` of {subject.who} says that a call of {subject.called(kind)} with {COUNT} samples keeps "
            f"{said:,} bytes until its backward; it keeps {real:,}",
        )
