"""Steps that are read together: the same records as one by one, and nothing that is not finite touches a parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from flowmap.interfaces import Loss, Scene, Turn
from flowmap.plugin import RoleSpec
from flowmap.training.loop import run_stage
from flowmap.training.records import NonFiniteError, StepRecord
from tests.small_runs import scripted
from tests.test_loop import bad_gradient, copy, opened, same, squares


def plain(record: StepRecord) -> StepRecord:
    """The record without what differs from run to run."""
    return replace(record, seconds=0.0, peak_bytes=0, newest=True)


def losses(bad: float = 1.0, at: int = -1) -> Turn:
    """Two losses and what they log; at step `at` (0-based) one of them is `bad` times what it was."""

    def made(scene: Scene) -> Iterator[Loss]:
        (loss,) = squares("student")(scene)
        raw = {"each": scene.draw.normal("raw", ()).abs(), "none": torch.zeros(0)}
        yield Loss("first", loss.value, raw)
        (loss,) = squares("student", bad if scene.draw.step == at else 0.5)(scene)
        yield Loss("second", loss.value)

    return Turn("student", made)


@pytest.mark.parametrize(("due", "newest"), [((), [1, 6]), ((1, 4), [1, 4, 6]), ((2, 3), [1, 2, 3, 6])])
def test_steps_read_together_are_those_read_one_by_one(due: tuple[int, ...], newest: list[int], tmp_path: Path) -> None:
    one, several = (opened(tmp_path, scripted(losses())) for name in ("one", "several"))
    expected, states = [], {}
    for record in run_stage(one, 0):
        expected.append(record)
        states[record.step] = copy(one.roles["student"])
    found = []
    # The first step is read by itself: nobody knows yet how long one takes.
    for record in run_stage(several, 0, lambda step: step in due, seconds=math.inf):
        found.append(record)
        assert not record.newest or same(copy(several.roles["student"]), states[record.step])
    assert [plain(record) for record in found] == [plain(record) for record in expected]
    assert [record.step for record in found if record.newest] == newest
    assert all(record.newest for record in expected)
    assert found[0].raw.keys() == {"first/each"}
    assert len({record.seconds for record in found}) == len(newest)


def test_a_step_without_a_turn_tells_those_before_it(tmp_path: Path) -> None:
    """Every other step has one, and the last, by which all are read, has none."""
    turn = replace(losses(), taken=lambda step: step % 2 == 0)
    one, several = (opened(tmp_path, scripted(turn)) for name in ("one", "several"))
    found = list(run_stage(several, 0, lambda step: False, seconds=math.inf))
    assert [plain(record) for record in found] == [plain(record) for record in run_stage(one, 0)]
    assert [bool(record.losses) for record in found] == [True, False] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_found_out_late_has_touched_nothing(bad: float, tmp_path: Path) -> None:
    stage, good = (opened(tmp_path, scripted(made)) for made in (losses(bad, 3), losses()))
    expected = [plain(record) for record in islice(run_stage(good, 0), 3)]
    records = run_stage(stage, 0, lambda step: False, seconds=math.inf)
    found = [plain(record) for record in islice(records, 3)]
    with pytest.raises(NonFiniteError, match="step 4: the loss of branch 'second' of role 'student' is") as caught:
        next(records)
    assert caught.value.step == 4
    assert found == expected
    assert same(copy(stage.roles["student"]), copy(good.roles["student"]))
    ours, theirs = (dict(s.optimizers["student"].state_dict()["state"]) for s in (stage, good))
    assert all(torch.equal(ours[i][key], theirs[i][key]) for i in ours for key in ours[i])


def test_a_gradient_that_is_not_finite_is_found_out_late(tmp_path: Path) -> None:
    stage = opened(tmp_path, scripted(Turn("student", bad_gradient(3))))
    records = run_stage(stage, 0, lambda step: False, seconds=math.inf)
    with pytest.raises(NonFiniteError, match="step 4: the gradient of branch 'second' of role 'student' is nan"):
        list(records)
    assert all(p.isfinite().all() for p in stage.roles["student"].own.values())


def test_two_roles_stand_still_together(tmp_path: Path) -> None:
    roles = {name: RoleSpec("velocity", True, "") for name in ("student", "critic")}
    turns = losses(math.nan, 1), Turn("critic", squares("critic"))
    stage = opened(tmp_path, scripted(*turns, **roles))
    records = run_stage(stage, 0, lambda step: False, seconds=math.inf)
    next(records)
    critic = copy(stage.roles["critic"])
    with pytest.raises(NonFiniteError):
        next(records)
    assert same(copy(stage.roles["critic"]), critic)
