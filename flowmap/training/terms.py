"""What an objective gives the loop: turns and their losses, or the refusal of what is neither."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Loss, Objective, Scene, Turn
from flowmap.plugin.answers import unfit
from flowmap.plugin.catalogue import whose
from flowmap.plugin.kinds import ObjectiveConfig


def turns_of(config: ObjectiveConfig, objective: Objective) -> tuple[Turn, ...]:
    """The turns of the `objective` that `config` made; raises FlowmapError if they are none of its trained roles."""
    found: object = objective.turns()
    if not (isinstance(found, tuple) and found and all(isinstance(turn, Turn) for turn in found)):
        raise unfit(whose(type(config)), "turns() returned", found, "a tuple of flowmap.interfaces.Turn")
    trained = [name for name, spec in config.roles().items() if spec.trained]
    for turn in found:
        if turn.role not in trained:
            wanted = f"one of the roles that are trained ({', '.join(trained)})"
            raise unfit(whose(type(config)), "turns() returned a turn of", turn.role, wanted)
    return found


def terms(config: ObjectiveConfig, turn: Turn, scene: Scene) -> Iterator[Loss]:
    """The losses of `turn`, one by one; raises FlowmapError if one is none, or cannot be differentiated."""
    found: object = turn.losses(scene)
    if not isinstance(found, Iterable):
        raise unfit(whose(type(config)), f"the losses of '{turn.role}' are", found, "an iterator of losses")
    for loss in found:
        if wrong := _wrong(loss, turn.role):
            raise unfit(whose(type(config)), *wrong)
        yield loss


def without_loss(config: ObjectiveConfig, turn: Turn) -> FlowmapError:
    """The error for a turn that gave no loss: its step would change nothing, and count as training."""
    return FlowmapError(
        f"{whose(type(config))} is at fault: the turn of '{turn.role}' yields no loss, so nothing would be learned; a "
        "turn of certain steps alone says so (Turn.taken)",
        1,
    )


def _wrong(loss: object, role: str) -> tuple[str, object, str] | None:
    """What is wrong with `loss`, in the words of `unfit`; None if nothing is."""
    if not isinstance(loss, Loss):
        return f"a loss of '{role}' is", loss, "a flowmap.interfaces.Loss"
    value: object = loss.value
    name = f"the value of the loss '{loss.branch}'"
    if not isinstance(value, Tensor):
        return f"{name} is", value, "a tensor"
    if value.ndim:
        return f"{name} has the shape", list(value.shape), "a scalar, []"
    if not value.requires_grad:
        return f"{name} has requires_grad", False, f"differentiable by the parameters of '{role}'"
    return _left(loss)


def _left(loss: Loss) -> tuple[str, object, str] | None:
    """What is wrong beside the value of `loss`."""
    if not torch.is_grad_enabled():
        return f"with the loss '{loss.branch}' torch.is_grad_enabled() is", False, "True, as the objective found it"
    raw: object = loss.raw
    if not (isinstance(raw, Mapping) and all(isinstance(one, Tensor) and one.ndim < 2 for one in raw.values())):
        return f"what is logged beside the loss '{loss.branch}' is", raw, "scalars or vectors by their names"
    return None
