"""Write `report.html`: one page that says what a run shows, from the files in its folder alone. Torch-free."""

from __future__ import annotations

import base64
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from flowmap.errors import FlowmapError
from flowmap.files.whole import write_whole
from flowmap.reading.read import RunFiles, command_of, costs_of, read_run
from flowmap.reading.run_claims import claims_of
from flowmap.recipe.outside import file_name
from flowmap.recipe.step_length import NAME
from flowmap.report import figures
from flowmap.report.figures import Curve, Style
from flowmap.report.rendering import guided, in_words, rendered, shown
from flowmap.report.traces import Trace, shared
from flowmap.statistics import verdict
from flowmap.statistics.claims import Claim
from flowmap.statistics.scores import remarks_of
from flowmap.statistics.sense import direction
from flowmap.statistics.verdict import Cell, Place, Series
from flowmap.training.journal import StepLine


def _unheard(doubt: str) -> None:
    """For who reads the page."""


def write_report(folder: Path, warn: Callable[[str], object] = _unheard) -> Path:
    """Write the report of the run in `folder` and return its path; show whatever the run has got so far.

    What the page says of missing or damaged files is told to `warn` too. Raises FlowmapError if `folder` is no run, has
    neither steps nor scores, or holds a damaged file.
    """
    run = read_run(folder)
    try:
        view = _view(run)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise FlowmapError(f"{folder}: a file of this run is not as flowmap writes it: {error!r}", code=1) from error
    path = folder / "report.html"
    write_whole(path, rendered("report.html.j2", view, folder))
    for doubt in run.doubts:
        warn(doubt)
    return path


def _view(run: RunFiles) -> dict[str, Any]:
    """Everything the template shows."""
    evaluation = run.recipe.get("evaluation") or {}
    table = verdict.cells(run.lines)
    metrics = verdict.ordered_metrics(table)
    headlines, better = verdict.headlines(metrics), verdict.directions(table)
    told = claims_of(run)
    styles = _styles(run, table, evaluation.get("teacher"))
    digits = {metric: _digits(table, metric) for metric in metrics}
    costs, total = costs_of(run)
    per = "chunk" if run.chunked else "sample"
    return {
        "run": run,
        "evaluation": evaluation,
        "command": command_of(run.folder),
        "costs": costs,
        "total": total,
        "keys": [
            (index, series, figures.swatch(style))
            for index, (series, style) in enumerate(styles.items())
            if any(series in _curves(table, metric, styles) for metric in metrics)
        ],
        "rule": verdict.RULE,
        "per": per,
        "efforts": verdict.efforts(run.lines),
        "guided": guided(evaluation),
        "sampler_words": _sampler_words,
        "claims": _rows(told, headlines),
        "other_claims": _rows(told, [m for m in metrics if m not in headlines]),
        "tally": Counter(claim.verdict for claim in told if claim.metric in headlines),
        "shown": lambda metric, value: shown(value, digits[metric]),
        "few_seeds": any(len(cell.seeds) < len(run.recipe["seeds"]) for cell in table.values()),
        "scaling": list(_scaling(table, metrics, styles, per)),
        "contrasts": list(_contrasts(table, styles, per)),
        "tables": [_table(table, metric, list(styles)) for metric in metrics],
        "remarks": remarks_of(run.lines),
        "claimed": direction({metric: better[metric] for metric in headlines}),
        **in_words({metric: better[metric] for metric in metrics}),
        "pictures": _pictures(run.folder / "pictures", list(styles), _named(run)),
        "losses": list(_losses(run)),
    }


def _styles(run: RunFiles, table: Iterable[Place], teacher: str | None) -> dict[Series, Style]:
    """A look for every series, in the order of the recipe's stages: colour by stage, marker by sampler."""
    stages = [stage["name"] for stage in run.recipe["stages"]]
    every = list(dict.fromkeys(place.series for place in table))
    stages += dict.fromkeys(series.stage for series in every if series.stage not in stages)
    every.sort(key=lambda series: stages.index(series.stage))
    learners = [stage for stage in stages if stage != teacher]
    colours = {stage: 1 + i % (figures.COLOURS - 1) for i, stage in enumerate(learners)}
    samplers = dict.fromkeys([verdict.MAP, verdict.CONSISTENCY, verdict.EULER, *(s.sampler for s in every)])
    looks = [(weights, sampler) for weights in dict.fromkeys(s.weights for s in every) for sampler in samplers]
    present = [look for look in looks if look in {(s.weights, s.sampler) for s in every}]
    return {s: Style(colours.get(s.stage, 0), present.index((s.weights, s.sampler))) for s in every}


def _curves(table: Mapping[Place, Cell], metric: str, styles: Mapping[Series, Style]) -> dict[Series, Curve]:
    """The series that were scored at more than one number of calls."""
    found = {}
    for index, (series, style) in enumerate(styles.items()):
        own = {p.calls: cell for p, cell in table.items() if (p.series, p.metric) == (series, metric)}
        calls = sorted(own)
        values, spreads = [own[n].value for n in calls], [own[n].spread for n in calls]
        if len(calls) > 1:
            found[series] = Curve(series.sampler, index, style, calls, values, spreads)
    return found


def _sampler_words(sampler: str) -> str:
    """A sampler's label in words: evaluation writes `flow_map-after-1` for a video that is given its first frame."""
    found = re.fullmatch(r"(.+)-after-(\d+)", sampler)
    return f"{found[1]}, {found[2]} frame{'' if found[2] == '1' else 's'} given" if found else sampler


def _floor(table: Mapping[Place, Cell], metric: str) -> float:
    return statistics.fmean(cell.floor for place, cell in table.items() if place.metric == metric)


def _scaling(
    table: Mapping[Place, Cell], metrics: Sequence[str], styles: Mapping[Series, Style], per: str
) -> Iterator[tuple[str, Markup]]:
    for metric in metrics:
        if curves := list(_curves(table, metric, styles).values()):
            floor, better = _floor(table, metric), verdict.directions(table)[metric]
            limits = figures.score_limits(curves, floor, better)
            yield metric, figures.curve_panel(metric, curves, floor, limits, per, better=better)


def _contrasts(
    table: Mapping[Place, Cell], styles: Mapping[Series, Style], per: str
) -> Iterator[tuple[Series, str, Markup]]:
    """One panel per stage and metric where the same weights went through both samplers; one axis a metric."""
    pairs: dict[tuple[Series, str], list[Curve]] = {}
    for metric in verdict.headlines(verdict.ordered_metrics(table))[:2]:
        curves = _curves(table, metric, styles)
        for series in curves:
            twin = series._replace(sampler=verdict.CONSISTENCY)
            if series.sampler == verdict.MAP and twin in curves:
                pairs[series, metric] = [curves[series], curves[twin]]
    for (series, metric), pair in sorted(pairs.items(), key=lambda item: item[1][0].index):
        floor, better = _floor(table, metric), verdict.directions(table)[metric]
        limits = figures.score_limits([c for (_, m), both in pairs.items() if m == metric for c in both], floor, better)
        title = f"{series.name}: {metric}"
        yield series, metric, figures.curve_panel(title, pair, floor, limits, per, labelled=True, better=better)


def _rows(told: Iterable[Claim], metrics: Sequence[str]) -> dict[str, Any]:
    """Claims on `metrics`, gathered by sentence: `{"metrics": [...], "rows": {text: {metric: claim}}}`."""
    rows: dict[str, dict[str, Claim]] = {}
    for claim in told:
        if claim.metric in metrics:
            rows.setdefault(claim.text, {})[claim.metric] = claim
    present = {metric for row in rows.values() for metric in row}
    return {"metrics": [m for m in metrics if m in present], "rows": rows}


def _table(table: Mapping[Place, Cell], metric: str, every: Sequence[Series]) -> dict[str, Any]:
    """One metric's cells: `rows` maps a series to its cell and whether it is the best, in the order of `calls`."""
    calls = sorted({place.calls for place in table if place.metric == metric})
    best = verdict.best(table, metric)
    rows = {}
    for series in every:
        places = [Place(series, metric, n) for n in calls]
        if any(place in table for place in places):
            rows[series] = [(table.get(place), place in best) for place in places]
    return {"metric": metric, "calls": calls, "rows": rows}


def _digits(table: Mapping[Place, Cell], metric: str) -> int:
    """Decimals for one metric: those of its smaller spreads (the first quartile), two digits if it begins with 1 or 2.

    One number for all its cells, so that columns can be compared.
    """
    every = [cell.spread for place, cell in table.items() if place.metric == metric]
    spreads = sorted(spread for spread in every if math.isfinite(spread) and spread > 0)
    return min(6, max(0, -math.floor(math.log10(spreads[len(spreads) // 4] / 3)))) if spreads else 3


def _named(run: RunFiles) -> dict[str, str]:
    """The stages and weights of a run by their names in file names."""
    contests = [contest["stage"] for contest in (run.recipe.get("evaluation") or {}).get("contests", [])]
    return {file_name(name): name for name in [*contests, *(line["stage"] for line in run.lines)]}


def _pictures(folder: Path, every: Sequence[Series], named: Mapping[str, str]) -> dict[str, Any]:
    """The sheets as data URIs: `real` and `teacher` alone, the others by series and calls."""
    sheets: dict[tuple[Series, int], str] = {}
    alone: dict[str, str] = {}
    for path in sorted(folder.glob("*.png")):
        uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        parts = path.stem.rsplit(".", 3)  # from the right: a stage's name may have dots
        if len(parts) == 4 and parts[3].isdecimal():
            sheets[Series(named.get(parts[0], parts[0]), *parts[1:3]), int(parts[3])] = uri
        elif path.stem in ("real", "teacher"):
            alone[path.stem] = uri
    rows = list(dict.fromkeys([*(s for s in every if any(s == t for t, _ in sheets)), *(s for s, _ in sheets)]))
    return {"alone": alone, "sheets": sheets, "rows": rows, "calls": sorted({n for _, n in sheets})}


def _losses(run: RunFiles) -> Iterator[tuple[str, list[Trace], Markup]]:
    """Per stage and kind of axis: the stage, its traces, the panel. Negative losses get a linear axis."""
    found = {stage: _traces(by_seed) for stage, by_seed in run.steps.items()}
    lines = sum(max(2, len(trace.runs)) for traces in found.values() for each in traces.values() for trace in each)
    for stage, traces in found.items():
        for logarithmic, some in traces.items():
            if some:
                title = f"losses of {stage}"
                yield stage, some, figures.loss_panel(title, some, logarithmic, shared(lines))


def _traces(by_seed: Mapping[int, Sequence[StepLine]]) -> dict[bool, list[Trace]]:
    """What was told of a stage's losses; those that are never negative, on a logarithmic axis, at True."""
    points: dict[tuple[bool, str], dict[int, tuple[list[int], list[float]]]] = {}
    for seed, lines in by_seed.items():
        for line in lines:
            for raw, values in ((False, line.losses), (True, line.raw)):
                for name, value in values.items():
                    by_name = points.get((raw, name))
                    if by_name is None:
                        by_name = points[raw, name] = {}
                    own = by_name.get(seed)
                    if own is None:
                        own = by_name[seed] = ([], [])
                    own[0].append(line.step)
                    own[1].append(value)
    traces: dict[bool, list[Trace]] = {True: [], False: []}
    for index, ((raw, name), runs) in enumerate(points.items()):
        arrays = [(np.array(steps, np.float64), np.array(values, np.float64)) for steps, values in runs.values()]
        everything = np.concatenate([values for _, values in arrays])
        logarithmic = bool(not (everything < 0).any() and (everything > 0).any())
        label = f"{name} (raw)" if raw and name != NAME else name
        traces[logarithmic].append(Trace(label, 1 + index % (figures.COLOURS - 1), arrays))
    return traces
