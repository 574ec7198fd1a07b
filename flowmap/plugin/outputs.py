"""Hold back what a plugin writes while it is imported: a command's output, which may be JSON, is its own."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, TextIO, final

_OUT, _ERR = 1, 2


@final
class Held:
    """What this thread, and threads that it has just begun, write to stdout and stderr, by whatever means.

    `strays` are threads of earlier plugins, which go on.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._told = file, 0
        self._before = set(threading.enumerate()) - {threading.current_thread()}
        self.strays: set[threading.Thread] = set()
        self.text = io.TextIOWrapper(file, "utf-8", "backslashreplace", write_through=True)
        self.over = False
        self.aloud: TextIO | None = None
        self._writing = threading.RLock()

    def since(self) -> str:
        """What was written since this was asked last, in one line."""
        with self._writing:
            self.strays |= set(threading.enumerate()) - self._before - {threading.current_thread()}
            size = os.fstat(self._file.fileno()).st_size
        written = os.pread(self._file.fileno(), size - self._told, self._told)
        self._told = size
        return " ".join(written.decode("utf-8", "replace").split())

    def say(self, text: str) -> None:
        """Say a line on stderr that is not held back."""
        if self.aloud is None:
            return
        shown = "\x1b[?25h\n" if self.aloud.isatty() else ""  # the cursor, after what shows that the command works
        self.aloud.write(f"{shown}{text}\n")
        self.aloud.flush()

    def stream(self, given: TextIO, through: TextIO, stray: Callable[[], TextIO]) -> TextIO:
        """What stands for the stream `given` meanwhile: what other threads write goes `through`, of strays to `stray`.

        Whoever keeps it, as handlers of logs do, has `given` when all is over.
        """

        def chosen() -> TextIO:
            thread = threading.current_thread()
            if thread in self.strays:
                return stray()
            if self.over:
                return given
            return through if thread in self._before else self.text

        return _Stream(chosen, self._writing)  # type: ignore[return-value]


@contextmanager
def held() -> Iterator[Held]:
    """Hold back all that this thread, and what it begins, writes in this context. Others show what goes on.

    A thread that was begun in it and goes on writes to stderr, for what it writes is no result of a command.
    """
    out, err, given = sys.stdout, sys.stderr, sys.stdin
    with ExitStack() as stack:
        kept = Held(stack.enter_context(_nameless()))
        out_through = stack.enter_context(_elsewhere(out, _OUT, kept))
        err_through = stack.enter_context(_elsewhere(err, _ERR, kept))
        kept.aloud = err_through
        stands = kept.stream(out, out_through, lambda: err if kept.over else err_through)
        try:
            # Whoever asks a question at import gets no answer.
            with open(os.devnull, encoding="utf-8") as sys.stdin:
                sys.stdout = stands
                sys.stderr = kept.stream(err, err_through, lambda: err if kept.over else err_through)
                yield kept
        finally:
            kept.over = True
            sys.stdin, sys.stdout, sys.stderr = given, stands if kept.strays else out, err


@contextmanager
def _nameless() -> Iterator[IO[bytes]]:
    """A file without a name; where there is none in memory, among the temporary ones."""
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("flowmap"), "r+b", 0)
    else:
        file = tempfile.TemporaryFile("r+b", 0)  # noqa: SIM115
    with file:
        yield file


@contextmanager
def _elsewhere(stream: TextIO, descriptor: int, kept: Held) -> Iterator[TextIO]:
    """Have `descriptor`, if it is open, lead to what is kept; returns what leads where `stream` did."""
    stream.flush()
    try:
        saved = os.dup(descriptor)
    except OSError:
        yield stream
        return
    through = stream
    with suppress(OSError, ValueError, AttributeError):  # it is no file: somebody's own
        if stream.fileno() == descriptor:
            through = open(saved, "w", 1, stream.encoding, stream.errors, closefd=False)  # noqa: SIM115
    os.dup2(kept.text.fileno(), descriptor)
    try:
        yield through
    finally:
        os.dup2(saved, descriptor)
        if through is not stream:
            with suppress(OSError):
                through.close()
        os.close(saved)


@final
class _Stream:
    """A stream that is, for each call, whichever is `chosen` then."""

    def __init__(self, chosen: Callable[[], TextIO], writing: threading.RLock) -> None:
        self._chosen, self._writing = chosen, writing

    def write(self, text: str) -> int:
        with self._writing:
            return self._chosen().write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chosen(), name)
