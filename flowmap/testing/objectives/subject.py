"""An objective under examination, and the record of a step of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor

from flowmap.interfaces import Batch, Cond, Loss, Objective, OneChunk, Role, Scene, Turn, World
from flowmap.maths.draw import Draw
from flowmap.plugin.kinds import ObjectiveConfig
from flowmap.schema.specs import StageFacts
from flowmap.testing import closed_form
from flowmap.testing.capabilities import Capabilities
from flowmap.testing.closed_form import Field, Rows
from flowmap.testing.contract import build_quietly, own_randomness_only, require, require_no_errors, whole
from flowmap.testing.examination import Subject

SHAPES = ((1, 2), (3, 2, 2, 2))

_BATCH = 12
_BACKWARDS = 0.1  # how far below r the t of a difference may be
_THETAS = ((0.3, 0.1, -0.2), (0.0, 0.0, 0.0), (-0.2, 0.1, 0.3), (0.1, -0.3, 0.2))


@final
@dataclass
class Taken:
    """What came of a turn: its losses, whether each could be differentiated, and the gradients of all roles."""

    role: str
    losses: list[Loss] = field(default_factory=list)
    undifferentiated: list[str] = field(default_factory=list)
    gradients: dict[str, list[Tensor]] = field(default_factory=dict)
    changed: bool = False
    asked: list[Tensor] = field(default_factory=list)
    """The x of every network call, and its t and r."""

    def values(self) -> dict[str, float]:
        """The losses by branch."""
        return {loss.branch: float(loss.value.detach().sum()) for loss in self.losses}


class ObjectiveSubject(Subject):
    """The objective that `config` builds, asked on networks whose right answer is known."""

    kind: ClassVar[str] = "objective"
    config: ObjectiveConfig

    def __init__(self, config: ObjectiveConfig, capabilities: Capabilities = Capabilities()) -> None:  # noqa: B008
        super().__init__(config, capabilities)
        self._steps: dict[tuple[tuple[int, ...], int], list[Taken]] = {}

    def found(self, name: str) -> bool:
        """See Subject.found."""
        if name == "plain_mean":
            world = AskedWorld()
            for shape in SHAPES:
                self.run(shape, self.draw(), world=world)
            return not world.asked
        if name == "guided":
            return "cfg_scale" in type(self.config).model_fields
        return name == "follows_the_flow"

    @cached_property
    def objective(self) -> Objective:
        """What the configuration builds."""
        group = self.config.group()
        require(group > 0, f"{self.who} must have groups of 1 sample at least, not of {group}")
        require_no_errors(self.config.findings(StageFacts(self.batch, conditional=True)), self.who)
        return build_quietly(self.config, self.config.build)

    @property
    def batch(self) -> int:
        """A dozen samples or a few more, in four groups at least."""
        group = self.config.group()
        return max(4, -(-_BATCH // group) // 4 * 4) * group

    def draw(self, step: int = 0) -> Draw:
        """The draw of a whole batch."""
        return self.many(self.batch, step)

    def many(self, count: int, step: int = 0) -> Draw:
        """The draw of `count` samples, or of a few more that are whole groups."""
        group = self.config.group()
        return whole(-(-count // group) * group, step, group)

    def step(self, shape: tuple[int, ...], step: int = 0) -> list[Taken]:
        """All turns of a step on fresh roles; remembered."""
        if (shape, step) not in self._steps:
            self._steps[shape, step] = self.run(shape, self.draw(step))
        return self._steps[shape, step]

    def turns(self) -> list[Taken]:
        """All turns of the first step, on samples of each shape."""
        return [taken for shape in SHAPES for taken in self.step(shape)]

    def run(
        self,
        shape: tuple[int, ...],
        draw: Draw,
        roles: Callable[[], dict[str, Role]] | None = None,
        data: Callable[[Tensor], Tensor] = torch.clone,
        world: AskedWorld | None = None,
    ) -> list[Taken]:
        """All turns of a step on fresh roles, with `draw`'s samples of it, in turn `data` of them."""
        made = (roles or self.roles)()
        return [
            self._take(index, turn, made, shape, draw, data, world) for index, turn in enumerate(self.objective.turns())
        ]

    def roles(self, thetas: Sequence[Sequence[float]] = _THETAS) -> dict[str, Role]:
        """Fresh roles with such errors, the student first; the networks of frozen ones are frozen."""
        roles: dict[str, Role] = {}
        for index, (name, spec) in enumerate(self.config.roles().items()):
            role = roles[name] = closed_form.role(name, spec.kind, thetas[index % len(thetas)])
            if not spec.trained:
                role.freeze()
            elif name == "student":
                # Not the parameters themselves, so that leaving the average in their place would show.
                role.average = {key: 0.5 * parameter.detach() for key, parameter in role.own.items()}
        return roles

    def _take(
        self,
        index: int,
        turn: Turn,
        roles: dict[str, Role],
        shape: tuple[int, ...],
        draw: Draw,
        data: Callable[[Tensor], Tensor],
        world: AskedWorld | None,
    ) -> Taken:
        mine = draw.child(f"{index}-{turn.role}")
        rows = torch.tensor(list(draw.rows))
        x0 = data(closed_form.points(mine.child("data"), shape))
        batch = Batch(x0, Rows(rows), Rows(rows - draw.total))
        scene = Scene(roles, batch, mine, OneChunk(), cast(World, world) or World())
        taken = Taken(turn.role)
        for role in roles.values():
            role.module.zero_grad(set_to_none=True)
            _field(role).asked = taken.asked
        before = _snapshot(roles, batch)
        for loss in turn.losses(scene):
            taken.losses.append(loss)
            if loss.value.ndim == 0 and loss.value.requires_grad:
                try:
                    loss.value.backward()
                except RuntimeError as error:
                    taken.undifferentiated.append(f"'{loss.branch}' cannot be differentiated: {error}")
        taken.changed = not all(map(torch.equal, before, _snapshot(roles, batch)))
        for name, role in roles.items():
            taken.gradients[name] = [p.grad.clone() for p in role.own.values() if p.grad is not None]
        return taken


@final
class AskedWorld:
    """A World of one process that knows whether it was asked for anything."""

    def __init__(self) -> None:
        self.asked = False
        self._world = World()

    def total(self, name: str, value: Tensor) -> Tensor:
        """See World.total."""
        self.asked = True
        return self._world.total(name, value)


def quietly(subject: ObjectiveSubject, shape: tuple[int, ...], step: int) -> list[Taken]:
    """A step, run anew; requires that no global generator is moved."""
    with own_randomness_only(subject.who):
        return subject.run(shape, subject.draw(step))


def lenient(roles: dict[str, Role]) -> dict[str, Role]:
    """The same roles, whose networks may be asked a little backwards, as a difference in t asks them."""
    for role in roles.values():
        _field(role).slack = _BACKWARDS
    return roles


def _field(role: Role) -> Field:
    assert isinstance(role.module, Field)
    return role.module


def _snapshot(roles: dict[str, Role], batch: Batch) -> list[Tensor]:
    tensors = [batch.x0]
    for role in roles.values():
        tensors += [*role.own.values(), *role.average.values()]
    return [tensor.detach().clone() for tensor in tensors]


def rows_of(cond: Cond) -> Any:
    """The rows of a condition, if it has some."""
    return cond.rows if isinstance(cond, Rows) else None
