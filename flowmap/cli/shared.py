"""Commands that several processes carry out together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flowmap.console.commands import process
from flowmap.errors import FlowmapError

SHARED = ("run", "sample", "evaluate", "encode", "vbench")


@contextmanager
def sharing() -> Iterator[None]:
    """Work in this context with all other processes; raises FlowmapError if one of them has ended before its time."""
    try:
        yield
    except RuntimeError as error:
        if process()[1] == 1 or "by peer" not in str(error):
            raise
        why = "its own message says why, or it was killed (out of memory?)"
        raise FlowmapError(f"another process has stopped; {why}", 1) from error
    if process()[1] > 1:
        from flowmap.training.processes import leave

        leave()
