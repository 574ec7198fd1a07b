"""What a wheel brings: installed into an environment of its own, without a clone, it gets as far as one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flowmap.console.pages import pages

from .clean import ROOT, call, environment, wheel_of

SMALL = (
    *(f"stages.{name}.steps=2" for name in ("teacher", "forward", "more_forward", "on_policy")),
    *(f"stages.{name}.optimizer.warmup=0" for name in ("teacher", "forward", "more_forward")),
    "evaluation.calls=[1,2]",
    "evaluation.samples=24",
    "evaluation.teacher_calls=2",
    "evaluation.repeats=2",
    "evaluation.metrics=['frechet_pixels']",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network."""
    return wheel_of(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def flowmap(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, in an environment that holds the wheel."""
    return environment(tmp_path_factory.mktemp("environment"), wheel) / "flowmap"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp("empty")


@pytest.mark.slow
def test_a_wheel_has_every_recipe_and_nothing_of_the_clone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    recipes = {name.removeprefix("flowmap/recipes/") for name in names if name.startswith("flowmap/recipes/")}
    assert recipes == {path.name for path in ROOT.glob("recipes/*")}
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "flowmap",
        *(path.parent.name for path in ROOT.glob("plugins/*/*/__init__.py")),
    }
    texts = {Path(name).stem for name in names if name.startswith("flowmap/docs/")}
    assert texts == set(pages())
    packages = {name.partition("/")[0] for name in names if name.endswith("/__init__.py")}
    assert packages == {name.removesuffix("/py.typed") for name in names if name.endswith("/py.typed")}


@pytest.mark.slow
def test_a_stranger_s_package_is_type_checked_against_what_is_installed(flowmap: Path, tmp_path: Path) -> None:
    """As strictly as there is, with what pydantic recommends: its own plugin."""
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\nplugins = pydantic.mypy\n")
    shutil.copy(ROOT / "tests" / "typed" / "stranger.py", tmp_path)
    command = [sys.executable, "-m", "mypy", "--python-executable", str(flowmap.parent / "python"), "stranger.py"]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "Success: no issues found in 1 source file\n", done.stdout + done.stderr


@pytest.mark.slow
def test_an_empty_folder_is_enough(flowmap: Path, here: Path) -> None:
    """From the list of recipes to samples of a trained student, and a recipe of one's own."""
    assert "flowmap run quickstart" in call(flowmap, "--help", cwd=here).stdout
    listed = call(flowmap, "plugins", cwd=here).stdout
    assert "far_wan21" in listed
    assert "broken" not in listed
    assert "moving_digits_far" in call(flowmap, "recipes", cwd=here).stdout
    assert "nothing is wrong" in call(flowmap, "doctor", cwd=here).stdout
    assert call(flowmap, "docs", "laws", cwd=here).stdout == (ROOT / "docs" / "laws.md").read_text()
    assert call(flowmap, "check", "anyflow_far_14b", cwd=here).stdout.startswith("✓ anyflow_far_14b: teacher")
    assert "discrete_flow_map" in call(flowmap, "check", "compare_digits", cwd=here).stdout

    settings = [word for text in SMALL for word in ("--set", text)]
    assert "report: runs/quickstart/report.html" in call(flowmap, "run", "quickstart", *settings, cwd=here).stdout
    # Nothing is trained anew, and nothing is missing where the run is read again.
    assert "report.html" in call(flowmap, "report", "runs/quickstart", cwd=here).stdout
    call(flowmap, "sample", "runs/quickstart", "--n", "2", "--nfe", "1", cwd=here)
    assert (here / "samples.png").is_file()

    told = call(flowmap, "schema", "--out", "recipe.schema.json", cwd=here).stdout
    assert "#:schema ./recipe.schema.json" in told
    committed = (ROOT / "recipes" / "recipe.schema.json").read_text()
    assert (here / "recipe.schema.json").read_text() == committed
    assert "flowmap run mine.toml" in call(flowmap, "new", "recipe", "mine", cwd=here).stdout
    assert "report: runs/mine/report.html" in call(flowmap, "run", "mine.toml", *settings, cwd=here).stdout
    assert "flowmap plugins check of_mine" in call(flowmap, "new", "backbone", "of_mine", cwd=here).stdout
    assert "a copy of" in call(flowmap, "new", "metric", "of_theirs", "--from", "frechet_pixels", cwd=here).stdout
    assert (here / "of_theirs" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    scores = [json.loads(line) for line in (here / "runs/mine/metrics.jsonl").read_text().splitlines()]
    assert {score["stage"] for score in scores} >= {"teacher", "forward", "on_policy"}
    assert {path.name for path in here.iterdir()} == {
        "runs",
        "samples.png",
        "samples.safetensors",
        "mine.toml",
        "recipe.schema.json",
        "of_mine",
        "of_theirs",
    }


@pytest.mark.slow
def test_a_rehearsal_by_name(flowmap: Path, here: Path) -> None:
    told = call(flowmap, "run", "moving_digits_far", "--rehearse", "--runs", "tried", cwd=here).stdout
    assert "Then: flowmap run moving_digits_far --runs tried" in told
