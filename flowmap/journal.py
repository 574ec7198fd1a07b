"""`steps.jsonl`, a line for every finished step: written as training goes, held against the checkpoints. Torch-free."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, final

from pydantic import BaseModel, ConfigDict, Field

from flowmap.folder import StoppedError, as_line, parsed, whole_lines, write_whole_file
from flowmap.manifest import Checkpoint, StepsSeal, checkpoints, read_manifest
from flowmap.texts import TextError

STEPS = "steps.jsonl"

_TIMES = b', "seconds": '
"""From here on a line says what is another in every run of the same recipe: times and memory."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(strict=False)]
"""A float, or one of the strings that stand for those that JSON does not have."""


class StepLine(BaseModel):
    """The shape of a line."""

    model_config = ConfigDict(strict=True)

    step: Annotated[int, Field(ge=1, lt=2**63)]
    losses: dict[str, Number]
    raw: dict[str, Number]
    norms: dict[str, Number]
    lr: dict[str, Number]
    calls: dict[str, dict[str, Count]]
    backwards: Count
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    peak_bytes: Count


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


def read_steps(stage: Path) -> list[dict[str, Any]]:
    """The lines of the stage in the folder `stage`, oldest first, as far as there are any.

    They may begin later than at step 1 (see `lost_steps`). Raises StoppedError if a line is damaged, missing or
    altered, as far as the newest checkpoint can tell; its `first` is the command that moves the file away.
    """
    found, _ = _read(stage)
    return found


def _read(stage: Path) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The lines, and how they stand in the file."""
    # The manifest first: a run that is at work adds lines meanwhile, and never takes any away.
    newest = checkpoints(stage)[-1:]
    path = stage / STEPS
    raw = whole_lines(path)
    try:
        found = parsed(raw, StepLine)
    except TextError as error:
        raise _damaged(path, f", {error}") from None
    try:
        _refuse_altered(found, raw, newest[0] if newest else None)
    except TextError as error:
        raise _damaged(path, f": {error}") from None
    return found, raw


def lost_steps(stage: Path, found: Sequence[Mapping[str, Any]]) -> int:
    """How many finished steps of the stage the lines `found` say nothing about."""
    if found:
        return int(found[0]["step"]) - 1
    newest = checkpoints(stage)[-1:]
    return newest[0].step if newest else 0


def begin(stage: Path, done: int) -> tuple[Seal, int]:
    """Keep the lines of the first `done` steps and no others: those after a checkpoint are taken again.

    Returns their seal, and how many of the steps they say nothing about. Raises what `read_steps` does.
    """
    found, raw = _read(stage)
    kept = raw[: sum(line["step"] <= done for line in found)]
    write_whole_file(stage / STEPS, lambda part: part.write_bytes(b"".join(line + b"\n" for line in kept)))
    seal = Seal()
    for line in kept:
        seal.add(line)
    return seal, done - len(kept)


def _refuse_altered(found: Sequence[Mapping[str, Any]], raw: Sequence[bytes], newest: Checkpoint | None) -> None:
    """Raise TextError if the lines are not what was written, as far as the checkpoint `newest` can tell."""
    if not found:
        return
    first = found[0]["step"]
    for place, line in enumerate(found):
        if line["step"] != first + place:
            wanted = first + place
            raise TextError(f"line {place + 1} is of step {line['step']}, where that of step {wanted} should be")
    # Begun anew after that checkpoint: what was before is lost, which `lost_steps` counts.
    if newest is None or first > newest.step:
        return
    try:
        seal = read_manifest(newest).steps
    except TextError:
        return  # whoever reads the checkpoint says so
    sealed = sum(line["step"] <= newest.step for line in found)
    wanted = seal.lines if seal else newest.step - first + 1
    if sealed != wanted:
        raise TextError(f"{sealed} of the {wanted} lines are left that were there when {newest.path.name} was saved")
    mine = Seal()
    for line in raw[:sealed]:
        mine.add(line)
    if seal and mine.facts() != seal:
        raise TextError(f"one of the first {sealed} lines is not as it was when {newest.path.name} was saved")


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
