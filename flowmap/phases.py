"""What takes long, told by whoever does it to whoever shows it, without either knowing the other. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Tell = Callable[[str, int, int], object]
"""What is being done (a few words, as after "now"), how many parts of it are done, and of how many; 0 if not known."""

_TELL: ContextVar[Tell | None] = ContextVar("flowmap_tell", default=None)


@contextmanager
def told(tell: Tell | None) -> Iterator[None]:
    """Within this context `tell` hears of every phase."""
    token = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(token)


def say(text: str, done: int = 0, total: int = 0) -> None:
    """Tell whoever listens that `text` is being done, and that `done` parts of `total` are."""
    tell = _TELL.get()
    if tell is not None:
        tell(text, done, total)
