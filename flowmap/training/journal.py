"""`steps.jsonl`, a line for every finished step: written as training goes, held against the checkpoints. Torch-free."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import msgspec

from flowmap.files.folder import StoppedError
from flowmap.files.json_lines import as_line, shortened, whole_lines
from flowmap.files.manifest import Checkpoint, StepsSeal, checkpoints, read_manifest
from flowmap.files.texts import TextError
from flowmap.files.whole import write_whole_file
from flowmap.phases import phase

STEPS = "steps.jsonl"

_TIMES = b', "seconds": '
"""From here on a line says what is another in every run of the same recipe: times and memory."""

_MOST = 2**63 - 1
_KNOWN_CALLS = 1 << 14  # texts; most steps of a stage make the very same calls

Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
Calls = Mapping[str, Mapping[str, int]]
"""Network calls by role and kind."""

if TYPE_CHECKING:
    Number = float
else:
    # As it is written; who reads a line gets a float in the place of each string.
    Number = float | Literal["NaN", "Infinity", "-Infinity"]


@final
class StepLine(msgspec.Struct, gc=False):
    """A line: what the step `step` (from 1 on) was like. There may be a million, so they are read as fast as can be."""

    step: Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
    losses: dict[str, Number]
    raw: dict[str, Number]
    norms: dict[str, Number]
    lr: dict[str, Number]
    written_calls: msgspec.Raw = msgspec.field(name="calls")
    backwards: Count
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    peak_bytes: Count

    @property
    def calls(self) -> Calls:
        """The network calls, one object for all lines with the same: not to be changed."""
        return calls_in(bytes(self.written_calls))


_line = msgspec.json.Decoder(StepLine)
_calls = msgspec.json.Decoder(dict[str, dict[str, Count]])


@lru_cache(_KNOWN_CALLS)
def calls_in(written: bytes) -> Calls:
    """The network calls that a line says in the JSON text `written`; raises msgspec.ValidationError for other text."""
    return _calls.decode(written)


@final
class Seal:
    """The number and the SHA-256 of the lines so far, each without its times: those of any run of the same recipe."""

    def __init__(self) -> None:
        self._lines = 0
        self._digest = hashlib.sha256()

    def add(self, line: bytes) -> None:
        """Take one more line, as it stands in the file."""
        self._lines += 1
        self._digest.update(line.rstrip(b"\n").rpartition(_TIMES)[0])
        self._digest.update(b"\n")

    def note(self, line: Mapping[str, Any]) -> None:
        """Take one more line that is about to be written."""
        self.add(as_line(line))

    def facts(self) -> StepsSeal:
        """What a manifest says of the lines."""
        return StepsSeal(lines=self._lines, sha256=self._digest.hexdigest())


def read_steps(stage: Path) -> list[StepLine]:
    """The lines of the stage in the folder `stage`, oldest first, as far as there are any.

    They may begin later than at step 1 (see `lost_steps`). Raises StoppedError if a line is damaged, missing or
    altered, as far as the newest checkpoint can tell; its `first` is the command that moves the file away.
    """
    # The manifest first: a run that is at work adds lines meanwhile, and never takes any away.
    newest = _newest(stage)
    return _checked(stage, whole_lines(stage / STEPS), newest, _seal(newest))


def _newest(stage: Path) -> Checkpoint | None:
    return next(reversed(checkpoints(stage)), None)


def _seal(checkpoint: Checkpoint | None) -> StepsSeal | None:
    """What `checkpoint` says of the lines; None if it does not, or cannot be read, which whoever reads it says."""
    try:
        return read_manifest(checkpoint).steps if checkpoint else None
    except TextError:
        return None


def _checked(stage: Path, raw: Sequence[bytes], newest: Checkpoint | None, seal: StepsSeal | None) -> list[StepLine]:
    """The lines `raw` of the stage, held against its newest checkpoint."""
    path = stage / STEPS
    found: list[StepLine] = []
    with phase(f"reading {path}", len(raw), "lines") as doing:
        for number, text in enumerate(raw, start=1):
            try:
                found.append(_read(text))
            except TextError as error:
                raise _damaged(path, f": line {number}: damaged, {shortened(str(error))}") from None
            doing.done = number
    try:
        _refuse_altered(found, raw, newest, seal)
    except TextError as error:
        raise _damaged(path, f": {error}") from None
    return found


def _read(text: bytes) -> StepLine:
    """The line that `text` is; raises TextError, naming the field, for any other text."""
    try:
        line = _line.decode(text)
        calls_in(bytes(line.written_calls))
        if not text.isascii():
            text.decode()  # what stands in fields of no name is skipped, not looked at
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise TextError(_misfit(error)) from None
    if b'NaN"' in text or b'Infinity"' in text:
        for numbers in (line.losses, line.raw, line.norms, line.lr):
            numbers.update({name: float(value) for name, value in numbers.items()})
    return line


def _misfit(error: Exception) -> str:
    """What is wrong with a line, as a sentence: "'seconds': expected `float`, got `str`"."""
    if not isinstance(error, msgspec.ValidationError):
        return f"is no JSON: {error}"
    message, _, place = str(error).partition(" - at ")
    field = re.sub(r"^`(?:key in )?\$\.?|`$", "", place)
    if missing := re.search(r"missing required field `(.*)`", message):
        field, message = missing[1], "Field required"
    said = f"{message[:1].lower()}{message[1:]}"
    return f"'{field}': {said}" if field else said


def lost_steps(stage: Path, found: Sequence[StepLine]) -> int:
    """How many finished steps of the stage the lines `found` say nothing about."""
    if found:
        return found[0].step - 1
    newest = _newest(stage)
    return newest.step if newest else 0


def begin(stage: Path, done: int) -> tuple[Seal, int]:
    """Keep the lines of the first `done` steps and no others: those after a checkpoint are taken again.

    Returns their seal, and how many of the steps they say nothing about. Raises what `read_steps` does, of the lines
    that are kept alone: what was written after the checkpoint may be anything, if the machine has died.
    """
    newest = _newest(stage)
    sealed = _seal(newest)
    raw = whole_lines(stage / STEPS) if done else []
    raw = raw[: sealed.lines] if sealed else raw
    found = _checked(stage, raw, newest, sealed)
    kept = raw[: sum(line.step <= done for line in found)]
    write_whole_file(stage / STEPS, lambda part: part.write_bytes(b"".join(line + b"\n" for line in kept)))
    seal = Seal()
    for line in kept:
        seal.add(line)
    return seal, done - len(kept)


def _refuse_altered(
    found: Sequence[StepLine], raw: Sequence[bytes], newest: Checkpoint | None, seal: StepsSeal | None
) -> None:
    """Raise TextError if the lines are not what was written, as far as the checkpoint `newest` can tell."""
    if not found:
        return
    first = found[0].step
    for wanted, line in enumerate(found, start=first):
        if line.step != wanted:
            place = wanted - first + 1
            raise TextError(f"line {place} is of step {line.step}, where that of step {wanted} should be")
    # Begun anew after that checkpoint: what was before is lost, which `lost_steps` counts.
    if newest is None or first > newest.step:
        return
    there = min(len(found), newest.step - first + 1)
    wanted = seal.lines if seal else newest.step - first + 1
    if there != wanted:
        raise TextError(f"{there} of the {wanted} lines are left that were there when {newest.path.name} was saved")
    mine = Seal()
    for text in raw[:there]:
        mine.add(text)
    if seal and mine.facts() != seal:
        raise TextError(f"one of the first {there} lines is not as it was when {newest.path.name} was saved")


def _damaged(path: Path, why: str) -> StoppedError:
    return StoppedError(
        f"{path}{why}. Put it back as it was, or move it away: then no report counts its steps.",
        first=shlex.join(["mv", str(path), str(_aside(path))]),
    )


def _aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"damaged-{number}-{path.name}")).exists():
        number += 1
    return aside
