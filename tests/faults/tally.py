"""What became of each fault that was tried, and the table of all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

Verdict = Literal["right", "lost", "silent", "traceback", "hang", "left out"]
"""What a fault led to. `left out`: it fell where nothing can be checked, and changed what came out: not counted."""

_COLUMNS = ("kind", "tried", *get_args(Verdict)[:-1])


@dataclass(frozen=True)
class Outcome:
    """What became of one fault: of which kind and case (what makes the same one again), and what was said."""

    kind: str
    case: str
    verdict: Verdict
    told: str = ""

    @property
    def wrong(self) -> bool:
        """Whether it is one of those that must not be."""
        return self.verdict not in ("right", "left out")


@dataclass
class Tally:
    """How often each verdict was given, by kind."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        self.counts.setdefault(outcome.kind, Counter())[outcome.verdict] += 1
        if outcome.wrong:
            self.wrong.append(outcome)

    def merge(self, other: Tally) -> None:
        """Count all that `other` has."""
        for kind, counts in other.counts.items():
            self.counts.setdefault(kind, Counter()).update(counts)
        self.wrong += other.wrong

    @property
    def clean(self) -> bool:
        """Whether something was tried, and nothing went wrong."""
        return bool(self.counts) and not self.wrong

    def table(self) -> str:
        """A line for each kind and one for all, as Markdown has tables."""
        rows = [list(_COLUMNS)]
        every: Counter[str] = Counter()
        for kind, counts in self.counts.items():
            rows.append(_row(kind, counts))
            every.update(counts)
        rows.append(_row("all", every))
        widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
        lines = [_line(row, widths) for row in rows]
        lines.insert(1, "| " + " | ".join(_rule(i, width) for i, width in enumerate(widths)) + " |")
        out = f"\nNot counted: {every['left out']} that fell where nothing can be checked." if every["left out"] else ""
        return "\n".join(lines) + out

    def save(self, path: Path) -> None:
        """Write it, for another process to read."""
        path.write_text(json.dumps({"counts": self.counts, "wrong": [asdict(one) for one in self.wrong]}))

    @classmethod
    def load(cls, path: Path) -> Tally:
        """Read what another process has saved."""
        content = json.loads(path.read_text())
        counts = {kind: Counter(numbers) for kind, numbers in content["counts"].items()}
        return cls(counts, [Outcome(**one) for one in content["wrong"]])


def _row(kind: str, counts: Counter[str]) -> list[str]:
    verdicts = _COLUMNS[2:]
    return [kind, str(sum(counts[v] for v in verdicts)), *(str(counts[v]) for v in verdicts)]


def _line(row: Iterable[str], widths: Iterable[int]) -> str:
    cells = [
        text.ljust(width) if i == 0 else text.rjust(width)
        for i, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "| " + " | ".join(cells) + " |"


def _rule(index: int, width: int) -> str:
    return "-" * width if index == 0 else "-" * (width - 1) + ":"
