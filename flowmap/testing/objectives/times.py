"""At which pairs of times an objective trains flow maps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowmap.schema.specs import RoleSpec
from flowmap.testing.check import Laws
from flowmap.testing.closed_form import Field
from flowmap.testing.contract import require
from flowmap.testing.objectives.subject import SHAPES, ObjectiveSubject, lenient

LAWS = Laws("objective")

_MANY, _LATE = 1024, 10**6
_NEAR = 0.02  # of a time: as good as there
_FEW = 0.01  # of the samples
_GRID = 0.1  # of the samples: as many times may one grid have


def _trained(subject: ObjectiveSubject) -> Iterator[tuple[str, RoleSpec, Tensor, Tensor]]:
    """The flow maps that are trained, each with the t and r `[K]` of the samples that a gradient comes from."""
    roles = lenient(subject.roles())
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, role in roles.items():
        assert isinstance(role.module, Field)
        found[name] = role.module.trained_at = [(torch.zeros(0), torch.zeros(0))]
    # Late in training, when what begins slowly has begun.
    subject.run(SHAPES[0], subject.many(_MANY, _LATE), lambda: roles)
    for name, spec in subject.config.roles().items():
        if spec.kind == "flow_map" and spec.trained:
            t, r = (torch.cat(times) for times in zip(*found[name], strict=True))
            yield name, spec, t, r


@LAWS.proven(
    "A flow map is trained at r between 0 and t; one whose role says `to_data`, at r = 0 or along one grid alone.",
    "RoleSpec.to_data",
    equation="u(x, t, r) = 1/(t - r) x the integral of v from r to t: arXiv 2505.13447, eq. 3",
    after=("gradients_reach_their_role", "frozen_roles_stay_frozen", "steps_draw_anew"),
)
def jumps_are_trained_as_said(subject: ObjectiveSubject) -> None:
    """Counted where gradients come from."""
    for name, spec, t, r in _trained(subject):
        between = r[(r > _NEAR) & (r < t - _NEAR)]
        if not spec.to_data:
            require(
                len(between) >= _FEW * len(t),
                f"{subject.who} must train '{name}' at r between 0 and t, as a map between any two times; it does in "
                f"{len(between)} of {len(t)} samples (does it learn to jump to r = 0 alone? then let its role say "
                "to_data = True)",
            )
            continue
        times = len(between.unique())
        require(
            times <= _GRID * len(t),
            f"the role '{name}' of {subject.who} says to_data, that it learns to jump to r = 0 or along one grid "
            f"alone; it is trained at {times} times r between 0 and t, so let it say to_data = False",
        )


@LAWS.proven(
    "A flow map whose role says `diagonal` is trained at r = t as well, where it is the velocity.",
    "RoleSpec.diagonal",
    equation="u(x, t, t) = v(x, t): arXiv 2505.13447, eq. 3 as r goes to t",
    after=("jumps_are_trained_as_said",),
)
def velocities_are_trained_as_said(subject: ObjectiveSubject) -> None:
    """Or near it."""
    for name, spec, t, r in _trained(subject):
        near = int(((t - r < _NEAR) & (t > 2 * _NEAR)).sum())
        require(
            near >= _FEW * len(t) or not spec.diagonal,
            f"{subject.who} must train '{name}' at r = t, where it is the velocity that velocity samplers follow; it "
            f"does in {near} of {len(t)} samples (does it learn jumps alone? then let its role say diagonal = False)",
        )
