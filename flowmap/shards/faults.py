"""Unusable samples: named once, counted, and too many of them stop the run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import final

from flowmap.errors import FlowmapError
from flowmap.files.names import printable

FAULTS = "faults.jsonl"
"""Beside encoded shards: one line per sample that was left out, with its tar and the reason."""

_SHOWN = 20
_log = logging.getLogger("flowmap.data")


@final
@dataclass(frozen=True)
class Fault:
    """A sample, or a whole tar (then `key` is empty), that cannot be used."""

    tar: str
    key: str
    reason: str

    def __str__(self) -> str:
        # A file's name need not be text.
        tar = printable(self.tar)
        return f"{tar}: {self.key}: {self.reason}" if self.key else f"{tar}: {self.reason}"


@final
class Faults:
    """The faults of one process; `limit` of them are put up with."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: dict[tuple[str, str, str], Fault] = {}

    def add(self, tar: str, key: str, reason: str) -> None:
        """Log and count a fault: of a sample the first one, of a whole tar each reason.

        Raises FlowmapError, listing them, when they are too many.
        """
        which = (tar, key, "" if key else reason)
        if which not in self._found:
            fault = self._found[which] = Fault(tar, key, reason)
            _log.warning("skipped %s", fault)
        self.refuse_too_many()

    def refuse_too_many(self) -> None:
        """Raise FlowmapError, listing the faults, if they are too many."""
        if len(self._found) > self._limit:
            head = f"data: {len(self._found)} unusable samples or shards, more than the {self._limit} of data.faults:"
            raise FlowmapError(f"{head}\n{self.listed()}\nRepair or remove them, or raise data.faults.", code=1)

    def known(self, tar: str, key: str) -> bool:
        """Whether this sample has been found to be unusable."""
        return (tar, key, "") in self._found

    def found(self) -> list[Fault]:
        """All that was found, in order."""
        return list(self._found.values())

    def listed(self) -> str:
        """What was found, a line for each; of many the first ones."""
        found = list(self._found.values())
        more = [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        return "\n".join([f"  {fault}" for fault in found[:_SHOWN]] + more)
