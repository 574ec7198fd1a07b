"""What a comparison has found, as lines for other programs: `comparison.jsonl`. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from flowmap.comparison.sentences import sentences
from flowmap.comparison.standings import Standings
from flowmap.files.json_lines import rewrite_lines
from flowmap.statistics.effort import in_line

LINES = "comparison.jsonl"


def write_lines(standings: Standings) -> Path:
    """Write `comparison.jsonl`: a line per score, paired difference, cost, failure and finding."""
    path = standings.folder / LINES
    rewrite_lines(path, [*_score_lines(standings), *_difference_lines(standings), *_other_lines(standings)])
    return path


def _score_lines(standings: Standings) -> Iterator[dict[str, Any]]:
    for (metric, calls), spots in standings.spots.items():
        placed = standings.rounds[metric, calls].ranks()
        for row, spot in spots.items():
            yield {
                "kind": "score",
                **row._asdict(),
                "metric": metric,
                "calls": calls,
                "mean": spot.mean,
                "over_seeds": _json(spot.over_seeds),
                "over_noise": _json(spot.over_noise),
                "spread": _json(spot.spread),
                "floor": spot.floor,
                "better": spot.better,
                "rank": placed[row],
                **in_line(standings.efforts.get((row, calls))),
                "values": {str(seed): list(values) for seed, values in spot.values.items()},
                "remarks": list(standings.remarks.get(metric, ())),
            }


def _difference_lines(standings: Standings) -> Iterator[dict[str, Any]]:
    for (metric, calls), spots in standings.spots.items():
        for a, b in combinations(spots, 2):
            found = standings.rounds[metric, calls].difference(a, b)
            yield {
                "kind": "difference",
                "a": a._asdict(),
                "b": b._asdict(),
                "metric": metric,
                "calls": calls,
                "mean": _json(found.mean),
                "ratio": _json(found.ratio),
                "low": _json(found.low),
                "high": _json(found.high),
                "over": found.over,
                "count": found.count,
                "both_at_floor": found.both_at_floor,
                "more_seeds": found.more,
                "verdict": found.verdict,
            }


def _other_lines(standings: Standings) -> Iterator[dict[str, Any]]:
    for spent in standings.spent:
        yield {"kind": "cost", **vars(spent)}
    for failure in standings.failures:
        yield {"kind": "failure", **vars(failure)}
    for text in sentences(standings):
        yield {"kind": "finding", "metric": standings.metric, "text": text}


def _json(value: float) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None
