"""For what an objective asks frozen networks, and how strongly it is guided by them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowmap.interfaces import Role
from flowmap.plugin.kinds import ObjectiveConfig
from flowmap.schema.specs import StageFacts
from flowmap.testing.check import Laws
from flowmap.testing.closed_form import Field
from flowmap.testing.contract import require
from flowmap.testing.objectives.subject import SHAPES, ObjectiveSubject, lenient

LAWS = Laws("objective")

_MANY = 1024
_SAID = 5e-4  # besides what is right: so little that gradients go by it in proportion
_TOWARDS, _NEAR = 0.95, 0.03
_SCALE = 2.0


@LAWS.proven(
    "A frozen network is asked for the condition rather than for nothing.",
    "Batch.cond, Batch.null",
    equation="guidance v = v(null) + w (v(cond) - v(null)): arXiv 2207.12598",
    after=("losses_are_scalars", "frozen_roles_stay_frozen", "steps_draw_anew", "conditions_stay_with_samples"),
)
def guidance_is_towards_the_condition(subject: ObjectiveSubject) -> None:
    """What it says with the condition has weight w in the gradients, and w - 1 what it says without."""
    for name, role, with_it, without in _shares(subject):
        require(
            without <= _TOWARDS * with_it,
            f"{subject.who} must ask '{name}' for the condition: the gradients of '{role}' go {without:.3g} by what it "
            f"says without, and {with_it:.3g} by what it says with it (are cond and null swapped?)",
        )


def _shares(subject: ObjectiveSubject) -> Iterator[tuple[str, str, float, float]]:
    """Frozen and trained roles, and how fast gradients of these go by what those say with and without condition."""
    frozen = [name for name, spec in subject.config.roles().items() if not spec.trained]
    for name in frozen:
        asked, nothing = (
            [_answered(subject, name, (sign * said, sign * other)) for sign in (1, -1)]
            for said, other in ((_SAID, 0.0), (0.0, _SAID))
        )
        for role in asked[0]:
            with_it, without = (float((up[role] - down[role]).norm()) / (2 * _SAID) for up, down in (asked, nothing))
            yield name, role, with_it, without


def _answered(subject: ObjectiveSubject, name: str, said: tuple[float, float]) -> dict[str, Tensor]:
    """The gradients of each trained role, where the role `name` says so much more with the condition and without."""

    def roles() -> dict[str, Role]:
        made = lenient(subject.roles())
        module = made[name].module
        assert isinstance(module, Field)
        module.conditioned = said
        return made

    found: dict[str, Tensor] = {}
    for turn in subject.run(SHAPES[0], subject.many(_MANY), roles):
        if turn.gradients[turn.role]:
            found[turn.role] = found.get(turn.role, torch.zeros(())) + torch.cat(turn.gradients[turn.role])
    return found


@LAWS.proven(
    "The guidance of a frozen velocity is as strong as the field `cfg_scale` says.",
    "ObjectiveConfig",
    equation="guidance v = v(null) + w (v(cond) - v(null)): arXiv 2207.12598",
    needs=("guided",),
    after=("guidance_is_towards_the_condition",),
)
def guidance_is_as_strong_as_said(subject: ObjectiveSubject) -> None:
    """By the gradients: what it says with the condition counts w, and without 1 - w; w is 2, where that can be set."""
    guided = ObjectiveSubject(_guided(subject))
    scale = float(getattr(guided.config, "cfg_scale"))  # noqa: B009
    for name, role, with_it, without in _shares(guided):
        if guided.config.roles()[name].kind != "velocity" or not with_it + without:
            continue
        found, right = without / (with_it + without), abs(scale - 1) / (abs(scale) + abs(scale - 1))
        require(
            abs(found - right) <= _NEAR,
            f"{subject.who} must be guided by '{name}' as cfg_scale says, w in null + w (cond - null): at cfg_scale = "
            f"{scale:g} what it says without condition should have {100 * right:.0f} % of the weight in the gradients "
            f"of '{role}', and has {100 * found:.0f} % (is cfg_scale ignored, or off by 1?)",
        )


def _guided(subject: ObjectiveSubject) -> ObjectiveConfig:
    """Its configuration with a `cfg_scale` of 2; as it is if that is refused, or warned of."""
    config, facts = subject.config, StageFacts(subject.batch, conditional=True)
    other = type(config).model_validate({**config.model_dump(), "cfg_scale": _SCALE})
    said = {finding.message for finding in config.findings(facts)}
    return other if said.issuperset(finding.message for finding in other.findings(facts)) else config
