"""Write `comparison.html`: one page that says which contestant to use, from a comparison's folder alone. Torch-free."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from markupsafe import Markup

from flowmap.comparison import efforts, sentences
from flowmap.comparison.lines import write_lines
from flowmap.comparison.record import load
from flowmap.comparison.standings import Contestant, Spent, Standings
from flowmap.errors import FlowmapError
from flowmap.files.whole import write_whole
from flowmap.phases import phase
from flowmap.recipe.outside import file_name
from flowmap.report import figures
from flowmap.report.figures import Curve, Style
from flowmap.report.rendering import guided, in_words, rendered, shown
from flowmap.statistics import intervals
from flowmap.statistics.intervals import MOST_SEEDS, Difference
from flowmap.statistics.spots import Row, Spot

PAGE = "comparison.html"


def write_page(folder: Path) -> Path:
    """Write the page and the lines of the comparison in `folder`, with whatever it has got so far; the page's path.

    Raises FlowmapError if a file of it is damaged.
    """
    with phase("reading scores and costs"):
        found = load(folder)
        write_lines(found)
    path = folder / PAGE
    try:
        view = _view(found)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise FlowmapError(f"{folder}: a file of it is not as flowmap writes it: {error!r}", code=1) from error
    write_whole(path, rendered("comparison.html.j2", view, folder))
    return path


def _view(found: Standings) -> dict[str, Any]:
    styles = _styles(found)
    digits = {metric: _digits(found, metric) for metric in found.metrics}
    return {
        "standings": found,
        "label": found.label,
        "chunked": _per(found) == "chunk",
        "in_calls": lambda n: efforts.in_calls(found, n),
        "totals": {m: [t for n in found.calls(m) for t in efforts.unlike(found, m, n)] for m in found.metrics},
        "takings": [] if efforts.are_as_asked(found) else efforts.takings(found),
        "passes": lambda row, n: found.efforts[row, n].passes if (row, n) in found.efforts else None,
        "guided": list(_guided(found)),
        "given": list(_given(found)),
        "rule": f"{intervals.RULE} {intervals.CORRECTION}",
        "certainty": {metric: list(sentences.certainty(found, metric)) for metric in found.metrics},
        "more_seeds": list(sentences.more_seeds(found, found.metric)),
        "most_seeds": MOST_SEEDS,
        "choices": [(metric, _choices(found, metric)) for metric in found.metrics],
        "failures": sentences.together(found.failures),
        "contrasts": list(sentences.contrasts(found, found.metric)),
        "keys": [(index, row, figures.swatch(style)) for index, (row, style) in enumerate(styles.items())],
        "curves": [
            (metric, _panel(found, metric, styles)) for metric in found.metrics if _curves(found, metric, styles)
        ],
        "singles": list(_singles(found, styles)),
        "differences": _differences(found),
        "tables": [_table(found, metric) for metric in found.metrics],
        "remarks": found.remarks,
        **in_words({metric: found.better(metric) for metric in found.metrics}),
        "shown": lambda metric, value: shown(value, digits.get(metric, 3)),
        "costs": [_cost(found, spent) for spent in found.spent],
        "pictures": _pictures(found),
        "settings": [(contestant, _settings(contestant)) for contestant in found.contestants],
    }


def _guided(found: Standings) -> Iterator[str]:
    """Whose calls evaluate the network twice, and what they are compared with, as far as that is guided."""
    for contestant in found.contestants:
        scales = {contest.get("cfg_scale", 1.0) for contest in contestant.recipe["evaluation"]["contests"]} - {1.0}
        if scales:
            yield f"{contestant.name} (by {', '.join(f'{scale:g}' for scale in sorted(scales))})"
    yield from guided({**found.contestants[0].recipe["evaluation"], "contests": ()})


def _given(found: Standings) -> Iterator[str]:
    """Who is given the first frames of held-out samples, and how many: those who are not have less to go by."""
    for contestant in found.contestants:
        frames = {contest.get("context", 0) for contest in contestant.recipe["evaluation"]["contests"]} - {0}
        if frames:
            yield f"{contestant.name} ({', '.join(map(str, sorted(frames)))})"


def _styles(found: Standings) -> dict[Row, Style]:
    """Colour by contestant (neutral for what is not trained here), marker and dash by round of colours and sampler."""
    trained = [c.name for c in found.contestants if c.own]
    looks: dict[Row, Style] = {}
    for row in found.rows:
        name = row.contestant.split("/")[0]
        samplers = [other.sampler for other in found.rows if other.contestant == row.contestant]
        place = trained.index(name) if name in trained else -1
        colours = figures.COLOURS - 1
        around = 0 if place < 0 else place // colours
        looks[row] = Style(0 if place < 0 else 1 + place % colours, around + samplers.index(row.sampler))
    return looks


def _curve(found: Standings, metric: str, row: Row, index: int, style: Style) -> Curve | None:
    spots = {n: found.at(metric, n)[row] for n in found.calls(metric) if row in found.at(metric, n)}
    if len(spots) < 2:
        return None
    means, spreads = [s.mean for s in spots.values()], [s.spread for s in spots.values()]
    return Curve(found.label(row), index, style, list(spots), means, spreads)


def _curves(found: Standings, metric: str, styles: Mapping[Row, Style]) -> list[Curve]:
    drawn = (_curve(found, metric, row, index, style) for index, (row, style) in enumerate(styles.items()))
    return [curve for curve in drawn if curve is not None]


def _floor(found: Standings, metric: str) -> float:
    return statistics.fmean(spot.floor for n in found.calls(metric) for spot in found.at(metric, n).values())


def _per(found: Standings) -> str:
    """What calls are counted for."""
    return "chunk" if any(effort.chunks > 1 for effort in found.efforts.values()) else "sample"


def _panel(found: Standings, metric: str, styles: Mapping[Row, Style]) -> Markup:
    curves, floor = _curves(found, metric, styles), _floor(found, metric)
    better = found.better(metric)
    limits = figures.score_limits(curves, floor, better)
    return figures.curve_panel(metric, curves, floor, limits, _per(found), better=better)


def _singles(found: Standings, styles: Mapping[Row, Style]) -> Iterator[tuple[Row, Markup]]:
    """Each row by the decisive metric, over all the others in grey."""
    curves = _curves(found, found.metric, styles)
    if len(curves) < 3:
        return
    floor, better = _floor(found, found.metric), found.better(found.metric)
    limits = figures.score_limits(curves, floor, better)
    rows = list(styles)
    for curve in curves:
        others = [c for c in curves if c.index != curve.index]
        panel = figures.curve_panel(curve.label, [curve], floor, limits, _per(found), behind=others, better=better)
        yield rows[curve.index], panel


def _choices(found: Standings, metric: str) -> list[tuple[int, Row, Spot, list[Row]]]:
    """For each number of calls: the best row, its score, and those that do not differ from it."""
    rows = []
    for n in found.calls(metric):
        spots = found.at(metric, n)
        if len(spots) > 1:
            best, ties = found.rounds[metric, n].leaders()
            rows.append((n, best, spots[best], ties))
    return rows


def _differences(found: Standings) -> dict[str, Any]:
    """Every row against the reference, or against the best at each number of calls, by the decisive metric."""
    metric, calls = found.metric, found.calls(found.metric)
    table: dict[Row, list[Difference | None]] = {}
    heads: list[Row | None] = []
    for n in calls:
        spots = found.at(metric, n)
        reference = next((row for row in spots if row.contestant == found.against), None)
        if reference is None and len(spots) > 1 and found.against is None:
            reference = found.rounds[metric, n].leaders()[0]
        heads.append(reference)
        for row in found.rows:
            known = reference is not None and row in spots and row != reference
            cell = found.rounds[metric, n].difference(row, reference) if known and reference else None
            table.setdefault(row, []).append(cell)
    return {"calls": calls, "heads": heads, "rows": {row: cells for row, cells in table.items() if any(cells)}}


def _table(found: Standings, metric: str) -> dict[str, Any]:
    """Scores with ranks: a row's cells, in the order of calls."""
    calls = found.calls(metric)
    placed = {n: found.rounds[metric, n].ranks() for n in calls}
    rows = {
        row: [(found.at(metric, n).get(row), placed[n].get(row)) for n in calls]
        for row in found.rows
        if any(row in found.at(metric, n) for n in calls)
    }
    return {"metric": metric, "calls": calls, "rows": rows, "floor": _floor(found, metric)}


def _cost(found: Standings, spent: Spent) -> dict[str, Any]:
    own = [(n, e.passes) for (row, n), e in found.efforts.items() if row.contestant.split("/")[0] == spent.contestant]
    calls, seconds = list(spent.calls.values()), list(spent.seconds.values())
    budget = found.budget
    wanted = budget["amount"] if budget is not None and budget["by"] == "calls" else None
    return {
        "spent": spent,
        "sample": sorted(set(own)),
        "calls": statistics.fmean(calls) if calls else 0,
        "share": statistics.fmean(calls) / wanted if wanted and calls else None,
        "seconds": statistics.fmean(seconds) if seconds else 0,
    }


def _digits(found: Standings, metric: str) -> int:
    """Decimals for one metric: those of its smaller spreads, one number for all its cells."""
    spreads = [spot.spread for n in found.calls(metric) for spot in found.at(metric, n).values()]
    known = sorted(s for s in spreads if math.isfinite(s) and s > 0)
    return min(6, max(0, -math.floor(math.log10(known[len(known) // 4] / 3)))) if known else 3


def _pictures(found: Standings) -> dict[str, Any]:
    """Sheets of the first seed: for every row and number of calls, all made from the same noise."""
    sheets: dict[tuple[Row, int], str] = {}
    alone: dict[str, str] = {}
    for contestant in found.contestants:
        folder = found.folder / contestant.name / f"seed-{found.seeds[0]}" / "pictures"
        for name in ("real", "teacher"):
            if name not in alone and (folder / f"{name}.png").is_file():
                alone[name] = _uri(folder / f"{name}.png")
        for row in found.rows:
            if row.contestant.split("/")[0] != contestant.name:
                continue
            stage = row.contestant.partition("/")[2] or contestant.measured["name"]
            for path in folder.glob(f"{file_name(stage)}.*.{row.sampler}.*.png"):
                number = path.stem.rsplit(".", 1)[1]
                if number.isdecimal():
                    sheets[row, int(number)] = _uri(path)
    rows = [row for row in found.rows if any(row == r for r, _ in sheets)]
    return {"alone": alone, "sheets": sheets, "rows": rows, "calls": sorted({n for _, n in sheets})}


def _uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _settings(contestant: Contestant) -> str:
    """The contestant's own stages, or the one that is measured, as a recipe has them; of weights their name."""
    stages: Iterable[Mapping[str, Any]] = contestant.trained or [contestant.measured]
    return tomli_w.dumps({"stages": list(stages)}).strip()
