"""The step of a difference that a recipe leaves out follows from the backbone, and stands in the lock as a number."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowmap_flow.configs import FlowMapConfig
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.settings import ArchitectureConfig

from flowmap.plugin import ObjectiveConfig
from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.step_length import default_step
from flowmap.schema.settings import TangentConfig

RECIPE = """
name = "steps"
data = "checkerboard"
backbone = {{ type = "mlp", frequency = {frequency} }}
compute.precision = "{precision}"
[[stages]]
name = "only"
steps = 2
batch = 64
objective = {objective}
"""
FORWARD = '{ type = "flow_map" }'


def objective(folder: Path, text: str, frequency: float, precision: str = "no") -> ObjectiveConfig:
    path = folder / "r.toml"
    path.write_text(RECIPE.format(objective=text, frequency=frequency, precision=precision))
    recipe = read(path)[0]
    (plan,) = make_plan(recipe, folder).stages
    # What is locked is read back as it is, whatever the default is then.
    again = Recipe.model_validate({**recipe.as_tables()})
    assert again == recipe
    assert plan.lock["stages"][0]["objective"] == recipe.stages[0].objective.model_dump(mode="json", exclude_none=True)
    return recipe.stages[0].objective


def step(config: ObjectiveConfig) -> float:
    tangent = config.tangent  # type: ignore[attr-defined]
    assert isinstance(tangent, TangentConfig)
    return tangent.step


@pytest.mark.parametrize(
    ("frequency", "precision", "right"),
    [(30.0, "no", 0.005), (60.0, "no", 0.005), (100.0, "no", 0.003), (1000.0, "no", 0.0003), (1000.0, "bf16", 0.005)],
)
def test_it_is_at_most_a_part_of_a_radian(frequency: float, precision: str, right: float, tmp_path: Path) -> None:
    assert step(objective(tmp_path, FORWARD, frequency, precision)) == right
    if precision == "no":
        assert right * frequency <= 0.3


def test_what_a_recipe_says_stays(tmp_path: Path) -> None:
    assert step(objective(tmp_path, '{ type = "flow_map", tangent.step = 0.005 }', 1000.0)) == 0.005
    assert step(objective(tmp_path, '{ type = "flow_map", tangent.method = "jvp" }', 1000.0)) == 0.005


def test_objectives_within_objectives_have_it_too(tmp_path: Path) -> None:
    outer = objective(tmp_path, '{ type = "backward_simulation", forward = "flow_map" }', 1000.0)
    assert step(outer.forward) == 0.0003  # type: ignore[attr-defined]
    outer = objective(tmp_path, '{ type = "rcm", forward = { type = "scm", tangent.method = "central" } }', 1000.0)
    assert step(outer.forward) == 0.0003  # type: ignore[attr-defined]


def test_backbones_say_their_frequency() -> None:
    """diffusers' sinusoids of 1000 t, of which the fastest has the frequency 1; so has AnyFlow's."""
    sizes = ArchitectureConfig()
    for config in (Wan21Config, FarWan21Config):
        assert config(weights="random", architecture=sizes).time_frequency() == 1000
    assert default_step(1000.0, "no") == 0.0003
    assert default_step(None, "no") == 0.005


def test_without_a_recipe_it_is_the_published_one() -> None:
    assert FlowMapConfig().tangent.step == 0.005
