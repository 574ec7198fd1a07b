"""Which runs are offered to somebody who names a folder that is none: those of a comparison, those beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowmap.errors import FlowmapError
from flowmap.files.sealed import write_sealed
from flowmap.reading.open import open_run
from flowmap.reading.read import read_run
from flowmap.recipe.near import runs_near
from flowmap.recipe.outside import look_up


@pytest.fixture
def compared(here: Path) -> Path:
    """The folder of a comparison of two contestants, of two seeds, with a stage that both share; a run beside it."""
    root = Path("runs/both")
    for contestant in ("one", "two"):
        for seed in ("seed-3", "seed-4"):
            _lock(root / contestant / seed, name=seed)
            _lock(root / contestant / seed / "student", seed=3)
    _lock(root / "shared/seed-3/teacher-12ab", seed=3)
    _lock(Path("runs/other"), name="other")
    return root


def _lock(folder: Path, **tables: object) -> None:
    folder.mkdir(parents=True)
    write_sealed(folder / "recipe.lock.toml", "a lock", tables)


def test_the_folder_of_a_comparison_names_its_runs(compared: Path) -> None:
    runs = "; runs in runs/both: one/seed-3, one/seed-4, two/seed-3, two/seed-4"
    for told in (lambda: open_run(compared), lambda: read_run(compared), lambda: look_up("runs/both")):
        with pytest.raises(FlowmapError, match=f"{runs}$"):
            told()
    with pytest.raises(FlowmapError, match=r"is no run; runs in runs/both/two: seed-3, seed-4$"):
        look_up("runs/both/two")


def test_no_stage_is_taken_for_a_run(compared: Path) -> None:
    assert runs_near(compared / "shared").startswith("; runs in runs/both: one/seed-3,")
    assert runs_near(Path("runs/othr")) == "; runs in runs: other"
    assert runs_near(Path("nowhere/x")) == ""


def test_of_many_runs_some_are_named(here: Path) -> None:
    for number in range(15):
        _lock(Path(f"runs/r{number:02d}"), name="r")
    assert runs_near(Path("runs/x")).endswith("r10, r11 and 3 more")
