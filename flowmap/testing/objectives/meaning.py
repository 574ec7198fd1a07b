"""Where an objective leads, and what it costs on the way."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flowmap.interfaces import Batch, OneChunk, Scene, World
from flowmap.planning.events import EventLog
from flowmap.planning.stand_ins import CountedChunks, StandInCond, stand_in
from flowmap.testing.check import Laws
from flowmap.testing.closed_form import Field
from flowmap.testing.contract import require
from flowmap.testing.objectives.subject import SHAPES, ObjectiveSubject, lenient
from flowmap.training.ledger import Ledger

LAWS = Laws("objective")

_MANY = 1024
_SHAPE = (1, 2)
_ERROR = (0.1, 0.1, 0.0)
_AWAY = -0.2
"""The cosine between a gradient and the error, below which the error grows; 1 leads straight back."""
_VERY_MANY, _LATE = 2**16, 10**6
_DRIVEN = 0.12
_HALF = 0.6


@LAWS.proven(
    "It leads to the flow map: a trained network that is a little off, with all else exact, is not driven further off.",
    "Objective",
    equation="the flow of dx/dt = v(x, t) is known in closed form for Gaussian data",
    needs=("follows_the_flow",),
    after=("gradients_reach_their_role", "losses_are_scalars"),
)
def leads_to_the_flow(subject: ObjectiveSubject) -> None:
    """By errors of both signs, so that the noise of the samples cancels."""
    for name in sorted({turn.role for turn in subject.objective.turns()}):
        there, back = (_gradient(subject, name, sign) for sign in (1, -1))
        cosine = _cosine(there - back, torch.tensor(_ERROR))
        require(
            cosine > _AWAY,
            f"{subject.who} must lead to the flow map; it drives a '{name}' that is {max(_ERROR):g} off further away: "
            f"the cosine of its gradient with the error is {cosine:.2f} (is a sign wrong? say follows_the_flow = "
            "False if it leads elsewhere)",
        )


@LAWS.proven(
    "It stays at the flow map: a trained network that is exact, with all else exact, is driven nowhere.",
    "Objective",
    equation="the flow of dx/dt = v(x, t) is known in closed form for Gaussian data",
    needs=("follows_the_flow",),
    after=("leads_to_the_flow", "steps_draw_anew"),
)
def stays_at_the_flow(subject: ObjectiveSubject) -> None:
    """Late in training, when what begins slowly has begun; the noise of so many samples is what is left."""
    for name in sorted({turn.role for turn in subject.objective.turns()}):
        here, there, back = (_gradient(subject, name, sign, _VERY_MANY, _LATE) for sign in (0, 1, -1))
        share = float(here.norm() / ((there - back) / 2).norm().clamp(min=1e-12))
        require(
            share < _DRIVEN,
            f"{subject.who} must stay at the flow map; it drives an exact '{name}' away, by a gradient {share:.2f} "
            f"times that of a network which is {max(_ERROR):g} off (is a sign, a weight or a time wrong? say "
            "follows_the_flow = False if it leads elsewhere)",
        )


@LAWS.proven(
    "What is trained is trained with the condition, and without it for half of the samples at most.",
    "Batch.cond, Batch.null",
    after=("losses_are_scalars", "steps_draw_anew"),
)
def training_is_with_the_condition(subject: ObjectiveSubject) -> None:
    """Counted in the network calls that are differentiated; dropped conditions are without."""
    made = lenient(subject.roles())
    subject.run(_SHAPE, subject.many(_MANY), lambda: made)
    for name, role in made.items():
        assert isinstance(role.module, Field)
        asked, nothing = role.module.differentiated
        require(
            nothing <= _HALF * (asked + nothing),
            f"{subject.who} must train '{name}' with the condition; {nothing} of the {asked + nothing} samples that it "
            "is differentiated at have the null one",
        )


def _gradient(subject: ObjectiveSubject, name: str, sign: int, many: int = _MANY, step: int = 0) -> Tensor:
    """The gradient of the role that is off; with a student so are those that are trained to follow it."""
    specs = subject.config.roles()
    off = {other for other, spec in specs.items() if other == name or (name == "student" and spec.trained)}
    errors = [tuple(sign * (role in off) * e for e in _ERROR) for role in specs]
    draw = subject.many(many, step)
    zero = torch.zeros(len(_ERROR))
    turns = subject.run(_SHAPE, draw, lambda: lenient(subject.roles(errors)))
    return sum((torch.cat(t.gradients[name]) for t in turns if t.role == name and t.gradients[name]), zero)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()).clamp(min=1e-12))


@LAWS.proven(
    "It makes the calls that `flowmap plan` counts, whatever the networks say.",
    "Objective.turns",
    after=("losses_are_scalars", "graphs_are_their_own", "turns_change_nothing", "frozen_roles_stay_frozen"),
)
def plan_counts_its_calls(subject: ObjectiveSubject) -> None:
    """On networks that compute nothing, as the plan counts, and on others."""
    for shape in SHAPES:
        made, counted = _calls(subject, shape, real=True), _calls(subject, shape, real=False)
        for role, number in made.items():
            require(
                number == counted[role],
                f"{subject.who} must make the calls that are planned: of '{role}' it makes {_said(number)}, and "
                f"`flowmap plan` counts {_said(counted[role])} (do calls depend on what networks say?)",
            )


def _calls(subject: ObjectiveSubject, shape: tuple[int, ...], real: bool) -> Mapping[str, tuple[int, int]]:
    """Calls and samples of each role in a step."""
    draw, log, needed = subject.draw(), EventLog(), subject.config.roles()
    roles = subject.roles() if real else {n: stand_in(n, spec.kind, log, spec.trained) for n, spec in needed.items()}
    ledger = Ledger()
    watched = ledger.watch(roles.values(), [name for name, spec in needed.items() if spec.trained])
    chunks = OneChunk() if real else CountedChunks(OneChunk())
    for index, turn in enumerate(subject.objective.turns()):
        mine = draw.child(f"{index}-{turn.role}")
        x0 = mine.normal("data", shape) if real else torch.zeros(draw.count, shape[0], 1)
        cond = StandInCond()
        for loss in turn.losses(Scene(watched, Batch(x0, cond, cond), mine, chunks, World())):
            loss.value.backward()
    return {name: (c.grad + c.no_grad, c.grad_samples + c.no_grad_samples) for name, c in ledger.calls.items()}


def _said(number: tuple[int, int]) -> str:
    return f"{number[0]} calls with {number[1]} samples"
