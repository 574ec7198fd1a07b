"""What a stage asks of the base weights, and what those are. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from flowmap.errors import FlowmapError
from flowmap.plugin.kinds import BackboneConfig
from flowmap.recipe.tables import EvaluationConfig, RoleConfig, StageConfig, sampling_shift
from flowmap.schema.config import Finding
from flowmap.schema.specs import Pretrained


def base_findings(
    stage: StageConfig, evaluation: EvaluationConfig | None, backbone: BackboneConfig
) -> Iterator[Finding]:
    """Where roles that start from the base weights are to be a velocity that those are not, or leave their grid.

    A role that is not trained would answer something else for good: an error. Of weights that are not here, or are
    damaged, nothing is said.
    """
    needed, own = stage.objective.roles(), sampling_shift(stage, evaluation)
    from_base = [role for role in needed if stage.roles.get(role, RoleConfig()).from_ == "base"]
    try:
        base = backbone.pretrained() if from_base else None
    except FlowmapError:
        base = None
    if base is None:
        return
    why = _no_velocity(base)
    for role in from_base if why else ():
        spec = needed[role]
        if spec.kind == "velocity":
            how = (
                f"name an earlier stage that trains one (flow_matching) as roles.{role}.from, or take weights of a "
                "velocity, such as plain Wan2.1's, as backbone.weights"
            )
            begins = "is" if not spec.trained else "begins as"
            yield Finding(
                "warning" if spec.trained else "error",
                ("roles", role),
                f"role '{role}' {begins} a velocity, and the base weights are none: they {why}; {how}",
            )
    if "student" in from_base and base.to_data and base.shift not in (None, own):
        yield Finding(
            "warning",
            ("objective",),
            f"the student begins from weights that jump along times of shift {base.shift:g}, and is sampled, and "
            f"exported, on those of shift {own:g}; set the objective's shift, or evaluation.shift, to {base.shift:g}",
        )


def _no_velocity(base: Pretrained) -> str | None:
    """Why a network that starts from `base` computes no velocity; None if it does."""
    if base.one_list:
        return f"are a flow map on one list of {base.calls} steps"
    if base.to_data:
        return "jump to data"
    return None if base.kind == "velocity" or base.diagonal else "know no velocity u(x, t, t)"
