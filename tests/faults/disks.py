"""Disks that are full, failing or read-only from some write on; with room again, the command comes to the same end."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .running import injected, limited
from .scenes import Scene
from .tally import Outcome, Verdict

_ERRORS = ("ENOSPC", "ENOSPC", "EDQUOT", "EROFS", "EIO", "EIO")
_LEAST = 3000  # bytes of a file: what is printed goes to one too


def disks(scene: Scene, seed: int, count: int, broken: str = "") -> Iterator[Outcome]:
    """`count` disks under the command of a scene; every kind of operation on every kind of file gets its turn."""
    whole = scene.whole[0]
    kinds = _kinds(scene.operations)
    largest = max((path.stat().st_size for path in whole.rglob("*") if path.is_file()), default=0)
    for number in range(count):
        dice = random.Random(f"{seed}/{scene.name}/{number}")
        folder = scene.copied(f"disk-{seed}-{number}")
        if largest > _LEAST and dice.random() < 0.15:
            size = round(_LEAST * (largest / _LEAST) ** dice.random())
            patch, place = limited(size), f"files of up to {size} bytes"
        else:
            names = sorted(kinds)
            kind = names[number % len(names)] if number < 2 * len(names) else dice.choice(names)
            at, error = dice.choice(kinds[kind]), dice.choice(_ERRORS)
            patch, place = injected(folder, error, at), f"{error} from operation {at} on ({kind})"
        met = scene.run(folder, broken + patch)
        case = f"{folder}: {place}"
        wrong: tuple[Verdict, str] | None = None
        if met.broken:
            wrong = met.broken, met.text
        elif met.code and not _told(met.error):
            wrong = "silent", f"no sentence says what could not be written:\n{met.text}"
        elif not met.code and (other := scene.difference(folder)):
            wrong = "silent", f"ended with exit code 0 and another result: {other}"
        yield Outcome(f"disk: {scene.name}", case, *(wrong or scene.in_the_end(folder, {}, broken)))


def _kinds(operations: Sequence[str]) -> dict[str, list[int]]:
    """The numbers of the operations of each kind on each kind of file: steps, seeds and hashes make no other."""
    found: dict[str, list[int]] = {}
    for number, line in enumerate(operations, start=1):
        what, _, path = line.partition(" ")
        parts = Path(path).parts[-2:]
        name = re.sub(r"[0-9a-f]{6,}|\d+", "N", "/".join(parts))
        found.setdefault(f"{what} {name}", []).append(number)
    return found


def _told(error: str) -> bool:
    """Whether it is a sentence about a file."""
    return bool(re.search(r"cannot (write|read|be)|failed", error)) and len(error.splitlines()) < 8
