"""Show how a run goes: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flowmap.loop import StepRecord
from flowmap.plan import StagePlan

_REFRESH_SECONDS = 0.1
_LINE_SECONDS = 15.0
_MEMORY = 0.95


@final
class ProgressWatcher:
    """Step, loss per branch, speed and time left, for one stage after another."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("[cyan]{task.fields[speed]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[losses]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._name = ""
        self._steps = 0
        self._shown = 0.0
        self._began = 0.0
        self._speed = 0.0

    def __enter__(self) -> ProgressWatcher:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, plan: StagePlan, done: int) -> None:
        """A stage begins."""
        self._name, self._steps = stage_label(plan), plan.stage.steps
        self._shown = self._began = time.monotonic()
        self._speed = 0.0
        if done:
            self._console.print(f"{escape(self._name)}: going on after step {done}")
        if self._console.is_terminal:
            self._task = self._bar.add_task(escape(self._name), total=self._steps, completed=done, speed="", losses="")

    def step(self, record: StepRecord) -> None:
        """A step was finished; most steps are not worth redrawing for."""
        for doubt in record.doubts:
            self._console.print(f"[yellow]{escape(f'{self._name}, step {record.step}: {doubt}')}[/]", soft_wrap=True)
        rate = 1 / max(record.seconds, 1e-9)
        self._speed = rate if not self._speed else _MEMORY * self._speed + (1 - _MEMORY) * rate
        now = time.monotonic()
        live = self._task is not None
        if now - self._shown < (_REFRESH_SECONDS if live else _LINE_SECONDS) and record.step < self._steps:
            return
        self._shown = now
        losses = "  ".join(f"{branch} {value:.4g}" for branch, value in record.losses.items())
        if self._task is not None:
            self._bar.update(
                self._task, completed=record.step, speed=f"{self._speed:.0f} steps/s", losses=escape(losses)
            )
        else:
            left = (self._steps - record.step) / self._speed
            pace = f"step {record.step}/{self._steps}, {self._speed:.3g} steps/s, {left:.0f} s left"
            self._console.print(escape(f"{self._name}: {pace}, {losses}"), soft_wrap=True)

    def end(self, plan: StagePlan, note: str) -> None:
        """A stage ended, or had been finished before."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        took = f" in {time.monotonic() - self._began:.1f} s" if self._began else ""
        self._began = 0.0
        self._console.print(f"[green]✓[/] {escape(stage_label(plan))}: {escape(note)}{took}")


def stage_label(plan: StagePlan) -> str:
    """The stage's name, with the seed where there are several."""
    return plan.stage.name if len(plan.recipe.seeds) == 1 else f"{plan.stage.name}, seed {plan.seed}"
