"""What an objective makes of samples that are seen in parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from flowmap.interfaces import Cond, Role
from flowmap.maths.draw import Draw
from flowmap.testing.check import Laws
from flowmap.testing.closed_form import Field, Rows, network
from flowmap.testing.contract import require, require_own_names
from flowmap.testing.objectives.subject import SHAPES, ObjectiveSubject, Taken

LAWS = Laws("objective")

_SUMMED = 0.5  # of a value: a sum over a quarter of the samples is a quarter of the sum
_GRADIENT = 1e-3


def _parts(subject: ObjectiveSubject) -> list[Draw]:
    """What two processes take of a batch, in two micro-batches each."""
    draw = subject.draw()
    return [part for process in range(2) for part in draw.split(2, process, draw.total // 4)]


@LAWS.proven(
    "A loss is a mean over the samples of the scene.",
    "Loss.value",
    needs=("plain_mean",),
    after=("losses_are_scalars", "same_scene_same_losses"),
)
def losses_are_means(subject: ObjectiveSubject) -> None:
    """Not a sum: the mean of the losses of parts is the loss of the whole."""
    for shape in SHAPES:
        whole, parts = subject.step(shape), [subject.run(shape, part) for part in _parts(subject)]
        for index, taken in enumerate(whole):
            for branch, value in taken.values().items():
                found = sum(part[index].values().get(branch, 0.0) for part in parts) / len(parts)
                size = max(abs(value), abs(found))
                near = abs(value - found) <= _SUMMED * size + 1e-6
                require(
                    near,
                    f"the loss '{branch}' of {subject.who} must be a mean over its samples; of {subject.batch} "
                    f"samples it is {value:.3g}, and of quarters of them {found:.3g} on average (a sum?)",
                )


@LAWS.proven(
    "A gradient depends neither on the micro-batch nor on the number of processes.",
    "Scene, Draw",
    needs=("plain_mean",),
    after=("losses_are_means", "gradients_reach_their_role"),
)
def parts_add_up(subject: ObjectiveSubject) -> None:
    """The mean of the gradients of parts is that of the whole."""
    for shape in SHAPES:
        whole, parts = subject.step(shape), [subject.run(shape, part) for part in _parts(subject)]
        for index, taken in enumerate(whole):
            mine = torch.cat(taken.gradients[taken.role])
            found = _mean([part[index] for part in parts], mine)
            off = float((found - mine).norm() / mine.norm().clamp(min=1e-12))
            require(
                off <= _GRADIENT,
                f"the gradient of '{taken.role}' by {subject.who} must depend neither on the micro-batch nor on the "
                "processes; taken in four "
                f"parts it is {100 * off:.2g} % off (do samples see each other? ask the World for sums, or say "
                "plain_mean = False)",
            )


def _mean(parts: list[Taken], like: Tensor) -> Tensor:
    zero = torch.zeros_like(like)
    return sum(
        (torch.cat(part.gradients[part.role]) if part.gradients[part.role] else zero for part in parts), zero
    ) / len(parts)


@LAWS.proven(
    "What is drawn for two things has two names: under one name it is the same numbers.",
    "Draw",
    after=("losses_have_names",),
)
def names_are_drawn_once(subject: ObjectiveSubject) -> None:
    """Within a turn: normal numbers, uniform ones, integers, and what all samples share."""
    for shape in SHAPES:
        require_own_names(subject.who, subject.draw(), partial(subject.run, shape))


class _Marked(Field):
    """A field that knows one sample: it is not a number, and so is all that is made of it."""

    def __init__(self, theta: Sequence[float], row: int, total: int) -> None:
        super().__init__(theta)
        self.row, self.total = row, total
        self.strange: list[str] = []

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """See Field."""
        marked = x.detach().flatten(1).isnan().any(dim=1)
        if isinstance(cond, Rows) and len(cond.rows) == len(x):
            mine = (cond.rows == self.row) | (cond.rows == self.row - self.total)
            others = (marked & ~mine).nonzero()[:, 0].tolist()
            self.strange += [str(int(cond.rows[row]) % self.total) for row in others]
        u = super().forward(torch.where(x.isnan(), torch.zeros_like(x), x), t, r, cond)
        return torch.where(marked.reshape(-1, *(1,) * (x.ndim - 1)), u * torch.nan, u)


@LAWS.proven("Conditions stay in step with samples.", "Batch, Cond.take, Cond.join", after=("losses_have_names",))
def conditions_stay_with_samples(subject: ObjectiveSubject) -> None:
    """One sample is marked, and may be seen with its own condition only."""
    if subject.config.group() > 1:
        return  # samples of a group may be mixed
    draw = subject.draw()
    for shape in SHAPES:
        for row in (0, draw.total // 3):
            found = _strange(subject, shape, draw, row)
            require(
                not found,
                f"conditions of {subject.who} must stay in step with samples; a network was asked for sample {row} "
                f"under the condition of sample {found[0] if found else ''}",
            )


def _strange(subject: ObjectiveSubject, shape: tuple[int, ...], draw: Draw, row: int) -> list[str]:
    fields: list[_Marked] = []

    def roles() -> dict[str, Role]:
        made = subject.roles()
        for name, spec in subject.config.roles().items():
            field = _Marked(made[name].module.theta.tolist(), row, draw.total)  # type: ignore[operator]
            fields.append(field)
            role = Role(name, network(spec.kind, field), field, dict(field.named_parameters()))
            role.average = made[name].average
            if not spec.trained:
                role.freeze()
            made[name] = role
        return made

    def marked(x: Tensor) -> Tensor:
        x = x.clone()
        x[row] = torch.nan
        return x

    subject.run(shape, draw, roles, marked)
    return [strange for field in fields for strange in field.strange]
