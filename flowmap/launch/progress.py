"""Show how a run goes: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import final

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flowmap.console.display import display
from flowmap.console.signals import say
from flowmap.recipe.layout import StagePlan
from flowmap.training.records import StepRecord

_REFRESH_SECONDS = 0.1
_LINE_SECONDS = 15.0
_MEMORY = 0.95


@final
class ProgressWatcher:
    """Step, loss per branch, speed and time left, for one stage after another.

    A console that breaks down (its terminal has gone, its disk is full) ends no training.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = ExitStack()
        self._live = False
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("[cyan]{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]left[/]"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=console,
        )
        self._task: TaskID | None = None
        self._name = ""
        self._steps = 0
        self._told = 0.0
        self._began = 0.0
        self._speed = 0.0
        self._stopping = ""

    def __enter__(self) -> ProgressWatcher:
        shown = self._shown.enter_context(display(self._console))
        self._live = shown.live
        self._shown.enter_context(shown.added(self._bar))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.close()

    def begin(self, plan: StagePlan, done: int) -> None:
        """A stage begins."""
        self._name, self._steps = stage_label(plan), plan.stage.steps
        self._told = self._began = time.monotonic()
        self._speed = 0.0
        if done:
            self._print(f"{escape(self._name)}: going on after step {done}")
        if self._live:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(escape(self._name), total=self._steps, completed=done, speed="", losses="")

    def step(self, record: StepRecord) -> None:
        """A step was finished; most steps are not worth redrawing for."""
        for doubt in record.doubts:
            self.warn(f"{self._name}, step {record.step}: {doubt}")
        rate = 1 / max(record.seconds, 1e-9)
        self._speed = rate if not self._speed else _MEMORY * self._speed + (1 - _MEMORY) * rate
        now = time.monotonic()
        live = self._task is not None
        if now - self._told < (_REFRESH_SECONDS if live else _LINE_SECONDS) and record.step < self._steps:
            return
        self._told = now
        losses = "  ".join(f"{branch} {value:.4g}" for branch, value in record.losses.items())
        if self._task is not None:
            shown = f"[yellow]{escape(self._stopping)}[/]" if self._stopping else f"[dim]{escape(losses)}[/]"
            self._bar.update(self._task, completed=record.step, speed=pace(self._speed), losses=shown)
        else:
            left = (self._steps - record.step) / self._speed
            told = f"step {record.step}/{self._steps}, {pace(self._speed)}, {left:.0f} s left"
            self._print(escape(f"{self._name}: {told}, {losses}"))

    def stopping(self, text: str) -> None:
        """A signal was heard, and the step in hand is finished first; called while the signal's handler runs."""
        self._stopping = text
        if self._task is not None:
            self._bar.update(self._task, losses=f"[yellow]{escape(text)}[/]")
        elif not self._console.quiet:
            say(text)

    def warn(self, text: str) -> None:
        """What the user should hear."""
        self._print(f"[yellow]{escape(text)}[/]")

    def end(self, plan: StagePlan, note: str) -> None:
        """A stage ended, or had been finished before."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        took = f" in {time.monotonic() - self._began:.1f} s" if self._began else ""
        self._began = 0.0
        self._print(f"[green]✓[/] {escape(stage_label(plan))}: {escape(note)}{took}")

    def _print(self, text: str) -> None:
        with suppress(OSError):
            self._console.print(text, soft_wrap=True)


def pace(speed: float) -> str:
    """So many steps a second, or seconds a step where they are slow."""
    return f"{speed:.3g} steps/s" if speed >= 1 else f"{1 / speed:.3g} s/step"


def stage_label(plan: StagePlan) -> str:
    """The stage's name, with the seed where there are several."""
    return plan.stage.name if len(plan.recipe.seeds) == 1 else f"{plan.stage.name}, seed {plan.seed}"
