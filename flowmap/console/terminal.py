"""What a terminal and a launcher give a command, made fit for it: streams that take every sign, variables that are set.

Torch-free.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import stat
import sys
from typing import TYPE_CHECKING, Final, TextIO, final

from flowmap.errors import FlowmapError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_SIGNS: Final = str.maketrans(
    {
        "✓": "ok",
        "✗": "failed",
        "•": "*",
        "→": "->",
        "×": "x",
        "·": "-",
        "±": "+-",
        "≈": "~",
        "≥": ">=",
        "≤": "<=",
        "…": "...",
        "–": "-",
        "—": "-",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "━": "-",
        # What turns while something is done.
        **dict(zip("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\|/-\\|/", strict=True)),
    }
)
"""What stands for a sign of ours on a terminal that does not have it."""

_HANDLER = "flowmap.plain"
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN)
_OTHERS = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_PORT")
# Of MPI's launchers accelerate takes them too, and of its own launcher flags.
_READ_BY_OTHERS = ("PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "ACCELERATE_", "FSDP_")
_MOST_PORT = 65_535
_SHOWN = 40  # characters of a value


@final
class Terminal:
    """The streams of this process, once they are fit."""

    def __init__(self) -> None:
        self._streams: list[_Lasting] = []

    def lasting(self, stream: TextIO) -> TextIO:
        """`stream` as one that lasts until the command is done, whoever stops reading, and takes every sign."""
        try:
            raw = _Lasting(stream.fileno())
        except (OSError, ValueError, AttributeError):  # it is no file: somebody's own
            return stream
        stream.flush()
        self._streams.append(raw)
        return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, _HANDLER, line_buffering=True)

    def lost(self) -> str | None:
        """Why some of the output is nowhere, if anybody may still be waiting for it."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return next((raw.failure for raw in self._streams if raw.failure), None)


def prepare() -> Terminal:
    """Make the streams of this process fit; to be called before anything is printed."""
    codecs.register_error(_HANDLER, _plain)
    _open_standard()
    made = Terminal()
    # Elsewhere somebody has put streams of their own there, for a reason.
    out, err = sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__
    if out:
        sys.stdout = made.lasting(sys.stdout)
    if err:
        sys.stderr = made.lasting(sys.stderr)
    return made


def _open_standard() -> None:
    """Have the three descriptors that every program begins with: a file that got one of them would be printed into."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What to write in the place of signs that the terminal's encoding does not have; its bytes, of what is no sign."""
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    told = lost.translate(_SIGNS)
    return told.encode("ascii", "backslashreplace").decode("ascii"), error.end


@final
class _Lasting(io.RawIOBase):
    """A file that goes on taking what is written when its reader has gone: `| head`, a terminal that was closed.

    Work that takes hours does not end with whoever looked at it. What else cannot be written (the disk is full) is lost
    too, and `failure` says why.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.failure: str | None = None

    def writable(self) -> bool:
        """It is for writing only."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether somebody may be looking."""
        return os.isatty(self._descriptor)

    def write(self, content: ReadableBuffer, /) -> int:
        """Write some of `content`, or lose it; how many bytes were taken."""
        data = memoryview(content)
        try:
            return os.write(self._descriptor, data)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise
            # Of a file it is a disk that fails.
            hung_up = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self._descriptor).st_mode)
            if not hung_up and error.errno not in _GONE:
                self.failure = error.strerror
                return len(data)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._descriptor)
        os.close(nowhere)
        return len(data)


def settle_launcher() -> None:
    """Drop a launcher's variables that are empty, and those that nobody reads in a process that is alone.

    Raises FlowmapError for those that say something impossible.
    """
    every = ("RANK", "WORLD_SIZE", "MASTER_ADDR", *_OTHERS)
    for name in (*every, *(name for name in os.environ if name.startswith(_READ_BY_OTHERS))):
        if not os.environ.get(name, "something").strip():
            del os.environ[name]
    world, rank = _number("WORLD_SIZE", 1, 1), _number("RANK", 0, 0)
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if world > 1:
        if missing:
            raise FlowmapError(
                f"WORLD_SIZE is {world}, as a launcher of several processes sets it, and {missing[0]} is not set; "
                "start this by torchrun, or unset WORLD_SIZE"
            )
        if rank >= world:
            raise FlowmapError(
                f"RANK is {rank} and WORLD_SIZE {world}, but ranks begin at 0; start this by torchrun, or unset both"
            )
        for name in _OTHERS:
            _number(name, int(name.endswith("SIZE")), 1)
        return
    # Left behind by something else: alone, this process is the first.
    if rank:
        del os.environ["RANK"]
    if missing:
        # Accelerate would wait for processes that nobody has started.
        os.environ.pop("LOCAL_RANK", None)
    for name in _OTHERS:
        try:
            _number(name, 0, 0)
        except FlowmapError:
            # A service called "master" gives a container MASTER_PORT=tcp://..., which is none of our business.
            del os.environ[name]


def _number(name: str, least: int, default: int) -> int:
    """The whole number that a variable of the environment is; `default` if it is not set."""
    text = os.environ.get(name, str(default)).strip()
    # isdecimal takes digits of other scripts, as int does; whoever reads these later may not.
    whole = text.isascii() and text.isdecimal() and len(text) < 10
    if not whole or int(text) < least or (name == "MASTER_PORT" and int(text) > _MOST_PORT):
        raise FlowmapError(
            f"the environment variable {name} is '{text[:_SHOWN]}', which no launcher of processes says; unset it"
        )
    return int(text)
