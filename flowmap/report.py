"""Write `report.html`: one page that says what a run shows, from the files in its folder alone. Torch-free."""

from __future__ import annotations

import base64
import json
import math
import shlex
import statistics
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from flowmap import figures, verdict
from flowmap.catalogue import catalogue
from flowmap.errors import FlowmapError
from flowmap.figures import Curve, Style, Trace
from flowmap.folder import read_lines, write_whole
from flowmap.verdict import Cell, Claim, Place, Series

LOCK = "recipe.lock.toml"


@dataclass
class Cost:
    """What a stage cost, over all seeds: steps, network calls per role, backwards, seconds, peak bytes."""

    name: str
    planned: int
    steps: int = 0
    calls: dict[str, Counter[str]] = field(default_factory=dict)
    backwards: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one line of `steps.jsonl`."""
        self.steps += 1
        for role, counts in record["calls"].items():
            self.calls.setdefault(role, Counter()).update(counts)
        self.backwards += record["backwards"]
        self.seconds += record["seconds"]
        self.peak_bytes = max(self.peak_bytes, record["peak_bytes"])

    @property
    def total(self) -> Counter[str]:
        """Calls of all roles together."""
        return sum(self.calls.values(), Counter())


@dataclass(frozen=True)
class Run:
    """What a run's folder holds; `steps` has the records per stage and seed."""

    folder: Path
    recipe: dict[str, Any]
    recipe_text: str
    about: dict[str, Any]
    steps: dict[str, dict[int, list[dict[str, Any]]]]
    lines: list[dict[str, Any]]


def write_report(folder: Path) -> Path:
    """Write the report of the run in `folder` and return its path; show whatever the run has got so far.

    Raises FlowmapError if `folder` is no run, has neither steps nor scores, or holds a damaged file.
    """
    run = _read(folder)
    try:
        page = _environment().get_template("report.html.j2").render(_view(run))
    except (KeyError, TypeError, ValueError) as error:
        raise FlowmapError(f"{folder}: a file of this run is not as flowmap writes it: {error!r}", code=1) from error
    path = folder / "report.html"
    write_whole(path, page)
    return path


def _read(folder: Path) -> Run:
    text = _text(folder / LOCK)
    try:
        recipe = tomllib.loads(text)
        about = json.loads(_text(folder / "about.json") or "{}")
        lines = read_lines(folder / "metrics.jsonl")
        steps: dict[str, dict[int, list[dict[str, Any]]]] = {}
        seeds = recipe.get("seeds", [])
        for stage in recipe["stages"] if "name" in recipe else []:
            for seed in seeds:
                home = folder if len(seeds) == 1 else folder / f"seed-{seed}"
                if found := read_lines(home / stage["name"] / "steps.jsonl"):
                    steps.setdefault(stage["name"], {})[seed] = found
    except (OSError, ValueError, KeyError) as error:
        raise FlowmapError(f"{folder}: a file of this run is damaged: {error}", code=1) from error
    if not text:
        near = sorted(str(p.parent) for p in folder.parent.glob(f"*/{LOCK}"))
        known = f"; there are: {', '.join(near)}" if near else ""
        raise FlowmapError(f"{folder} is no run folder: it has no {LOCK}{known}")
    if "name" not in recipe:
        raise FlowmapError(f"{folder} is the folder of one stage; give the run's folder, which lies above it")
    if not lines and not steps:
        raise FlowmapError(f"{folder} has no scores and no steps yet; train first: {_command(folder)}")
    return Run(folder, recipe, text, about, steps, lines)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _command(folder: Path) -> str:
    home = folder.resolve()
    return f"flowmap run {shlex.quote(f'{home.parent.name}/{home.name}/{LOCK}')}"


def _environment() -> jinja2.Environment:
    templates = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=templates, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"duration": duration, "memory": memory, "description": _description, "label": label_of}
    return environment


def _view(run: Run) -> dict[str, Any]:
    """Everything the template shows."""
    evaluation = run.recipe.get("evaluation") or {}
    table = verdict.cells(run.lines)
    styles = _styles(run, table, evaluation.get("teacher"))
    costs = _costs(run)
    metrics = verdict.ordered_metrics(table)
    told = verdict.claims(run.lines, evaluation.get("teacher"))
    headlines = [m for m in verdict.HEADLINES if m in metrics] or metrics
    digits = {metric: _digits(c for p, c in table.items() if p.metric == metric) for metric in metrics}
    return {
        "run": run,
        "evaluation": evaluation,
        "command": _command(run.folder),
        "costs": costs,
        "total": _sum(costs),
        "keys": [(i, series, label_of(series), figures.swatch(s)) for i, (series, s) in enumerate(styles.items())],
        "rule": verdict.RULE,
        "claims": _rows(told, headlines),
        "other_claims": _rows(told, [m for m in metrics if m not in headlines]),
        "tally": Counter(c.verdict for c in told if c.metric in headlines),
        "shown": _shower(digits),
        "scaling": list(_scaling(table, metrics, styles)),
        "contrasts": list(_contrasts(table, styles)),
        "tables": [_table(table, metric, list(styles)) for metric in metrics],
        "pictures": _pictures(run.folder / "pictures", list(styles)),
        "losses": list(_losses(run)),
    }


def label_of(series: Series) -> str:
    """How the page names a series."""
    return f"{verdict.name_of(series)} · {series.sampler}"


def _styles(run: Run, table: Iterable[Place], teacher: str | None) -> dict[Series, Style]:
    """A look for every series, in the order of the recipe's stages: colour by stage, marker by sampler."""
    stages = [stage["name"] for stage in run.recipe["stages"]]
    every = sorted(dict.fromkeys(p.series for p in table), key=lambda s: stages.index(s.stage) if s.stage in stages else 99)
    learners = [name for name in dict.fromkeys([*stages, *(s.stage for s in every)]) if name != teacher]
    colour = {name: 1 + i % (figures.COLOURS - 1) for i, name in enumerate(learners)} | {teacher: 0}
    first = [verdict.MAP, verdict.CONSISTENCY, verdict.EULER]
    shapes = list(dict.fromkeys([*first, *(s.sampler for s in every)]))
    looks = list(dict.fromkeys((s.sampler, s.weights) for s in every))
    looks.sort(key=lambda look: (look[1] != "ema", shapes.index(look[0])))
    return {s: Style(colour[s.stage], looks.index((s.sampler, s.weights))) for s in every}


def _curves(table: Mapping[Place, Cell], metric: str, styles: Mapping[Series, Style]) -> list[Curve]:
    found = []
    for index, (series, style) in enumerate(styles.items()):
        own = sorted((p.calls, cell) for p, cell in table.items() if (p.series, p.metric) == (series, metric))
        if len(own) > 1:
            values, spreads = [cell.value for _, cell in own], [cell.spread for _, cell in own]
            found.append(Curve(series.sampler, index, style, [calls for calls, _ in own], values, spreads))
    return found


def _floor(table: Mapping[Place, Cell], metric: str) -> float:
    return statistics.fmean(cell.floor for place, cell in table.items() if place.metric == metric)


def _scaling(table: Mapping[Place, Cell], metrics: Sequence[str], styles: Mapping[Series, Style]) -> Iterator[Any]:
    for metric in metrics:
        if curves := _curves(table, metric, styles):
            floor = _floor(table, metric)
            yield metric, figures.curve_panel(metric, curves, floor, figures.score_limits(curves, floor))


def _contrasts(table: Mapping[Place, Cell], styles: Mapping[Series, Style]) -> Iterator[Any]:
    """One panel per stage and metric where the same weights went through both samplers."""
    pairs = [s for s in styles if s.sampler == verdict.MAP and s._replace(sampler=verdict.CONSISTENCY) in styles]
    both = {s: [s, s._replace(sampler=verdict.CONSISTENCY)] for s in pairs}
    for metric in verdict.HEADLINES[:2]:
        curves = {s: [c for c in _curves(table, metric, styles) if list(styles)[c.index] in both[s]] for s in pairs}
        full = {s: found for s, found in curves.items() if len(found) == 2}
        for series, found in full.items():
            floor = _floor(table, metric)
            limits = figures.score_limits([c for cs in full.values() for c in cs], floor)
            title = f"{verdict.name_of(series)}: {metric}"
            yield series, metric, figures.curve_panel(title, found, floor, limits, labelled=True)


def _rows(told: Iterable[Claim], metrics: Sequence[str]) -> dict[str, Any]:
    """Claims on `metrics`, gathered by sentence: `{"metrics": [...], "rows": {text: {metric: claim}}}`."""
    rows: dict[str, dict[str, Claim]] = {}
    for claim in told:
        if claim.metric in metrics:
            rows.setdefault(claim.text, {})[claim.metric] = claim
    present = {metric for row in rows.values() for metric in row}
    return {"metrics": [m for m in metrics if m in present], "rows": rows}


def _table(table: Mapping[Place, Cell], metric: str, every: Sequence[Series]) -> dict[str, Any]:
    """One metric's cells by series and calls, and which of them are the best of their column."""
    mine = {(p.series, p.calls): cell for p, cell in table.items() if p.metric == metric}
    calls = sorted({n for _, n in mine})
    lowest = {n: min(cell.raised for (_, m), cell in mine.items() if m == n) for n in calls}
    rows = {series: [mine.get((series, n)) for n in calls] for series in every if any(s == series for s, _ in mine)}
    floors = {s: statistics.fmean(c.floor for c in row if c is not None) for s, row in rows.items()}
    best = {key for key, cell in mine.items() if cell.raised == lowest[key[1]]}
    return {"metric": metric, "calls": calls, "rows": rows, "floors": floors, "best": best, "rivals": len(rows) > 1}


def _digits(found: Iterable[Cell]) -> int:
    """Decimals for one metric: its typical spread gets two digits, its smallest at least one."""
    spreads = sorted(c.spread for c in found if math.isfinite(c.spread) and c.spread > 0)
    if not spreads:
        return 3
    typical, least = statistics.median(spreads), spreads[0]
    return min(6, max(0, 1 - math.floor(math.log10(typical)), -math.floor(math.log10(least))))


def _shower(digits: Mapping[str, int]) -> Callable[[str, float], str]:
    return lambda metric, value: f"{value:.{digits[metric]}f}" if math.isfinite(value) else "not finite"


def _pictures(folder: Path, every: Sequence[Series]) -> dict[str, Any]:
    """The sheets as data URIs: `real` and `teacher` alone, the others by series and calls."""
    sheets: dict[tuple[Series, int], str] = {}
    alone: dict[str, str] = {}
    for path in sorted(folder.glob("*.png")):
        uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        parts = path.stem.rsplit(".", 3)  # from the right: a stage's name may have dots
        if len(parts) == 4 and parts[3].isdecimal():
            sheets[Series(*parts[:3]), int(parts[3])] = uri
        elif path.stem in ("real", "teacher"):
            alone[path.stem] = uri
    rows = list(dict.fromkeys([*(s for s in every if any(s == t for t, _ in sheets)), *(s for s, _ in sheets)]))
    return {"alone": alone, "sheets": sheets, "rows": rows, "calls": sorted({n for _, n in sheets})}


def _losses(run: Run) -> Iterator[Any]:
    """Per stage and kind of axis: the stage's name, its traces, and the panel; negative losses get a linear axis."""
    for stage, by_seed in run.steps.items():
        points: dict[str, dict[int, list[tuple[int, float]]]] = {}
        for seed, records in by_seed.items():
            for record in records:
                named = record["losses"] | {f"{name} (raw)": value for name, value in record["raw"].items()}
                for name, value in named.items():
                    points.setdefault(name, {}).setdefault(seed, []).append((record["step"], float(value)))
        traces: dict[bool, list[Trace]] = {True: [], False: []}
        for index, (name, runs) in enumerate(points.items()):
            arrays = [np.array(run_points, dtype=np.float64).T for run_points in runs.values()]
            trace = Trace(name, 1 + index % (figures.COLOURS - 1), [(a[0], a[1]) for a in arrays])
            positive = all(np.nanmin(a[1]) >= 0 for a in arrays) and any(np.nanmax(a[1]) > 0 for a in arrays)
            traces[positive].append(trace)
        for positive in (True, False):
            if traces[positive]:
                yield stage, traces[positive], figures.loss_panel(f"losses of {stage}", traces[positive], positive)


def _costs(run: Run) -> list[Cost]:
    costs = []
    for stage in run.recipe["stages"]:
        cost = Cost(stage["name"], stage["steps"] * len(run.recipe["seeds"]))
        for records in run.steps.get(stage["name"], {}).values():
            for record in records:
                cost.add(record)
        costs.append(cost)
    return costs


def _sum(costs: Sequence[Cost]) -> Cost:
    return Cost(
        "all stages",
        planned=sum(c.planned for c in costs),
        steps=sum(c.steps for c in costs),
        calls={"": sum((c.total for c in costs), Counter())},
        backwards=sum(c.backwards for c in costs),
        seconds=sum(c.seconds for c in costs),
        peak_bytes=max((c.peak_bytes for c in costs), default=0),
    )


def _description(metric: str) -> str:
    """What the metric's plugin says it is; nothing if the plugin is not installed any more."""
    try:
        return (catalogue().find("metric", metric).__doc__ or "").strip().split("\n")[0]
    except LookupError:
        return ""


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def memory(count: int) -> str:
    """Bytes as MiB or GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
