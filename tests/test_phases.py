"""What takes long is told to whoever listens, and shown without a flood of lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from flowmap import phase_line
from flowmap.phase_line import phases_shown
from flowmap.phases import say, told


def test_who_listens_hears_it_and_nobody_else() -> None:
    heard: list[tuple[str, int, int]] = []
    say("before")
    with told(lambda *words: heard.append(words)):  # type: ignore[arg-type]
        say("reading", 1, 3)
        with told(None):
            say("in private")
        say("writing")
    say("after")
    assert heard == [("reading", 1, 3), ("writing", 0, 0)]


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(phase_line.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=80)
    with phases_shown(console) as tell:
        for second in range(9):
            now[0] = float(second)
            tell("reading [x]", second, 9)
        now[0] = 20.0
        tell("writing", 0, 1)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == ["reading [x] (3 of 9)", "reading [x] (6 of 9)", "writing"]


def test_on_a_terminal_it_is_in_place() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with phases_shown(console) as tell:
        tell("reading [x]", 3, 9)
    assert isinstance(console.file, io.StringIO)
    assert "reading [x] (3 of 9)" in console.file.getvalue()
