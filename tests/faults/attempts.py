"""Attempts that go wrong in each way, for tests of the harness; a new process imports them and little else."""

from __future__ import annotations

import os
import time

from flowmap.errors import FlowmapError

from .inputs import Try


def never(number: int) -> None:
    """It does not end."""
    while True:
        pass


def fail(number: int) -> None:
    """The second is taken for another."""
    assert number != 1


def refuse(number: int) -> None:
    """The second is refused, which nobody has expected."""
    if number == 1:
        raise FlowmapError("nobody has caught this")


def die(number: int) -> None:
    """The second takes the process with it."""
    if number == 1:
        os._exit(3)


def wait(number: int) -> None:
    """The second waits for what never comes."""
    if number == 1:
        time.sleep(10_000)


def same(attempt: Try) -> Try:
    """What makes an attempt, where it is made already."""
    return attempt
