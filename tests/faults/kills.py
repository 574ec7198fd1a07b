"""Kills: at random moments and before random operations; then the same command comes to the same end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from .running import Ended, begin, finish, injected
from .scenes import Scene
from .tally import Outcome

MOST_KILLS = 4
"""In a row, before the command is left alone."""


def kills(scene: Scene, seed: int, count: int, broken: str = "") -> Iterator[Outcome]:
    """`count` kills of the command of a scene; `broken` is a patch of what is disturbed, by which the harness is tried.

    Several follow each other in one folder. What is wrong in the end counts for the last of them.
    """
    tried = row = 0
    while tried < count:
        dice = random.Random(f"{seed}/{scene.name}/{row}")
        number = min(dice.randint(1, MOST_KILLS), count - tried)
        yield from _row(scene, f"{seed}-{row}", number, dice, broken)
        tried, row = tried + number, row + 1


def _row(scene: Scene, name: str, number: int, dice: random.Random, broken: str) -> Iterator[Outcome]:
    """So many kills in a row in one folder."""
    kind, busy = f"kill: {scene.name}", scene.whole[1].busy
    folder = scene.copied(f"kill-{name}")
    told, finished = [], dict[str, object]()
    for left in reversed(range(number)):
        place, killed = _killed(scene, folder, dice, busy, broken)
        told.append(place)
        case = f"{folder}: {'; '.join(told)}"
        # Killed itself or by another's end, it may say anything but a traceback.
        if killed.code is None or "Traceback" in killed.text:
            yield Outcome(kind, case, killed.broken or "traceback", killed.text)
            return
        if gone := scene.gone(finished, folder):
            yield Outcome(kind, case, "lost", gone)
            return
        finished.update(scene.progress(folder))
        if left:
            yield Outcome(kind, case, "right")
    yield Outcome(kind, case, *scene.in_the_end(folder, finished, broken))


def _killed(scene: Scene, folder: Path, dice: random.Random, busy: float, broken: str) -> tuple[str, Ended]:
    """Kill the command once, before an operation or after a while: where, and how it ended."""
    patch, after, place = broken, dice.random() * busy, "all"
    if by_operation := dice.random() < 0.6:
        whom = "all" if dice.random() < 0.7 else "one"
        at = dice.randint(1, len(scene.operations))
        rank = dice.randrange(scene.processes) if scene.processes > 1 else None
        patch += injected(folder, "kill all" if whom == "all" else "kill", at, rank=rank)
        place = f"{whom} before operation {at}" + (f" of process {rank}" if rank is not None else "")
    else:
        place = f"all after {after:.2f} s"
    process = begin(folder, *scene.words, patch=patch, processes=scene.processes, report=scene.report)
    return place, finish(process, None if by_operation else lambda used: used >= after)
