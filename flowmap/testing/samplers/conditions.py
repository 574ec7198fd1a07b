"""Under which condition a sampler asks for each sample."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Cond
from flowmap.maths.path import grid, like
from flowmap.testing.check import Laws
from flowmap.testing.closed_form import Field, Rows
from flowmap.testing.contract import require, told_by_networks, whole
from flowmap.testing.samplers.subject import SHAPES, SamplerSubject

LAWS = Laws("sampler")

_COUNT, _STEPS = 5, 3
_SAME = 1e-4


@final
class _Conditioned(Field):
    """The exact field, and the number of each sample's condition; `without` are the calls that have none."""

    def __init__(self) -> None:
        super().__init__()
        self.without = 0

    def forward(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """See Field."""
        u = super().forward(x, t, r, cond)
        if not isinstance(cond, Rows):
            self.without += 1
            return u
        return u + like(cond.rows, x)


def _made(subject: SamplerSubject, shape: tuple[int, ...], rows: Tensor) -> tuple[Tensor, _Conditioned]:
    """What is made of the samples under the conditions `rows` `[5]`, and the field that was asked."""
    field, draw = _Conditioned(), whole(_COUNT)
    with told_by_networks(subject.who), torch.no_grad():
        return subject.run(draw.normal("start", shape), grid(_STEPS), draw, field, Rows(rows)), field


@LAWS.proven(
    "Every call has the condition that is given, and each sample its own row of it.",
    "Sampler.sample, Cond",
    after=("samples_are_alone",),
)
def conditions_stay_with_samples(subject: SamplerSubject) -> None:
    """A sample among others under theirs becomes what it becomes where all have its own."""
    rows = torch.linspace(-0.5, 0.5, _COUNT)
    for shape in SHAPES:
        among, field = _made(subject, shape, rows)
        require(
            not field.without,
            f"{subject.who} must pass the condition that it is given to every call of the network; {field.without} of "
            f"{field.calls} calls have none",
        )
        alike = torch.stack([_made(subject, shape, row.expand(_COUNT))[0][index] for index, row in enumerate(rows)])
        others = ((among - alike).abs() > _SAME * (1 + alike.abs())).flatten(1).any(dim=1).nonzero().flatten().tolist()
        require(
            not others,
            f"{subject.who} must ask for each sample under its own condition; what becomes of {len(others)} of "
            f"{_COUNT} samples goes by the conditions of others (is `cond` taken in another order than x?)",
        )
