"""What `flowmap check` says of the lengths of differences: too long for the backbone, too short for the precision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from flowmap_gaussian.configs import GaussianConfig
from flowmap_mlp.configs import MlpConfig

from flowmap.comparison.unfold import read_comparison
from flowmap.errors import FlowmapError
from flowmap.recipe.layout import LOCK, make_plan
from flowmap.recipe.read import read
from flowmap.recipe.step_length import default_step, feature_error, rounding
from flowmap.training.changes import read_lock, refuse_changes
from tests.small_runs import planned, train_all

HEAD = """
name = "steps"
data = "checkerboard"
backbone = {{ type = "mlp", frequency = {frequency} }}
compute.precision = "{precision}"
[[stages]]
name = "teacher"
steps = 2
batch = 64
objective = "flow_matching"
[[stages]]
name = "forward"
steps = 2
batch = 64
roles.student.from = "teacher"
objective = {objective}
"""
MEASURED = "How far off it is in all, the run measures ('tangent_error' in steps.jsonl)"
ELSEWHERE = "but averaged trains better where it was tried (`flowmap docs derivatives`)"
LONG = (
    "0.005 is 5 radians of this backbone's highest time frequency (1000 per unit of t), of which a difference is 119 % "
    "off, so this is a derivative averaged over 0.01 of time, not the network's own"
)
OWN = f"{LONG}. {MEASURED}. The network's own takes step = 0.0003 or method = 'jvp', {ELSEWHERE}"
PLAIN = "(plain attention only)"


def warned(folder: Path, objective: str, frequency: float, precision: str = "no", *sets: str) -> list[str]:
    """The warnings about lengths, without file and line."""
    path = folder / "recipe.toml"
    path.write_text(HEAD.format(objective=objective, frequency=frequency, precision=precision))
    warnings = [line.split(": ", 1)[1] for line in read(path, sets)[1]]
    return [line for line in warnings if ".step: warning: " in line]


def at(field: str, text: str) -> list[str]:
    return [f"stages.forward.objective.{field}: warning: {text}"]


FORWARD = '{ type = "flow_map", tangent.step = 0.005 }'


def test_a_length_that_is_right_is_not_worth_a_word(tmp_path: Path) -> None:
    assert warned(tmp_path, FORWARD, 30.0) == warned(tmp_path, FORWARD, 100.0) == []
    assert warned(tmp_path, FORWARD, 30.0, "bf16") == []


def test_too_long_for_the_backbone(tmp_path: Path) -> None:
    own = OWN.replace("method = 'jvp'", f"method = 'jvp' {PLAIN}")
    assert warned(tmp_path, FORWARD, 1000.0) == at("tangent.step", own)


@pytest.mark.parametrize(
    ("objective", "field"),
    [
        (
            '{ type = "backward_simulation", forward = { type = "flow_map", tangent.step = 0.005 } }',
            "forward.tangent.step",
        ),
        (
            '{ type = "rcm", forward = { type = "scm", tangent = { method = "central", step = 0.005 } } }',
            "forward.tangent.step",
        ),
        ('{ type = "lagrangian", tangent = { method = "central", step = 0.005 } }', "tangent.step"),
    ],
)
def test_derivatives_of_nested_objectives_are_found(objective: str, field: str, tmp_path: Path) -> None:
    (said,) = warned(tmp_path, objective, 1000.0)
    assert said.startswith(f"stages.forward.objective.{field}: warning: {LONG}")
    assert warned(tmp_path, objective, 30.0) == []


@pytest.mark.parametrize("objective", ['"mean_flow"', '{ type = "flow_map", tangent.method = "jvp" }', '"scm"'])
def test_forward_mode_has_no_length(objective: str, tmp_path: Path) -> None:
    assert warned(tmp_path, objective, 1000.0) == []


def test_both_errors_are_told_where_each_way_out_has_one(tmp_path: Path) -> None:
    """In bf16 the step that is right for the backbone is rounding: that must not be found out by a second warning."""
    text = (
        f"{LONG}; in bf16 rounding adds about 28 % of |u| per unit of t, and 460 % over 0.0003. {MEASURED}. "
        f"The network's own takes method = 'jvp' {PLAIN} or step = 0.0003 with precision = 'no', {ELSEWHERE}"
    )
    assert warned(tmp_path, FORWARD, 1000.0, "bf16") == at("tangent.step", text)


def test_too_short_for_the_precision(tmp_path: Path) -> None:
    short = '{ type = "flow_map", tangent.step = 0.0003 }'
    text = (
        "in bf16 u is rounded to about 0.2 %, which over so short a step is 460 % of |u| per unit of t in the "
        f"derivative. {MEASURED}. Set method = 'jvp' {PLAIN} or precision = 'no' or step = 0.005 (28 %"
    )
    assert warned(tmp_path, short, 30.0, "bf16") == at("tangent.step", f"{text})")
    assert warned(tmp_path, short, 30.0) == []
    price = (
        ", but 0.005 is 5 radians of this backbone's highest time frequency (1000 per unit of t), of which a "
        "difference is 119 % off)"
    )
    assert warned(tmp_path, short, 1000.0, "bf16") == at("tangent.step", text + price)


def test_forward_mode_is_not_advised_where_the_objective_refuses_it(tmp_path: Path) -> None:
    """Lagrangian distillation cannot be recomputed in backward: there `check` itself refuses jvp."""
    path = tmp_path / "recipe.toml"
    text = HEAD.format(
        objective='{ type = "lagrangian", tangent = { method = "central", step = 0.005 } }', frequency=1, precision="no"
    )
    sizes = "{ channels = 1, text_dim = 16 }"
    wan = f'{{ type = "wan21", weights = "random", gradient_checkpointing = true, architecture = {sizes} }}'
    text = text.replace('{ type = "mlp", frequency = 1 }', wan).replace('"checkerboard"', '"moving_digits"')
    path.write_text(text)
    for sets, advised in (((), False), (("backbone.gradient_checkpointing=false",), True)):
        (said,) = [line for line in read(path, sets)[1] if "tangent.step" in line]
        assert ("jvp" in said) == advised
        assert "takes step = 0.0003" in said


def test_what_backbones_say() -> None:
    assert MlpConfig(frequency=17.0).time_frequency() == 17.0
    assert GaussianConfig().time_frequency() is None


def test_the_numbers() -> None:
    assert feature_error(0.3) == pytest.approx(0.3**2 / 6, rel=0.01)
    assert feature_error(5.0) == pytest.approx(1 + 0.1918, abs=1e-4)
    assert rounding(0.005) == pytest.approx(0.276, abs=1e-3)
    assert rounding(0.0003) / rounding(0.0006) == pytest.approx(2)
    assert math.isfinite(rounding(0.1))


# --- what a recipe leaves out


@pytest.mark.parametrize(
    ("frequency", "precision", "step"),
    [
        (None, "no", 0.005),
        (30.0, "no", 0.005),
        (60.0, "no", 0.005),
        (100.0, "no", 0.003),
        (1000.0, "no", 0.0003),
        (1000.0, "bf16", 0.005),
        (None, "bf16", 0.005),
    ],
)
def test_the_step_that_is_left_out(frequency: float | None, precision: str, step: float) -> None:
    assert default_step(frequency, precision) == pytest.approx(step)  # type: ignore[arg-type]


OBJECTIVES = {
    '"flow_map"': ("tangent",),
    '{ type = "backward_simulation", forward = "flow_map" }': ("forward", "tangent"),
    '{ type = "rcm", forward = { type = "scm", tangent.method = "central" } }': ("forward", "tangent"),
}


def step_in(lock: dict[str, Any], field: tuple[str, ...], stage: int = -1) -> float:
    found = lock["stages"][stage]["objective"]
    for name in (*field, "step"):
        found = found[name]
    return float(found)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_lock_has_the_number(objective: str, tmp_path: Path) -> None:
    """Also of nested objectives; what is named stays; forward mode, which has no use for it, keeps the old one."""
    plans = {f: planned(HEAD.format(objective=objective, frequency=f, precision="no"), tmp_path) for f in (30, 1000)}
    steps = {f: step_in(plan.stages[-1].lock, OBJECTIVES[objective]) for f, plan in plans.items()}
    assert steps == {30: 0.005, 1000: 0.0003}
    assert warned(tmp_path, objective, 1000.0) == []
    named = f"stages.forward.objective.{'.'.join(OBJECTIVES[objective])}.step=0.01"
    text = HEAD.format(objective=objective, frequency=1000, precision="no")
    assert step_in(planned(text, tmp_path, named).stages[-1].lock, OBJECTIVES[objective]) == 0.01
    mode = f"stages.forward.objective.{'.'.join(OBJECTIVES[objective])}.method=jvp"
    assert step_in(planned(text, tmp_path, mode).stages[-1].lock, OBJECTIVES[objective]) == 0.005


def test_contestants_have_the_number_too(tmp_path: Path) -> None:
    (tmp_path / "compare.toml").write_text(
        """
name = "steps"
seeds = [0]
budget = { by = "steps", amount = 3 }
[recipe]
data = "checkerboard"
backbone = { type = "mlp", frequency = 1000 }
evaluation = { teacher = "teacher", metrics = ["frechet_pixels"] }
[[recipe.stages]]
name = "teacher"
steps = 2
batch = 8
objective = "flow_matching"
[stage]
batch = 8
roles.student.from = "teacher"
[[contestants]]
name = "central"
samplers = ["flow_map"]
stages = [{ objective = "flow_map" }]
"""
    )
    (entrant,) = read_comparison([tmp_path / "compare.toml"])[0].entrants
    (lock,) = [p.lock for p in make_plan(entrant.of_seed(0), tmp_path).stages if p.stage.name == "student"]
    assert step_in(lock, ("tangent",)) == 0.0003


def test_an_older_run_goes_on_where_its_number_is_still_the_default(tmp_path: Path) -> None:
    """Its lock has step = 0.005, whatever the backbone; where that is no longer meant, the field is named."""
    recipes = {f: HEAD.format(objective='"flow_map"', frequency=f, precision="no") for f in (30, 1000)}
    for frequency, text in recipes.items():
        folder = tmp_path / str(frequency)
        folder.mkdir()
        train_all(planned(text, folder, "stages.forward.objective.tangent.step=0.005"))
        plan = planned(text, folder)
        assert step_in(read_lock(plan.stages[-1].folder / LOCK), ("tangent",)) == 0.005
        if frequency == 30:
            refuse_changes(plan.stages)
        else:
            with pytest.raises(FlowmapError, match=r"forward.objective.tangent.step: was 0.005, is now 0.0003"):
                refuse_changes(plan.stages)
