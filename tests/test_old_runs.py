"""Runs of earlier versions go on: their folders are in `tests/old_runs`, each named after the commit that made it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import flowmap
from flowmap.files.manifest import checkpoints
from tests.small_runs import flowmap as command

OLD = Path(__file__).parent / "old_runs"


@pytest.fixture(params=sorted(path.name for path in OLD.iterdir()))
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a recipe, and with its run `old` as that version left it."""
    made = OLD / request.param
    shutil.copy(made / "recipe.toml", tmp_path)
    shutil.copytree(made / "old", tmp_path / "runs" / "old")
    return tmp_path


def trained(home: Path) -> dict[Path, bytes]:
    """What training writes: steps and checkpoints."""
    files = [*home.rglob("steps.jsonl"), *home.rglob("*.safetensors")]
    return {path.relative_to(home): path.read_bytes() for path in files if ".shelf" not in path.parts}


def test_a_finished_run_is_found_finished_and_can_be_used(home: Path) -> None:
    before = trained(home)
    code, text = command(home, "run", "recipe.toml", report=True)
    assert code == 0, text
    assert text.count("finished before") == 2
    assert trained(home) == before
    samples = flowmap.load_run(home / "runs" / "old").sample(2, nfe=1)
    assert samples.isfinite().all()
    assert "<table" in (home / "runs" / "old" / "report.html").read_text(encoding="utf-8")


def test_a_stopped_run_goes_on_from_its_checkpoint(home: Path) -> None:
    before = trained(home)
    shutil.rmtree(home / "runs" / "old" / "forward" / "checkpoints" / "step-000004")
    code, text = command(home, "run", "recipe.toml")
    assert code == 0, text
    assert "forward: going on after step 2" in text
    assert checkpoints(home / "runs" / "old" / "forward")[-1].step == 4
    after = trained(home)
    assert {path: after[path] for path in before if "teacher" in path.parts} == {
        path: content for path, content in before.items() if "teacher" in path.parts
    }
    kept = before[Path("runs/old/forward/steps.jsonl")].splitlines()[:2]
    assert after[Path("runs/old/forward/steps.jsonl")].splitlines()[:2] == kept
