"""The shift stands in one place: samples are drawn on the grid that a stage was trained on, unless a recipe says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from flowmap.interfaces import SamplingGrid
from flowmap.launch.run import run_recipe
from flowmap.plugin import ObjectiveConfig, SamplerConfig
from flowmap.plugin.catalogue import catalogue
from flowmap.reading.open import open_run
from flowmap.recipe.outside import look_up
from flowmap.recipe.read import read
from flowmap.use.export import export_run
from flowmap.use.sample import sample_run
from flowmap.use.student import generate, open_contestant
from flowmap.use.wish import Wish
from flowmap.workshop.backbone import ModuleBackbone
from tests.small_runs import EVALUATION, FORWARD, HEAD, TEACHER, planned

CPU = torch.device("cpu")
SHIFTED = ("stages.teacher.objective.times.shift=3", "stages.forward.objective.shift=5")
OF_TRIGFLOW = {"scm", "rcm"}
"""Objectives whose times have no shift."""


def shifted(objective: type[ObjectiveConfig]) -> ObjectiveConfig | None:
    """The objective with its training's shift set to 3; None if it has none that could be set."""
    name = objective.model_fields["type"].default
    if "shift" in objective.model_fields:
        extra = {"schedule": "grid"} if "schedule" in objective.model_fields else {}
        return objective.model_validate({"type": name, "shift": 3, **extra})
    if "times" in objective.model_fields and name not in OF_TRIGFLOW:
        return objective.model_validate({"type": name, "times": {"shift": 3}})
    return None


@pytest.mark.parametrize("name", catalogue().names("objective"))
def test_every_objective_tells_the_shift_of_its_training(name: str) -> None:
    found = catalogue().find("objective", name)
    assert issubclass(found, ObjectiveConfig)
    objective = shifted(found)
    if objective is None:
        assert found.model_validate({"type": name}).grid_shift() in (None, 1.0)
    else:
        assert objective.grid_shift() == 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run without an evaluation, its stages trained at shifts 3 and 5."""
    home = tmp_path_factory.mktemp("shifted")
    recipe = home / "recipe.toml"
    recipe.write_text(HEAD + TEACHER + FORWARD)
    return run_recipe(recipe, SHIFTED, (), False, home / "runs", Console(quiet=True), page=False).folder


@pytest.mark.parametrize(("stage", "sampler", "expected"), [("teacher", "euler", 3.0), ("forward", "flow_map", 5.0)])
def test_samples_are_drawn_on_the_grid_of_the_training(run: Path, stage: str, sampler: str, expected: float) -> None:
    who = open_contestant(open_run(run).find(stage, 0), "ema", CPU)
    config = catalogue().find("sampler", sampler).model_validate({"type": sampler})
    assert isinstance(config, SamplerConfig)
    own, same, other = (generate(who, config, 4, shift, who.draw("x", 0, 8)) for shift in (None, expected, 1.0))
    assert torch.equal(own, same)
    assert not torch.equal(own, other)


def test_what_the_recipe_says_of_samples_comes_first(run: Path) -> None:
    plan = planned(HEAD + TEACHER + FORWARD + EVALUATION, run.parents[1], *SHIFTED, "evaluation.shift=2")
    assert open_contestant(plan.find("forward", 0), "ema", CPU).shift == 2


def test_samples_exports_and_the_run_as_weights_have_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, summary = sample_run(run, Wish(number=2), tmp_path / "out")
    assert "shift 5" in summary
    assert look_up(str(run)).pretrained.shift == 5
    told: list[float] = []

    def export(backbone: ModuleBackbone, role: Any, folder: Path, form: str, merged: bool, grid: SamplingGrid) -> str:
        told.append(grid.shift)
        return "FOLDER"

    monkeypatch.setattr(ModuleBackbone, "export", export)
    for stage in ("teacher", None):
        export_run(run, tmp_path / str(stage), stage, "ema", None, merged=True)
    assert told == [3, 5]


def test_another_shift_of_samples_is_said(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(HEAD + TEACHER + FORWARD + EVALUATION)
    warnings = {shift: read(path, (*SHIFTED, f"evaluation.shift={shift}"))[1] for shift in (5, 4)}
    said = {shift: [w for w in found if "evaluation.shift" in w] for shift, found in warnings.items()}
    assert [len(found) for found in said.values()] == [1, 1]
    assert "drawn at shift 5, but trained at another: 'teacher' (3); leave it out" in said[5][0]
    assert "'teacher' (3), 'forward' (5)" in said[4][0]
    assert not [w for w in read(path, SHIFTED)[1] if "shift" in w]
