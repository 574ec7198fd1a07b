"""What a wheel brings: installed into an environment of its own, without a clone, it gets as far as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
    folder = tmp_path_factory.mktemp("wheel")
    _pip("wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def flowmap(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, in an environment that holds the wheel; what it depends on is that of these tests."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    _pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    (packages,) = place.glob("lib/python*/site-packages")
    # Files ending in .pth are read in the environment's own folder alone: a clone that is installed here stays unseen.
    (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"])
    done = _call(python, "-c", "import flowmap, flowmap_wan; print(flowmap.__file__, flowmap_wan.__file__)", cwd=place)
    assert done.stdout.split() == [str(packages / name / "__init__.py") for name in ("flowmap", "flowmap_wan")]
    return place / "bin" / "flowmap"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp("empty")


def _pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _call(program: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What `program` says, of which nothing in the environment leads to this clone."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"COLUMNS": "160", "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([program, *words], cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(ROOT) not in done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_a_wheel_has_every_recipe_and_nothing_of_the_clone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    recipes = {name.removeprefix("flowmap/recipes/") for name in names if name.startswith("flowmap/recipes/")}
    assert recipes == {path.name for path in ROOT.glob("recipes/*")}
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "flowmap",
        *(path.parent.name for path in ROOT.glob("plugins/*/*/__init__.py")),
    }


@pytest.mark.slow
def test_an_empty_folder_is_enough(flowmap: Path, here: Path) -> None:
    """From the list of recipes to samples of a trained student, and a recipe of one's own."""
    assert "flowmap run quickstart" in _call(flowmap, "--help", cwd=here).stdout
    listed = _call(flowmap, "plugins", cwd=here).stdout
    assert "far_wan21" in listed
    assert "broken" not in listed
    assert "moving_digits_far" in _call(flowmap, "recipes", cwd=here).stdout
    assert "nothing is wrong" in _call(flowmap, "doctor", cwd=here).stdout
    assert _call(flowmap, "check", "anyflow_far_14b", cwd=here).stdout.startswith("✓ anyflow_far_14b: teacher")
    assert "discrete_flow_map" in _call(flowmap, "check", "compare_digits", cwd=here).stdout

    settings = [word for text in SMALL for word in ("--set", text)]
    assert "report: runs/quickstart/report.html" in _call(flowmap, "run", "quickstart", *settings, cwd=here).stdout
    # Nothing is trained anew, and nothing is missing where the run is read again.
    assert "report.html" in _call(flowmap, "report", "runs/quickstart", cwd=here).stdout
    _call(flowmap, "sample", "runs/quickstart", "--n", "2", "--nfe", "1", cwd=here)
    assert (here / "samples.png").is_file()

    told = _call(flowmap, "schema", "--out", "recipe.schema.json", cwd=here).stdout
    assert "#:schema ./recipe.schema.json" in told
    committed = (ROOT / "recipes" / "recipe.schema.json").read_text()
    assert (here / "recipe.schema.json").read_text() == committed
    assert "flowmap run mine.toml" in _call(flowmap, "new", "recipe", "mine", cwd=here).stdout
    assert "report: runs/mine/report.html" in _call(flowmap, "run", "mine.toml", *settings, cwd=here).stdout
    assert "flowmap plugins check of_mine" in _call(flowmap, "new", "backbone", "of_mine", cwd=here).stdout
    assert "a copy of" in _call(flowmap, "new", "metric", "of_theirs", "--from", "frechet_pixels", cwd=here).stdout
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
    told = _call(flowmap, "run", "moving_digits_far", "--rehearse", "--runs", "tried", cwd=here).stdout
    assert "Then: flowmap run moving_digits_far --runs tried" in told
