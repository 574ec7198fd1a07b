"""The runs that somebody could have meant, who has named a folder that is none. Torch-free."""

from __future__ import annotations

from pathlib import Path

from flowmap.files.sealed import read_sealed
from flowmap.files.texts import TextError, is_file, is_folder
from flowmap.weights.runs import RUN_LOCK

_SHOWN = 12


def runs_near(folder: Path) -> str:
    """The runs in `folder`, as in that of a comparison, or else beside it: how a message ends."""
    return runs_in(folder) or runs_in(folder.parent)


def runs_in(folder: Path) -> str:
    """The runs in `folder`, or in the folders in it, as a message ends; nothing if there are none."""
    if not is_folder(folder):
        return ""
    found: list[Path] = []
    try:
        for place in sorted(folder.iterdir()):
            found += (
                [place] if is_file(place / RUN_LOCK) else sorted(lock.parent for lock in place.glob(f"*/{RUN_LOCK}"))
            )
    except OSError:
        pass  # what cannot be read is offered to nobody
    runs = [str(place.relative_to(folder)) for place in found if _is_run(place)]
    if not runs:
        return ""
    more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
    return f"; runs in {folder}: {', '.join(runs[:_SHOWN])}{more}"


def _is_run(folder: Path) -> bool:
    """Whether the lock in `folder` is a run's, and not that of a stage."""
    try:
        return "name" in read_sealed(folder / RUN_LOCK)
    except (OSError, TextError):
        return True  # a damaged one is somebody's run too
