"""Signals: which are heard, what a second one does, and that they are told at once."""

from __future__ import annotations

import os
import pty
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from flowmap.console.signals import HEARD, Interruption, Signalled
from flowmap.files.folder import StoppedError
from flowmap.training.checkpoint import checkpoints
from tests.small_runs import FORWARD, HEAD, TEACHER, start


@pytest.mark.parametrize("number", HEARD)
def test_every_signal_of_schedulers_ends_the_work_in_a_sentence(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    said = f"stopped by {number.name}; what was finished is saved"
    with pytest.raises(StoppedError, match=said) as caught, Interruption().listening():
        signal.raise_signal(number)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) == before


def sent(*numbers: signal.Signals, told: list[str]) -> tuple[int, signal.Signals]:
    """Send signals to patient work: how many it survived, and which it was ended by, then or afterwards."""
    interruption, survived = Interruption(told.append), 0
    try:
        with interruption.raising(), interruption.patience():
            for number in numbers:
                signal.raise_signal(number)
                survived += 1
    except Signalled as error:
        return survived, error.signal
    raise AssertionError("nothing was raised")


def test_the_first_signal_is_told_and_noted_and_a_second_ctrl_c_acts() -> None:
    told: list[str] = []
    # torchrun sends SIGTERM after Ctrl-C, to processes that have heard that.
    survived, caught = sent(signal.SIGINT, signal.SIGTERM, signal.SIGINT, told=told)
    assert (survived, caught) == (2, signal.SIGINT)
    assert told == ["SIGINT: stopping after this step; again to stop now"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGXCPU])
def test_what_systems_repeat_by_themselves_is_patient(number: signal.Signals) -> None:
    assert sent(number, number, number, told=[]) == (3, number)


def test_nohup_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption().raising():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


ON_A_TERMINAL = """
import os, sys, time
os.setsid()
terminal = os.open({terminal!r}, os.O_RDWR)
import fcntl, termios
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
for number in (0, 1, 2):
    os.dup2(terminal, number)
os.environ |= {{"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}}
import flowmap.cli.consoles
flowmap.cli.consoles.out.is_interactive = True  # which was asked before there was a terminal
import flowmap.training.train
original = flowmap.training.train.append_line
def slow(path, line):
    time.sleep(0.1)
    original(path, line)
flowmap.training.train.append_line = slow
"""


def test_a_terminal_that_goes_away_costs_nothing(tmp_path: Path) -> None:
    """As when a connection breaks: SIGHUP comes, and whatever is written to the terminal fails."""
    (tmp_path / "recipe.toml").write_text(HEAD + TEACHER.replace("steps = 6", "steps = 600") + FORWARD)
    ours, theirs = pty.openpty()
    process = start(tmp_path, "run", "recipe.toml", patch=ON_A_TERMINAL.format(terminal=os.ttyname(theirs)))
    steps = tmp_path / "runs" / "small" / "teacher" / "steps.jsonl"
    seen = b""

    def begun() -> bool:
        nonlocal seen
        os.set_blocking(ours, False)
        with suppress(BlockingIOError):
            seen += os.read(ours, 1 << 16)
        return steps.exists() and len(steps.read_text().splitlines()) > 3

    process.until(begun)
    os.close(theirs)
    os.close(ours)
    assert process.wait() == 128 + signal.SIGHUP
    assert b"teacher" in seen
    assert b"left" in seen
    done = len(steps.read_text().splitlines())
    assert checkpoints(steps.parent)[-1].step == done < 600
