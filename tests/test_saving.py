"""Checkpoints that are written while training goes on: what is in them, and what becomes of them whatever happens."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowmap.files.folder import StoppedError
from flowmap.files.manifest import checkpoints
from flowmap.recipe.tables import ComputeConfig
from flowmap.training import checkpoint
from flowmap.training.processes import Processes
from flowmap.training.saving import Saver
from flowmap.training.stage import Stage, open_stage
from flowmap.training.verify import verify
from tests.process_runs import shared
from tests.small_runs import planned
from tests.test_processes import SIGNAL, SMALL, assert_equal, recipe, run, small

__all__ = ["small"]
PATIENCE = 20


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A stage that was opened, in an empty folder."""
    made = open_stage(planned(SMALL, tmp_path).stages[0], Processes(ComputeConfig(device="cpu")))
    made.plan.folder.mkdir(parents=True)
    return made


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Files are written when this is set."""
    go_on = threading.Event()

    def waiting(tensors: dict[str, torch.Tensor], file: Path) -> None:
        assert go_on.wait(PATIENCE)
        save_file(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", waiting)
    yield go_on
    go_on.set()


def saver_of(stage: Stage) -> Saver:
    """One that writes aside, as with several processes."""
    processes = Processes(ComputeConfig(device="cpu"))
    processes.number = 2
    # Nobody else is there to be waited for.
    processes.wait = lambda: None  # type: ignore[method-assign]
    return Saver(stage.plan.folder, 1, processes)


def test_what_is_written_is_what_was_there(stage: Stage, held: threading.Event) -> None:
    before = {name: value.detach().clone() for name, value in stage.roles["student"].own.items()}
    with saver_of(stage) as saver:
        saver.save(1, stage.optimizers, stage.roles, None)
        assert checkpoints(stage.plan.folder) == []
        with torch.no_grad():
            for parameter in stage.roles["student"].own.values():
                parameter.zero_()
        saver.check()
        held.set()
        made = saver.finish()
    assert made is not None
    assert checkpoints(stage.plan.folder) == [made]
    verify(made)
    found = load_file(made.path / "student.safetensors")
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], value) for name, value in before.items())


def test_one_is_written_at_a_time_and_the_newest_kept(stage: Stage, held: threading.Event) -> None:
    with saver_of(stage) as saver:
        saver.save(1, stage.optimizers, stage.roles, None)
        threading.Timer(0.2, held.set).start()
        saver.save(2, stage.optimizers, stage.roles, None)
        assert saver.last is not None
        assert saver.last.step == 1
    assert [found.step for found in checkpoints(stage.plan.folder)] == [2]


def test_a_full_disk_is_told_by_the_next_step_and_loses_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: dict[str, torch.Tensor], file: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    saver = saver_of(stage)
    saver.save(1, stage.optimizers, stage.roles, None)
    made = saver.finish()
    monkeypatch.setattr(checkpoint, "save_file", full)
    saver.save(2, stage.optimizers, stage.roles, None)
    with pytest.raises(StoppedError, match="step-000002: the disk is full"):
        saver.finish()
    assert [made] == checkpoints(stage.plan.folder)
    assert saver.last == made
    assert list(stage.plan.folder.rglob(".part-*")) == []
    saver.save(3, stage.optimizers, stage.roles, None)
    # What ended the training is what is said.
    with pytest.raises(ZeroDivisionError), saver:
        raise ZeroDivisionError


def test_a_second_signal_waits_for_nothing(stage: Stage, held: threading.Event) -> None:
    saver = saver_of(stage)
    saver.save(1, stage.optimizers, stage.roles, None)
    with pytest.raises(KeyboardInterrupt), saver:
        raise KeyboardInterrupt
    assert checkpoints(stage.plan.folder) == []


MEANWHILE = """
import os, time
import flowmap.training.checkpoint
saved = flowmap.training.checkpoint.save_file
def save(tensors, file):
    stage = file.parents[2]
    wanted = min(int(file.parent.name[-6:]) + 1, 6)
    began = time.monotonic()
    while (stage / "steps.jsonl").read_bytes().count(b"\\n") < wanted:
        assert time.monotonic() < began + 20, "nothing goes on meanwhile"
        time.sleep(0.01)
    saved(tensors, file)
    if {die} and "step-000004" in str(file):
        os.kill(os.getpid(), 9)
flowmap.training.checkpoint.save_file = save
"""
"""Nothing is written before another step is done; the process that writes may be killed at the second checkpoint."""

SPY = """
import os
import flowmap.training.verify
hashed = flowmap.training.verify.sha256_of
def spied(file, doing):
    print("hashed by", os.environ["RANK"], flush=True)
    return hashed(file, doing)
flowmap.training.verify.sha256_of = spied
"""

EVERY = SMALL + "\n[checkpoints]\nevery = 2\n"


def test_two_processes_train_while_one_writes(small: Path, tmp_path: Path) -> None:
    run(tmp_path, EVERY, 2, patch=MEANWHILE.format(die=False))
    assert_equal(small, tmp_path, ["teacher"])
    found = checkpoints(tmp_path / "runs/small/teacher")
    assert [one.step for one in found] == [4, 6]
    for one in found:
        verify(one)


def test_killed_while_it_writes_it_goes_on_from_the_one_before(small: Path, tmp_path: Path) -> None:
    code, _ = shared(recipe(tmp_path, EVERY), "run", "recipe.toml", patch=MEANWHILE.format(die=True))
    assert code
    assert [one.step for one in checkpoints(tmp_path / "runs/small/teacher")] == [2]
    assert "teacher: going on after step 2" in run(tmp_path, EVERY, 1)
    assert_equal(small, tmp_path, ["teacher"])
    assert list(tmp_path.rglob(".part-*")) == []


def test_the_first_process_alone_checks_a_checkpoint(tmp_path: Path) -> None:
    patch = SIGNAL.format(stage="teacher", step=2, number="SIGTERM")
    shared(recipe(tmp_path, SMALL), "run", "recipe.toml", patch=patch)
    code, said = shared(tmp_path, "run", "recipe.toml", patch=SPY)
    assert code == 0, said
    assert said.count("hashed by 0") >= 3
    assert "hashed by 1" not in said
