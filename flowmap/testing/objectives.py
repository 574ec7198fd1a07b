"""The contract of objectives."""

from __future__ import annotations

import torch
from torch import Tensor

from flowmap.interfaces import Batch, Loss, Objective, OneChunk, Role, Scene, Turn, World
from flowmap.plugin.kinds import ObjectiveConfig
from flowmap.schema.specs import StageFacts
from flowmap.testing import closed_form
from flowmap.testing.closed_form import Rows
from flowmap.testing.contract import build_quietly, check_config, own_randomness_only, require, require_no_errors, whole

_BATCH = 12
_STEPS = 100_000  # within which every turn is taken at least once
_SHAPES = ((1, 2), (3, 2, 2, 2))
_THETAS = ((0.3, 0.1, -0.2), (0.0, 0.0, 0.0), (-0.2, 0.1, 0.3), (0.1, -0.3, 0.2))


def check_objective(config: ObjectiveConfig) -> None:
    """Check the objective that `config` builds; raises AssertionError with what is broken.

    It has a student; every trained role has a turn and every turn trains a trained role. Losses are finite
    scalars with a gradient that reaches the turn's role and no frozen one, each can be differentiated before
    the next is asked for, and branches have names of their own. What it yields depends on the scene alone; it
    changes neither parameters, nor their average, nor the batch; and conditions stay in step with samples.
    """
    check_config(config)
    require(config.group() > 0, f"'{config.type}' must have groups of 1 sample at least, not of {config.group()}")
    require_no_errors(config.findings(StageFacts(_batch(config), conditional=True)), f"'{config.type}'")
    objective = build_quietly(config, config.build)
    _check_turns(config, objective)
    for shape in _SHAPES:
        with own_randomness_only(f"'{config.type}'"):
            first, again = (_step(config, objective, shape, step=0) for _ in range(2))
        require(first == again, f"'{config.type}' must yield the same losses for the same scene")
        with own_randomness_only(f"'{config.type}'"):
            other = _step(config, objective, shape, step=1)
        require(first != other, f"'{config.type}' must draw anew at every step")


def _check_turns(config: ObjectiveConfig, objective: Objective) -> None:
    roles = config.roles()
    require("student" in roles, f"'{config.type}' must have a role 'student', the network that a stage exists for")
    require(roles["student"].trained, f"'{config.type}' must train its student")
    trained = {name for name, spec in roles.items() if spec.trained}
    turns = objective.turns()
    taken = {turn.role for turn in turns}
    require(taken <= trained, f"'{config.type}' takes turns of {sorted(taken - trained)}, which it does not train")
    require(trained <= taken, f"'{config.type}' says it trains {sorted(trained - taken)}, but takes no turn of them")
    for turn in turns:
        idle = not any(map(turn.taken, range(_STEPS)))
        require(not idle, f"'{config.type}' takes no turn of its '{turn.role}' in {_STEPS:,} steps")


def _batch(config: ObjectiveConfig) -> int:
    """A dozen samples or a few more, in two groups at least."""
    return max(2, -(-_BATCH // config.group())) * config.group()


def _step(config: ObjectiveConfig, objective: Objective, shape: tuple[int, ...], step: int) -> dict[str, float]:
    """Take every turn of one step on fresh roles; the losses by branch."""
    roles = _roles(config)
    values: dict[str, float] = {}
    for index, turn in enumerate(objective.turns()):
        for branch, value in _take(config, turn, roles, shape, step, index).items():
            require(branch not in values, f"'{config.type}' has two losses called '{branch}' in one step")
            values[branch] = value
    return values


def _roles(config: ObjectiveConfig) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for index, (name, spec) in enumerate(config.roles().items()):
        role = roles[name] = closed_form.role(name, spec.kind, _THETAS[index % len(_THETAS)])
        if not spec.trained:
            role.freeze()
        elif name == "student":
            # Not the parameters themselves, so that leaving the average in their place would show.
            role.average = {key: 0.5 * parameter.detach() for key, parameter in role.own.items()}
    return roles


def _take(
    config: ObjectiveConfig, turn: Turn, roles: dict[str, Role], shape: tuple[int, ...], step: int, index: int
) -> dict[str, float]:
    count = _batch(config)
    draw = whole(count, step, config.group()).child(f"{index}-{turn.role}")
    rows = torch.arange(count)
    batch = Batch(closed_form.points(draw.child("data"), shape), Rows(rows), Rows(rows - count))
    scene = Scene(roles, batch, draw, OneChunk(), World())
    for role in roles.values():
        role.module.zero_grad(set_to_none=True)
    before = _snapshot(roles, batch)
    values: dict[str, float] = {}
    try:
        for loss in turn.losses(scene):
            _check_loss(config, loss)
            require(loss.branch not in values, f"'{config.type}' has two losses called '{loss.branch}' in one step")
            values[loss.branch] = float(loss.value.detach())
            _differentiate(config, loss)
    except KeyError as error:
        raise AssertionError(f"'{config.type}' uses the role {error}, which it does not declare") from error
    require(bool(values), f"the turn of '{turn.role}' of '{config.type}' yields no loss")
    same = all(torch.equal(a, b) for a, b in zip(before, _snapshot(roles, batch), strict=True))
    require(same, f"'{config.type}' must change neither the batch nor parameters nor their average; the optimiser does")
    _check_gradients(config, turn, roles)
    return values


def _differentiate(config: ObjectiveConfig, loss: Loss) -> None:
    try:
        loss.value.backward()
    except RuntimeError as error:
        raise AssertionError(
            f"every loss of '{config.type}' needs a graph of its own, which is freed before the next is asked for; "
            f"'{loss.branch}' cannot be differentiated: {error}"
        ) from error


def _snapshot(roles: dict[str, Role], batch: Batch) -> list[Tensor]:
    tensors = [batch.x0]
    for role in roles.values():
        tensors += [*role.own.values(), *role.average.values()]
    return [tensor.detach().clone() for tensor in tensors]


def _check_loss(config: ObjectiveConfig, loss: Loss) -> None:
    who = f"the loss '{loss.branch}' of '{config.type}'"
    require(loss.value.ndim == 0, f"{who} must be a scalar, not {list(loss.value.shape)}")
    require(bool(loss.value.isfinite()), f"{who} must be finite")
    require(loss.value.requires_grad, f"{who} has no gradient")
    for name, value in loss.raw.items():
        good = not value.requires_grad and value.ndim <= 1
        require(good, f"the raw number '{name}' of {who} must be detached, a scalar or one number a sample")


def _check_gradients(config: ObjectiveConfig, turn: Turn, roles: dict[str, Role]) -> None:
    specs = config.roles()
    for name, role in roles.items():
        gradients = [parameter.grad for parameter in role.own.values() if parameter.grad is not None]
        if name == turn.role:
            reached = any(bool(gradient.any()) for gradient in gradients)
            require(reached, f"no gradient of '{config.type}' reaches '{name}' in its own turn")
        elif not specs[name].trained:
            require(not gradients, f"'{config.type}' says that '{name}' is frozen, but gives it a gradient")
