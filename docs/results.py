"""Print the tables of docs/results.md and docs/comparisons.md: `python docs/results.py runs/digits_full`.

The folder is a run's or a comparison's.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from flowmap.comparison.record import is_comparison_folder, load
from flowmap.comparison.sentences import sentences
from flowmap.statistics.scores import read_scores
from flowmap.statistics.verdict import HEADLINES, Cell, Place, cells


def tables(folder: Path) -> str:
    """One Markdown table per headline metric: rows are stage and sampler, columns network calls.

    A cell is the mean over training seeds and, behind ±, the larger of the mean spread under fresh noise and the
    standard deviation over seeds.
    """
    found = cells(read_scores(folder / "metrics.jsonl"))
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


def comparison(folder: Path) -> str:
    """One table by the decisive metric, its findings, and what each contestant cost.

    A cell is the mean over seeds, ± the standard deviation of a single score of one more training, and in brackets the
    rank: 1 + the number of rows that are better beyond chance.
    """
    found = load(folder)
    metric, calls = found.metric, found.calls(found.metric)
    placed = {n: found.rounds[metric, n].ranks() for n in calls}
    floor = next(iter(found.at(metric, calls[-1]).values())).floor
    parts = [f"`{metric}`, floor {floor:.2f}:", ""]
    parts += [f"| | {' | '.join(map(str, calls))} |", f"| --- | {' | '.join('---' for _ in calls)} |"]
    for row in found.rows:
        spots = [(found.at(metric, n).get(row), placed[n].get(row)) for n in calls]
        told = [f"{spot.mean:.2f} ± {spot.spread:.2f} ({rank})" if spot else "" for spot, rank in spots]
        parts.append(f"| {found.label(row)} | {' | '.join(told)} |")
    parts += ["", *(f"- {sentence}" for sentence in sentences(found)), ""]
    parts += ["| | steps | call equivalents | seconds | peak MiB |", "| --- | --- | --- | --- | --- |"]
    for spent in found.spent:
        if spent.steps:
            steps = " + ".join(f"{n:,}" for n in spent.steps.values())
            numbers = (statistics.fmean(spent.calls.values()), statistics.fmean(spent.seconds.values()))
            memory = spent.peak_bytes / 2**20
            parts.append(f"| {spent.contestant} | {steps} | {numbers[0]:,.0f} | {numbers[1]:.0f} | {memory:.0f} |")
    return "\n".join(parts)


def _shown(cell: Cell | None) -> str:
    return f"{cell.value:.2f} ± {max(cell.redraw, cell.between or 0.0):.2f}" if cell else ""


if __name__ == "__main__":
    given = Path(sys.argv[1])
    print(comparison(given) if is_comparison_folder(given) else tables(given))
