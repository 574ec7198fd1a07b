"""What the stages of a run have cost, by its lines. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from flowmap.training.equivalents import equivalents
from flowmap.training.journal import Calls, StepLine, calls_in


@dataclass
class Cost:
    """What a stage cost, over all seeds: steps, network calls per role, backwards, seconds, peak bytes."""

    name: str
    planned: int = 0
    steps: int = 0
    calls: dict[str, Counter[str]] = field(default_factory=dict)
    backwards: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0

    def add(self, lines: Sequence[StepLine]) -> None:
        """Count lines of `steps.jsonl`."""
        self.steps += len(lines)
        # Most lines say the very same of their calls: each text is looked at once.
        for written, times in Counter(bytes(line.written_calls) for line in lines).items():
            self._call(calls_in(written), times)
        self.backwards += sum(line.backwards for line in lines)
        self.seconds += sum(line.seconds for line in lines)
        self.peak_bytes = max(self.peak_bytes, max((line.peak_bytes for line in lines), default=0))

    def include(self, other: Cost) -> None:
        """Count what `other` has counted."""
        self.planned += other.planned
        self.steps += other.steps
        self._call(other.calls, 1)
        self.backwards += other.backwards
        self.seconds += other.seconds
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)

    def _call(self, calls: Calls, times: int) -> None:
        for role, counts in calls.items():
            own = self.calls.setdefault(role, Counter())
            for kind, count in counts.items():
                own[kind] += times * count

    @property
    def total(self) -> Counter[str]:
        """Calls of all roles together."""
        return sum(self.calls.values(), Counter())

    def equivalents(self, recomputes: bool) -> int:
        """Network-call equivalents in samples (see `flowmap.training.equivalents`)."""
        return equivalents(self.calls, recomputes)
