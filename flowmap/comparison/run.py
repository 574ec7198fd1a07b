"""Run a comparison: what contestants share once, then each contestant and seed by itself, several at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.markup import escape

from flowmap.comparison.allotment import allotted
from flowmap.comparison.entrants import Comparison
from flowmap.comparison.page import write_page
from flowmap.comparison.processes import threads_of, training_processes
from flowmap.comparison.record import FAILURES, load, record
from flowmap.comparison.sentences import sentences, together
from flowmap.comparison.standings import Failure
from flowmap.comparison.tasks import Task, key_of, lay_out, take_over
from flowmap.comparison.unfold import read_comparison
from flowmap.console.commands import compare_line, going_on
from flowmap.console.display import display
from flowmap.console.options import flag, option
from flowmap.console.signals import CTRL_C, Interruption, Signalled
from flowmap.errors import FlowmapError
from flowmap.files.folder import locked, set_aside, writing
from flowmap.files.json_lines import append_line, read_lines, rewrite_lines
from flowmap.files.texts import is_file
from flowmap.files.whole import write_whole
from flowmap.launch.early import build_early
from flowmap.phases import phase
from flowmap.recipe.layout import LOCK, RECORD
from flowmap.schema.words import unknown_word

FINISHED = "finished.jsonl"


class _FinishedLine(BaseModel):
    """The shape of a line of `finished.jsonl`."""

    model_config = ConfigDict(strict=True)

    key: str
    contestant: str
    seed: int


def compare(
    paths: Sequence[Path],
    overrides: Sequence[str],
    runs: Path,
    processes: int | None,
    fresh: bool,
    redo: Sequence[str],
    console: Console,
) -> None:
    """Bring the comparison of `paths` to its end from wherever it stands, and write its page.

    A contestant that fails takes no other down, but what cannot even be built is refused before anything is trained.
    Raises FlowmapError for what the user can act on; at the end, if a contestant failed; and on a signal.
    """
    comparison, warnings = read_comparison(paths, overrides, absent="error")
    for warning in warnings:
        console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
    names = [entrant.name for entrant in comparison.entrants]
    for name in redo:
        if name not in names:
            raise FlowmapError(f"{option('redo', name)}: {unknown_word('contestant', name, names)}")
    build_early([entrant.recipe for entrant in comparison.entrants])
    root, command = runs / comparison.name, compare_line(paths, overrides, runs, processes)
    at_once, context = processes or comparison.processes, training_processes()
    with going_on(command), locked(root):
        if is_file(root / LOCK) and not fresh:
            raise FlowmapError(
                f"{root} is the folder of a run; give the comparison another name, or another folder by "
                f"{option('runs')} ({flag('fresh')} sets the run aside)"
            )
        if is_file(root.parent / LOCK):
            raise FlowmapError(f"{root} lies in the folder of a run; give another folder by {option('runs')}")
        for folder in [root] if fresh else [root / name for name in redo]:
            if aside := set_aside(folder):
                console.print(f"the old {escape(str(folder))} is now {escape(str(aside))}", soft_wrap=True)
        comparison = allotted(comparison, root, at_once, context, console)
        _warn(comparison, console)
        tasks = lay_out(comparison, root)
        if not fresh:
            take_over(tasks, root, console)
        write_whole(root / RECORD, json.dumps(record(comparison, command), indent=1) + "\n")
        lines = read_lines(root / FINISHED, _FinishedLine)
        # A line that a kill has cut off goes, and there is a file to append to.
        rewrite_lines(root / FINISHED, lines)
        known = {line["key"] for line in lines}
        for task in tasks:
            task.done = task.result.exists() and key_of(task) in known
        try:
            interruption = Interruption(lambda text: None)  # _stopping says it
            with interruption.raising():
                _work_off(tasks, at_once, context, console, root, interruption)
        except KeyboardInterrupt as error:
            code = error.code if isinstance(error, Signalled) else CTRL_C
            raise FlowmapError(f"stopped; what was finished is saved.\nTo go on: {command}", code) from None
        failures = [Failure(task.name, task.seed, task.failure) for task in tasks if task.failure is not None]
        rewrite_lines(root / FAILURES, [vars(failure) for failure in failures])
        page = write_page(root)
    for sentence in sentences(load(root)):
        console.print(f"• {escape(sentence)}", highlight=False, soft_wrap=True)
    console.print(f"comparison: [bold]{escape(str(page))}[/]", soft_wrap=True)
    if failures:
        listed = "\n".join(f"  {name}, {seeds}: {message}" for name, seeds, message in together(failures))
        raise FlowmapError(f"{len(failures)} of {len(tasks)} trainings failed:\n{listed}\nTo go on: {command}", 1)


def _warn(comparison: Comparison, console: Console) -> None:
    """Say what is doubtful about the stages now that their steps are known, and was not while they were not.

    Raises FlowmapError if anything of that is wrong.
    """
    wrong: list[str] = []
    doubtful: list[str] = []
    for entrant in comparison.entrants:
        before = list(entrant.recipe.findings())
        new = [f for f in entrant.of_seed(comparison.seeds[0]).findings() if f not in before]
        wrong += comparison.told(entrant, [finding for finding in new if finding.level == "error"])
        doubtful += comparison.told(entrant, [finding for finding in new if finding.level != "error"])
    if wrong:
        raise FlowmapError("\n".join(dict.fromkeys(wrong)))
    for text in dict.fromkeys(doubtful):
        console.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)


def _work_off(
    tasks: Sequence[Task],
    processes: int,
    context: ForkServerContext,
    console: Console,
    root: Path,
    interruption: Interruption,
) -> None:
    """Run all tasks that are not done, so many at a time, each when those before it are done."""
    running: list[tuple[Task, ForkServerProcess, Connection]] = []
    waiting = [task for task in tasks if not task.done]
    threads = threads_of(processes)
    with display(console), phase("starting trainings") as doing, _stopping(running, console):
        while waiting or running:
            for task in [t for t in waiting if all(b.done or b.failure for b in t.after)][: processes - len(running)]:
                waiting.remove(task)
                broken = next((before for before in task.after if before.failure is not None), None)
                if broken is not None:
                    task.failure = f"'{broken.name}' failed, on which it builds"
                    continue
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(task.file, task.only, task.threads or threads, theirs))
                task.began = time.monotonic()
                # Nobody is started of whom nobody knows that he is to be stopped.
                with interruption.patience():
                    process.start()
                    running.append((task, process, ours))
                theirs.close()
            doing.what = _status(tasks, [task for task, _, _ in running])
            if not running:
                continue
            wait([process.sentinel for _, process, _ in running])
            for task, process, pipe in [entry for entry in running if not entry[1].is_alive()]:
                running.remove((task, process, pipe))
                process.join()
                if process.exitcode == CTRL_C:
                    # It is meant for all, even where it has not reached this process.
                    raise KeyboardInterrupt
                _finish(task, process.exitcode or 0, pipe, console, tasks)
                if task.done:
                    append_line(root / FINISHED, {"key": key_of(task), "contestant": task.name, "seed": task.seed})


@contextmanager
def _stopping(running: Sequence[tuple[Task, ForkServerProcess, Connection]], console: Console) -> Iterator[None]:
    """On the way out, whatever is running is asked to save and stop, and waited for."""
    try:
        yield
    finally:
        if running:
            console.print("stopping after the steps in hand; again to stop now")
        for _, process, _ in running:
            process.terminate()
        for _, process, _ in running:
            process.join()


def _finish(task: Task, code: int, pipe: Connection, console: Console, tasks: Sequence[Task]) -> None:
    try:
        told: str | None = pipe.recv() if pipe.poll() else None
    except EOFError:
        told = None
    pipe.close()
    log = task.file.with_suffix(".log")
    if code < 0:
        told = f"was ended by {signal.Signals(-code).name}; see {log}"
    elif code and told is None:
        told = f"stopped with code {code}; see {log}"
    task.failure, task.done = told, told is None
    mark = "[red]✗[/]" if told else "[green]✓[/]"
    seconds = time.monotonic() - task.began
    place = f"[dim]{sum(t.done or t.failure is not None for t in tasks)} of {len(tasks)}[/]"
    console.print(f"{mark} {escape(task.name)}, seed {task.seed}: {seconds:.0f} s {place}", highlight=False)
    if told:
        console.print(f"  [red]{escape(told)}[/]", soft_wrap=True, highlight=False)


def _status(tasks: Sequence[Task], running: Sequence[Task]) -> str:
    names = ", ".join(f"{task.name} (seed {task.seed})" for task in running)
    return f"{sum(task.done for task in tasks)} of {len(tasks)} done; training {names}"


def _work(file: Path, only: tuple[str, ...], threads: int, tell: Connection) -> None:
    """In a process of its own: run the recipe at `file`; what goes wrong is told in a sentence."""
    import torch

    from flowmap.launch.run import run_recipe

    torch.set_num_threads(threads)
    path = file.with_suffix(".log")
    try:
        with writing(path):
            log = path.open("a", 1, encoding="utf-8", errors="backslashreplace")
        with log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            console = Console(file=log, width=shutil.get_terminal_size().columns)
            try:
                run_recipe(file, (), only, False, file.parent, console, quiet=True, page=False)
            except FlowmapError as error:
                with suppress(OSError):  # it is told all the same
                    print(f"error: {error}", file=log)
                raise
    except FlowmapError as error:
        # The comparison says how to go on with it.
        with suppress(OSError):  # nobody listens any more
            tell.send(str(error).split("\nTo go on: ")[0])
        os._exit(error.code or 1)
    except KeyboardInterrupt:
        with suppress(OSError):
            tell.send("interrupted")
        os._exit(CTRL_C)
