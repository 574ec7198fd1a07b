"""What an objective yields: losses, their gradients, and nothing else that changes."""

from __future__ import annotations

import torch

from flowmap.testing.check import Laws
from flowmap.testing.contract import require, told_by_networks
from flowmap.testing.objectives.subject import SHAPES, ObjectiveSubject, Taken, quietly

LAWS = Laws("objective")


@LAWS.proven(
    "It uses no role that it does not declare.", "ObjectiveConfig.roles", after=("turns_train_what_is_trained",)
)
def roles_are_declared(subject: ObjectiveSubject) -> None:
    """Nobody makes others."""
    try:
        subject.turns()
    except KeyError as error:
        declared = ", ".join(subject.config.roles())
        raise AssertionError(
            f"{subject.who} uses the role {error}, which it does not declare (declared: {declared})"
        ) from error
    except AssertionError:
        return  # for the next check


@LAWS.proven(
    "Networks are asked with times in [0, 1], t >= r, of float32 or wider, [B] or [B, F], and as many rows of "
    "conditions as samples.",
    "Velocity.velocity, FlowMap.mean_velocity",
    after=("roles_are_declared",),
)
def asks_networks_rightly(subject: ObjectiveSubject) -> None:
    """The networks say so."""
    with told_by_networks(subject.who):
        subject.turns()


@LAWS.proven(
    "A turn yields losses, each under a name of its own.", "Turn.losses, Loss.branch", after=("asks_networks_rightly",)
)
def losses_have_names(subject: ObjectiveSubject) -> None:
    """Within a step."""
    for shape in SHAPES:
        names: list[str] = []
        for taken in subject.step(shape):
            require(bool(taken.losses), f"the turn of '{taken.role}' of {subject.who} yields no loss")
            names += [loss.branch for loss in taken.losses]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"{subject.who} has two losses called '{', '.join(twice)}' in one step")


@LAWS.proven("A loss is a finite scalar with a gradient.", "Loss.value", after=("losses_have_names",))
def losses_are_scalars(subject: ObjectiveSubject) -> None:
    """Each."""
    for taken in subject.turns():
        for loss in taken.losses:
            who = f"the loss '{loss.branch}' of {subject.who}"
            require(loss.value.ndim == 0, f"{who} must be a scalar, not {list(loss.value.shape)}")
            require(bool(loss.value.isfinite()), f"{who} must be finite, not {float(loss.value.detach())}")
            require(loss.value.requires_grad, f"{who} has no gradient")


@LAWS.proven(
    "Raw numbers are detached: scalars, or one number for each sample that has one.",
    "Loss.raw",
    after=("losses_have_names",),
)
def raw_numbers_are_detached(subject: ObjectiveSubject) -> None:
    """Each."""
    for taken in subject.turns():
        for loss in taken.losses:
            for name, value in loss.raw.items():
                good = not value.requires_grad and value.ndim <= 1
                require(
                    good,
                    f"the raw number '{name}' of the loss '{loss.branch}' of {subject.who} must be detached, a "
                    f"scalar or one number a sample, not {list(value.shape)}",
                )


@LAWS.proven(
    "Each loss has a graph of its own, which is gone before the next is asked for.",
    "Turn.losses",
    after=("losses_are_scalars",),
)
def graphs_are_their_own(subject: ObjectiveSubject) -> None:
    """Differentiated one by one."""
    for taken in subject.turns():
        told = "; ".join(taken.undifferentiated)
        require(
            not told,
            f"every loss of {subject.who} needs a graph of its own, which is freed before the next is asked for; "
            f"{told}",
        )


@LAWS.proven(
    "A turn changes neither the batch nor parameters nor their average.", "Turn.losses", after=("losses_have_names",)
)
def turns_change_nothing(subject: ObjectiveSubject) -> None:
    """The optimiser does."""
    changed = any(taken.changed for taken in subject.turns())
    require(
        not changed, f"{subject.who} must change neither the batch nor parameters nor their average; the optimiser does"
    )


@LAWS.proven("The gradient of a turn reaches its role.", "Turn", after=("losses_are_scalars", "graphs_are_their_own"))
def gradients_reach_their_role(subject: ObjectiveSubject) -> None:
    """Somewhere."""
    for taken in subject.turns():
        reached = any(bool(gradient.any()) for gradient in taken.gradients[taken.role])
        require(reached, f"no gradient of {subject.who} reaches '{taken.role}' in its own turn")


@LAWS.proven("No gradient reaches a role that is frozen.", "ObjectiveConfig.roles", after=("losses_have_names",))
def frozen_roles_stay_frozen(subject: ObjectiveSubject) -> None:
    """By its own words."""
    frozen = {name for name, spec in subject.config.roles().items() if not spec.trained}
    for taken in subject.turns():
        thawed = sorted(name for name in frozen if taken.gradients[name])
        require(not thawed, f"{subject.who} says that '{', '.join(thawed)}' is frozen, but gives it a gradient")


@LAWS.proven("Random numbers come from the scene's draw alone.", "Scene.draw", after=("asks_networks_rightly",))
def draws_from_its_draw(subject: ObjectiveSubject) -> None:
    """No global generator."""
    for shape in SHAPES:
        quietly(subject, shape, step=0)


@LAWS.proven("The same scene has the same losses.", "Turn.losses", after=("losses_have_names", "draws_from_its_draw"))
def same_scene_same_losses(subject: ObjectiveSubject) -> None:
    """That is what makes resuming exact."""
    for shape in SHAPES:
        first, again = (quietly(subject, shape, step=0) for _ in range(2))
        same = [taken.values() for taken in first] == [taken.values() for taken in again]
        require(same, f"{subject.who} must yield the same losses for the same scene")


@LAWS.proven("Every step draws anew.", "Scene.draw", after=("same_scene_same_losses", "gradients_reach_their_role"))
def steps_draw_anew(subject: ObjectiveSubject) -> None:
    """Networks are asked something else; a loss that normalises itself may be the same."""
    for shape in SHAPES:
        first, other = subject.step(shape, 0), subject.step(shape, 1)
        require(
            not _asked_alike(first, other),
            f"{subject.who} must draw anew at every step; its networks are asked the same at the next one",
        )


def _asked_alike(a: list[Taken], b: list[Taken]) -> bool:
    left, right = ([x for taken in step for x in taken.asked] for step in (a, b))
    return len(left) == len(right) and all(map(torch.equal, left, right))
