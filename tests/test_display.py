"""What a command shows while it works: on a terminal, and elsewhere."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from flowmap.console import display as shown
from flowmap.console.display import display
from flowmap.launch.progress import pace
from flowmap.phases import Phase, each, listening, phase


def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_elsewhere_than_on_a_terminal_a_long_phase_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "_SAID_SECONDS", 0.0)
    monkeypatch.setattr(shown, "_LOOK_SECONDS", 0.001)
    file = io.StringIO()
    # A log is searched by lines, so one is whole however narrow rich takes the file for.
    with display(Console(file=file, width=10)), phase("hashing", 3e9, "bytes") as hashing:
        hashing.advance(1.5e9)
        until(lambda: "hashing" in file.getvalue())
        with phase("[within]"):
            until(lambda: "[within]" in file.getvalue())
        hashing.advance(1e9)
    assert "hashing: 1.50 of 3.00 GB, 0 s, 0 s left\n" in file.getvalue()
    # Once, until much time has gone by.
    assert file.getvalue().count("hashing") == 1


def test_short_phases_within_do_not_silence_the_one_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "_SAID_SECONDS", 0.2)
    monkeypatch.setattr(shown, "_LOOK_SECONDS", 0.001)
    file = io.StringIO()
    with display(Console(file=file)), phase("sampling"):
        deadline = time.monotonic() + 60
        while "sampling" not in file.getvalue():
            assert time.monotonic() < deadline
            with phase("decoding"):
                time.sleep(0.001)
    assert "decoding" not in file.getvalue()


def test_a_terminal_has_a_word_where_nobody_has_named_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with display(console):
        until(lambda: "working, 1 s" in file.getvalue())
        assert "counting" not in file.getvalue()
        # And where each phase is too short to be shown.
        deadline = time.monotonic() + 60
        while "counting" not in file.getvalue():
            assert time.monotonic() < deadline
            with phase("counting"):
                time.sleep(0.01)


def test_a_terminal_has_no_such_word_beside_a_bar() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with display(console) as made, made.added("the bar"):
        time.sleep(1.5)
    assert "the bar" in file.getvalue()
    assert "working" not in file.getvalue()


def test_each_counts_the_items_that_are_done() -> None:
    heard: list[str] = []

    class Listener:
        def begin(self, phase: Phase) -> None:
            begun.append(phase)

        def end(self, phase: Phase) -> None:
            heard.append(f"end, {phase.words()}")

    begun: list[Phase] = []
    with listening(Listener()):
        for item in each("ab", "hashing", "files"):
            heard.append(f"{item}, {begun[-1].words()}")
    assert heard == ["a, hashing: 0 of 2 files", "b, hashing: 1 of 2 files", "end, hashing: 2 of 2 files"]


def test_a_short_phase_is_not_worth_a_line() -> None:
    file = io.StringIO()
    with display(Console(file=file)), phase("nothing"):
        pass
    assert file.getvalue() == ""


def test_a_terminal_shows_what_is_done_and_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "_SHOWN_SECONDS", 0.0)
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with display(console), phase("sampling", 8, "network calls") as sampling:
        until(lambda: "sampling: 0 of 8 network calls, 0 s" in file.getvalue())
        sampling.advance(5)
        with phase("decoding"):
            until(lambda: "sampling: 5 of 8 network calls" in file.getvalue() and "decoding" in file.getvalue())
    # The last picture of a terminal is taken away again.
    assert file.getvalue().rpartition("decoding")[2].count("\x1b[2K") >= 1


def test_one_display_shows_all_that_lies_within() -> None:
    console = Console(file=io.StringIO())
    with display(console) as outer, display(Console(file=io.StringIO())) as inner:
        assert inner is outer


def test_phases_end_where_they_fail() -> None:
    heard: list[Phase] = []

    class Listener:
        def begin(self, phase: Phase) -> None:
            heard.append(phase)

        def end(self, phase: Phase) -> None:
            heard.remove(phase)

    with listening(Listener()):
        with pytest.raises(ValueError, match="no"), phase("failing"):
            raise ValueError("no")
        with phase("going on") as going:
            assert heard == [going]
    assert heard == []


@pytest.mark.parametrize(
    ("speed", "words"), [(0.00156, "641 s/step"), (0.4, "2.5 s/step"), (1, "1 steps/s"), (49.52, "49.5 steps/s")]
)
def test_slow_steps_are_told_in_seconds(speed: float, words: str) -> None:
    assert pace(speed) == words


def test_what_is_left_is_told_at_the_pace_so_far() -> None:
    doing = Phase("sampling", 8, "network calls")
    doing.began = 100.0
    assert doing.left(101.0) is None
    doing.advance(2)
    assert doing.left(130.0) == pytest.approx(90.0)
    doing.advance(6)
    assert doing.left(130.0) is None
    endless = Phase("waiting", 0, "")
    endless.advance(3)
    assert endless.left(130.0) is None
