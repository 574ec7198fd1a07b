"""What is made ready ahead: the same numbers in the same order, errors where they were, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch

from flowmap.interfaces import Data, Samples
from flowmap.maths.draw import Draw
from flowmap.phases import Phase, listening, phase
from flowmap.recipe.tables import ComputeConfig
from flowmap.training import ahead as module
from flowmap.training.ahead import ahead
from flowmap.training.loop import run_stage
from flowmap.training.processes import Processes
from flowmap.training.stage import Stage, open_stage
from tests.small_runs import EVERYTHING, HEAD, Watcher, planned
from tests.test_records import plain

CPU = torch.device("cpu")


def draws(number: int, turn: str = "0-student") -> list[Draw]:
    return [Draw.whole(0, "it", step, turn, 4) for step in range(number)]


def samples(draw: Draw) -> Samples:
    return Samples(draw.normal("x", (2,)))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_samples_come_in_their_order(depth: int) -> None:
    todo = draws(4)
    with ahead(iter(todo), samples, depth, CPU) as coming:
        for draw in todo:
            made = coming.take(draw)
            assert made.draw == draw
            assert torch.equal(made.samples.x, samples(draw).x)
    assert not threads()


def test_what_is_asked_for_out_of_order_is_made_then() -> None:
    todo = draws(4)
    with ahead(iter(todo), samples, 2, CPU) as coming:
        for draw in (todo[0], todo[0], todo[1], draws(9)[8], todo[2], todo[1], todo[3]):
            assert torch.equal(coming.take(draw).samples.x, samples(draw).x)


def test_so_many_are_made_ahead_and_no_more() -> None:
    seen: list[int] = []

    def make(draw: Draw) -> Samples:
        seen.append(draw.step)
        return samples(draw)

    with ahead(iter(draws(9)), make, 2, CPU) as coming:
        coming.take(draws(1)[0])
        deadline = time.monotonic() + 20
        while len(seen) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert seen == [0, 1, 2]


def noise_made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Where noise is made: the thread and the name."""
    found: list[tuple[str, str]] = []
    real = Draw._normal

    def normal(self: Draw, name: str, shape: Any) -> torch.Tensor:
        found.append((threading.current_thread().name.split("_")[0], name))
        return real(self, name, shape)

    monkeypatch.setattr(Draw, "_normal", normal)
    return found


def test_noise_is_made_ahead_once_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    todo = draws(5)
    found = noise_made(monkeypatch)
    with ahead(iter(todo), lambda draw: Samples(torch.zeros(4, 1)), 1, CPU) as coming:
        for draw in todo:
            made = coming.take(draw).draw
            for part in (made, made.child("inner")):
                # Twice the same: the second is made anew, and nobody changes it by changing the first.
                first, second = part.normal("noise", (3,)), part.normal("noise", (3,))
                first.zero_()
                expected = replace(draw, turn=part.turn).normal("noise", (3,))
                assert torch.equal(second, expected)
            assert torch.equal(made.groups(1).normal("of groups", (2,)), draw.groups(1).normal("of groups", (2,)))
    # The second is on its way before the first has been asked for anything. Two of six were asked for here anyway.
    here = [name for thread, name in found if thread != "ahead"]
    assert here.count("noise") == 2 * 6 + 3 * 4
    assert [name for thread, name in found if thread == "ahead"] == ["noise"] * 6


def test_noise_of_a_part_of_the_samples_is_its_own() -> None:
    todo = draws(3)
    with ahead(iter(todo), samples, 1, CPU) as coming:
        for draw in todo:
            made = coming.take(draw).draw
            assert torch.equal(made.part(1, 2).normal("noise", (3,)), draw.normal("noise", (3,))[1:3])
            assert torch.equal(made.normal("noise", (3,)), draw.normal("noise", (3,)))


def test_turns_know_their_own_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    todo = [draw for step in range(3) for draw in (draws(3)[step], draws(3, "1-critic")[step])]
    with ahead(iter(todo), samples, 1, CPU) as coming:
        for draw in todo[:4]:
            coming.take(draw).draw.normal(f"noise of {draw.turn}", (3,))
        found = noise_made(monkeypatch)
        for draw in todo[4:]:
            coming.take(draw).draw.normal(f"noise of {draw.turn}", (3,))
    assert not [name for thread, name in found if thread != "ahead"]


# --- errors and ends


class LostError(Exception):
    """No such sample."""


def failing(at: int) -> Callable[[Draw], Samples]:
    def make(draw: Draw) -> Samples:
        if draw.step == at:
            raise LostError(f"sample {at}")
        return samples(draw)

    return make


def test_an_error_comes_where_the_samples_are_asked_for() -> None:
    todo = draws(5)
    with ahead(iter(todo), failing(2), 2, CPU) as coming:
        for draw in todo[:2]:
            coming.take(draw)
        with pytest.raises(LostError, match="sample 2"):
            coming.take(todo[2])
    assert not threads()


def test_an_error_that_nobody_comes_to_is_not_told() -> None:
    with ahead(iter(draws(5)), failing(1), 2, CPU) as coming:
        coming.take(draws(1)[0])
    assert not threads()


def test_what_interrupts_the_wait_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(what: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "phase", stop)
    with pytest.raises(KeyboardInterrupt), ahead(iter(draws(5)), samples, 2, CPU) as coming:
        coming.take(draws(1)[0])
    assert not threads()


class Shown:
    """Phases that were shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def begin(self, phase: Phase) -> None:
        self.seen.append(phase.what)

    def end(self, phase: Phase) -> None:
        pass


def test_what_the_thread_does_is_not_shown_beside_the_training() -> None:
    def make(draw: Draw) -> Samples:
        with phase("reading an index"):
            return samples(draw)

    shown = Shown()
    with listening(shown), ahead(iter(draws(2)), make, 1, CPU) as coming:
        coming.take(draws(1)[0])
    assert set(shown.seen) == {"waiting for data"}


# --- whole stages


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Iterator[Stage]]:
    from flowmap.console.signals import Interruption
    from flowmap.training.train import train

    plan = planned(HEAD + EVERYTHING, tmp_path_factory.mktemp("ahead"), "compute.micro_batch=4")
    processes = Processes(ComputeConfig(device="cpu"))
    for stage in plan.stages:
        train(stage, processes, Watcher(), Interruption())
    return lambda: (open_stage(stage, processes) for stage in plan.stages)


def test_every_stage_is_the_same(stages: Callable[[], Iterator[Stage]]) -> None:
    for one, other in zip(stages(), stages(), strict=True):
        expected = [plain(record) for record in run_stage(one, 0)]
        assert [plain(record) for record in run_stage(replace(other, prefetch=2), 0)] == expected
        for name, role in one.roles.items():
            assert all(torch.equal(p, other.roles[name].own[key]) for key, p in role.own.items())
    assert not threads()


def test_a_stage_that_is_left_leaves_no_thread(stages: Callable[[], Iterator[Stage]]) -> None:
    records = run_stage(replace(next(stages()), prefetch=2), 0)
    list(islice(records, 2))
    assert threads()
    records.close()
    assert not threads()


def test_a_stage_fails_at_the_step_whose_samples_are_lost(stages: Callable[[], Iterator[Stage]]) -> None:
    stage = next(stages())

    class Lost(Data):
        batch = staticmethod(failing(3))
        reference = prompts = picture = stage.data.reference  # type: ignore[assignment]

    records = run_stage(replace(stage, data=Lost(), prefetch=2), 0)
    assert [next(records).step for _ in range(3)] == [1, 2, 3]
    with pytest.raises(LostError):
        next(records)
    assert not threads()
