"""Print the tables of docs/results.md from a run's scores: `python docs/results.py runs/digits_full`."""

from __future__ import annotations

import sys
from pathlib import Path

from flowmap.folder import read_lines
from flowmap.verdict import HEADLINES, Cell, Place, cells


def tables(folder: Path) -> str:
    """One Markdown table per headline metric: rows are stage and sampler, columns network calls.

    A cell is the mean over training seeds and, behind ±, the larger of the mean spread under fresh noise and the
    standard deviation over seeds.
    """
    found = cells(read_lines(folder / "metrics.jsonl"))
    parts: list[str] = []
    for metric in HEADLINES:
        mine = {place: cell for place, cell in found.items() if place.metric == metric}
        calls = sorted({place.calls for place in mine})
        floor = next(iter(mine.values())).floor
        parts += [f"### {metric}", "", f"Floor {floor:.2f}.", ""]
        parts += [f"| | {' | '.join(map(str, calls))} |", f"| --- | {' | '.join('---' for _ in calls)} |"]
        for series in dict.fromkeys(place.series for place in mine):
            row = [_shown(mine.get(Place(series, metric, n))) for n in calls]
            parts.append(f"| {series.name}, `{series.sampler}` | {' | '.join(row)} |")
        parts.append("")
    return "\n".join(parts)


def _shown(cell: Cell | None) -> str:
    return f"{cell.value:.2f} ± {cell.noise:.2f}" if cell else ""


if __name__ == "__main__":
    print(tables(Path(sys.argv[1])))
