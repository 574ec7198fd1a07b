"""Run a recipe: every stage that is not finished, then evaluation and report."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from rich.console import Console
from rich.markup import escape

from flowmap.console.commands import command_line, going_on, process
from flowmap.console.display import display
from flowmap.console.options import flag, option
from flowmap.console.signals import Interruption
from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError, locked, set_aside
from flowmap.files.texts import is_file
from flowmap.launch.early import build_early
from flowmap.launch.notes import LOG, logged, write_about
from flowmap.launch.progress import ProgressWatcher
from flowmap.phases import phase
from flowmap.planning.limits import refuse_impossible
from flowmap.reading.read import read_run
from flowmap.reading.run_claims import claims_of
from flowmap.recipe.layout import BUDGETS, LOCK, RECORD, Plan, StagePlan, make_plan
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe
from flowmap.report.page import write_report
from flowmap.schema.words import unknown_word
from flowmap.statistics.scores import remarks_of
from flowmap.statistics.verdict import headlines
from flowmap.training.changes import refuse_changes, refuse_other_seeds
from flowmap.training.processes import Processes
from flowmap.training.records import StepRecord
from flowmap.training.stage import finished
from flowmap.training.train import Watcher, train
from flowmap.use.evaluate import evaluate


def run_recipe(
    path: Path,
    overrides: Sequence[str],
    only: Sequence[str],
    fresh: bool,
    runs: Path,
    console: Console,
    watch: Watcher | None = None,
    quiet: bool = False,
    page: bool = True,
) -> Plan:
    """Train every stage that is not finished, then evaluate and report; returns what was run.

    `only` names the stages to train (all if empty); with it, evaluation waits until all are finished. `watch`
    is told of every step; `quiet` leaves out warnings about the recipe and claims about the results, and without
    `page` there is no report.
    Raises FlowmapError for everything that the user can act on, first of all for what the recipe needs and this
    machine does not have.
    """
    recipe, warnings = read(path, overrides, absent="error")
    for warning in () if quiet or process()[0] else warnings:
        console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
    for name in only:
        if name not in [s.name for s in recipe.stages]:
            raise FlowmapError(
                f"{option('stage', name)}: {unknown_word('stage', name, [s.name for s in recipe.stages])}"
            )
    commands = Commands(command_line(path, overrides, only, runs), command_line(path, overrides, (), runs))
    return carry_out(recipe, runs, console, commands, only, fresh, watch, quiet, page)


@final
@dataclass(frozen=True)
class Commands:
    """What to type to `go_on` with what is being done, and to do `everything` that the recipe says."""

    go_on: str
    everything: str


def carry_out(
    recipe: Recipe,
    runs: Path,
    console: Console,
    commands: Commands,
    only: Sequence[str] = (),
    fresh: bool = False,
    watch: Watcher | None = None,
    quiet: bool = False,
    page: bool = True,
) -> Plan:
    """Do what run_recipe does with a recipe that has been read and checked."""
    plan = make_plan(recipe, runs)
    chosen = [s for s in plan.stages if not only or s.stage.name in only]
    processes = Processes(recipe.compute)
    console = console if processes.first else Console(quiet=True)
    left = chosen if fresh else [stage for stage in chosen if not _done(stage)]
    refuse_impossible(recipe, plan, processes.number, processes.memory(), left)
    build_early([recipe])
    command = commands.go_on
    with locked(plan.folder) if processes.first else nullcontext():
        _refuse_comparison(plan.folder, aside=fresh and not only)
        if not fresh or only:
            refuse_other_seeds(plan)
        refuse_changes(s for s in plan.stages if not fresh or s not in chosen)
        _refuse_missing_sources(chosen, commands.everything, f"{command} --fresh" if fresh else command)
        if fresh and processes.first:
            for folder in [s.folder for s in chosen] if only else [plan.folder]:
                aside = set_aside(folder)
                if aside:
                    console.print(f"the old {escape(str(folder))} is now {escape(str(aside))}", soft_wrap=True)
        bar = ProgressWatcher(console)
        interruption = Interruption(bar.stopping)
        with going_on(command), interruption.listening(), logged(plan.folder / LOG):
            if processes.first:
                write_about(plan, processes)
            processes.wait()
            with bar, _threads(recipe.compute.threads):
                for stage in chosen:
                    train(stage, processes, _Both(bar, watch) if watch else bar, interruption)
            if only:
                console.print(
                    f"trained {', '.join(only)}; run without {option('stage')} to finish, evaluate and report"
                )
                return plan
            written = plan.folder
            _evaluate(plan, processes, console)
            if processes.first:
                with phase("writing the report"):
                    written = write_report(plan.folder) if page else written
            processes.wait()
    if recipe.evaluation and not quiet:
        _print_claims(plan.folder, console)
    console.print(f"report: [bold]{escape(str(written))}[/]", soft_wrap=True)
    return plan


def _done(plan: StagePlan) -> bool:
    """Whether all steps of a stage are there; nobody has verified them yet."""
    return finished(plan.folder, plan.stage.steps, check=False) is not None


@final
class _Both:
    """Tells two watchers."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def begin(self, plan: StagePlan, done: int) -> None:
        for watcher in self._watchers:
            watcher.begin(plan, done)

    def step(self, record: StepRecord) -> None:
        for watcher in self._watchers:
            watcher.step(record)

    def warn(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.warn(text)

    def end(self, plan: StagePlan, note: str) -> None:
        for watcher in self._watchers:
            watcher.end(plan, note)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with `number` CPU threads for a while; 0 leaves them alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _evaluate(plan: Plan, processes: Processes, console: Console) -> None:
    began = time.monotonic()
    with display(console) as shown:

        def tell(text: str) -> None:
            if not shown.live:
                console.print(f"evaluating {escape(text)}", soft_wrap=True)

        evaluate(plan, processes.device, tell, processes)
    if plan.recipe.evaluation:
        console.print(f"[green]✓[/] evaluated in {time.monotonic() - began:.1f} s")


def _refuse_comparison(folder: Path, aside: bool) -> None:
    """Raise FlowmapError if `folder` is a comparison's, a contestant's or a stage's: whose files would be whose?

    The folder of a contestant's training is that of a run, and is run as one. What is set `aside` is in nobody's way.
    """
    if is_file(folder.parent / RECORD):
        raise FlowmapError(f"{folder} lies in the comparison {folder.parent}; give another folder by {option('runs')}")
    if is_file(folder.parent / LOCK):
        raise FlowmapError(f"{folder} lies in the run {folder.parent}; give another folder by {option('runs')}")
    if not aside and any(is_file(folder / name) for name in (RECORD, BUDGETS)):
        raise FlowmapError(
            f"{folder} is the folder of a comparison; give the recipe another name, or another folder by "
            f"{option('runs')} ({flag('fresh')} sets the comparison aside)"
        )


def _refuse_missing_sources(chosen: Sequence[StagePlan], base: str, command: str) -> None:
    """Refuse to train stages without those they start from. `base` trains everything, `command` what is asked."""
    names = [plan.stage.name for plan in chosen]
    for plan in chosen:
        for folder in plan.sources.values():
            source = folder.name
            if source in names:
                continue
            with going_on(f"{base} --stage {source} && {command}"):
                if finished(folder, plan.recipe.stage(source).steps, check=process()[0] == 0) is None:
                    raise StoppedError(
                        f"stage '{plan.stage.name}' starts from stage '{source}', which is not finished in {folder}."
                    )


def _print_claims(folder: Path, console: Console) -> None:
    """One line per claim of the report, with what each headline metric says."""
    words = {"holds": "[green]holds[/]", "fails": "[red]does not hold[/]", "noise": "[yellow]within noise[/]"}
    lines: dict[str, list[str]] = {}
    with phase("reading the results"):
        run = read_run(folder)
        found = claims_of(run)
    chosen = headlines(list(dict.fromkeys(claim.metric for claim in found)))
    for claim in found:
        if claim.metric in chosen:
            before, after = (_worded(cell.value) for cell in (claim.before, claim.after))
            numbers = f"{after} against {before}" if claim.versus else f"{before} → {after}"
            lines.setdefault(claim.text, []).append(f"{words[claim.verdict]} by {claim.metric} ({numbers})")
    for text, verdicts in lines.items():
        console.print(f"• {escape(text)}: {'; '.join(verdicts)}", highlight=False)
    for metric, remarks in remarks_of(run.lines).items():
        told = "; ".join(remarks)
        console.print(f"[yellow]{escape(metric)} compares with no published number[/]: {escape(told)}", highlight=False)


def _worded(score: float) -> str:
    return f"{score:.3g}" if math.isfinite(score) else "not finite"
