"""A run's folder is opened again, or it is said what of its lock is not as it was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from flowmap.errors import FlowmapError
from flowmap.files.sealed import read_sealed, write_sealed
from flowmap.reading.open import open_run
from tests.small_runs import EVALUATION, FORWARD, HEAD, TEACHER, planned


@pytest.fixture
def lock(tmp_path: Path) -> dict[str, Any]:
    plan = planned(HEAD + TEACHER + FORWARD + EVALUATION, tmp_path)
    return plan.recipe.as_tables()


def _write(tmp_path: Path, lock: dict[str, Any]) -> Path:
    folder = tmp_path / "small"
    folder.mkdir(exist_ok=True)
    (folder / "recipe.lock.toml").write_text(tomli_w.dumps(lock))
    return folder


def test_a_lock_as_it_is_written_opens(tmp_path: Path, lock: dict[str, Any]) -> None:
    assert [stage.stage.name for stage in open_run(_write(tmp_path, lock)).stages] == ["teacher", "forward"]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a source that is not there": (
        lambda lock: lock["stages"][1]["roles"]["student"].update({"from": "nobody"}),
        "stage 'forward' starts from 'nobody', which does not come before it",
    ),
    "a stage of its own": (
        lambda lock: lock["stages"][1]["roles"]["student"].update({"from": "forward"}),
        "stage 'forward' starts from 'forward'",
    ),
    "a circle": (
        lambda lock: lock["stages"][0].update(roles={"student": {"from": "forward"}}),
        "stage 'teacher' starts from 'forward'",
    ),
    "a stage twice": (lambda lock: lock["stages"].append(lock["stages"][0]), "two of its stages are called 'teacher'"),
    "an unknown teacher": (lambda lock: lock["evaluation"].update(teacher="x"), "its evaluation names 'x'"),
    "an unknown contestant": (
        lambda lock: lock["evaluation"]["contests"][0].update(stage="x"),
        "its evaluation names 'x'",
    ),
    "a stage as text": (lambda lock: lock.update(stages=["teacher"]), "does not fit this version"),
    "no seeds": (lambda lock: lock.update(seeds=[]), "does not fit this version"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_lock_that_nobody_has_written_is_refused(tmp_path: Path, lock: dict[str, Any], name: str) -> None:
    change, words = WRONG[name]
    change(lock)
    with pytest.raises(FlowmapError) as caught:
        open_run(_write(tmp_path, lock))
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"name = ", b"x = " + b"[" * 9999, b"[[stages]]\nname = 1"])
def test_a_lock_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "recipe.lock.toml").write_bytes(content)
    with pytest.raises(FlowmapError):
        open_run(folder)


def test_a_lock_that_was_changed_is_refused(tmp_path: Path, lock: dict[str, Any]) -> None:
    """One digit otherwise, and it is as well-formed as before; older versions wrote no digest."""
    file = tmp_path / "small" / "recipe.lock.toml"
    write_sealed(file, "the whole recipe.", lock)
    open_run(file.parent)
    text = file.read_text()
    assert text.count("samples = 24\n") == 1
    file.write_text(text.replace("samples = 24\n", "samples = 34\n"))
    with pytest.raises(FlowmapError, match=r"recipe\.lock\.toml cannot be read: it was changed after it was written"):
        open_run(file.parent)
    file.write_text("\n".join(line for line in file.read_text().split("\n") if not line.startswith("#")))
    assert open_run(file.parent).recipe.evaluation.samples == 34  # type: ignore[union-attr]


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    tables = {"a": "# SHA-256 of what follows: no\n", "é": ["\r\n", "\u2028"], "b": {"c": 1.5}}
    write_sealed(tmp_path / "x.toml", "a test", tables)
    assert read_sealed(tmp_path / "x.toml") == tables
