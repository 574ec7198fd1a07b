"""Run a comparison: what contestants share once, then each contestant and seed by itself, several at a time."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, final

import tomli_w
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.markup import escape

from flowmap.comparison.allotment import allotted
from flowmap.comparison.page import write_page
from flowmap.comparison.specification import SHARED, Comparison, Entrant, read_comparison
from flowmap.comparison.standings import FAILURES, Failure, load, record, sentences, together
from flowmap.console.commands import compare_line, going_on
from flowmap.console.display import display
from flowmap.console.signals import CTRL_C, Interruption, Signalled
from flowmap.errors import FlowmapError
from flowmap.files.folder import (
    OLD,
    append_line,
    locked,
    make_folder,
    read_lines,
    rewrite_lines,
    set_aside,
    write_whole,
    write_whole_folder,
    writing,
)
from flowmap.files.manifest import checkpoints
from flowmap.files.shelf import SHELF
from flowmap.files.texts import digest, is_file
from flowmap.phases import phase
from flowmap.recipe.layout import LOCK, RECORD, Plan, make_plan
from flowmap.recipe.recipe import Recipe
from flowmap.schema.words import unknown_word
from flowmap.statistics.scores import METRICS
from flowmap.training.stage import finished
from flowmap.training.train import refuse_changes

FINISHED = "finished.jsonl"


@final
@dataclass(eq=False)
class _Task:
    """One training: some stages of a recipe, or all of them and then the evaluation.

    `result` is there when it has been done; `threads` are those that its recipe asks for, 0 for none. `only` is what
    several contestants build on, a stage of so many `steps`.
    """

    name: str
    seed: int
    file: Path
    result: Path
    threads: int
    only: tuple[str, ...] = ()
    steps: int = 0
    after: list[_Task] = field(default_factory=list)
    began: float = 0.0
    failure: str | None = None
    done: bool = False


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

    A contestant that fails takes no other down. Raises FlowmapError for what the user can act on; at the end, if a
    contestant failed; and on a signal, when all trainings have saved.
    """
    comparison, warnings = read_comparison(paths, overrides, absent="error")
    for warning in warnings:
        console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
    names = [entrant.name for entrant in comparison.entrants]
    for name in redo:
        if name not in names:
            raise FlowmapError(f"--redo {name}: {unknown_word('contestant', name, names)}")
    root, command = runs / comparison.name, compare_line(paths, overrides, runs, processes)
    at_once, context = processes or comparison.processes, multiprocessing.get_context("forkserver")
    # Everything is imported once, and each training is a copy of the process that has done so.
    context.set_forkserver_preload(["flowmap.comparison.run", "flowmap.launch.run"])
    with going_on(command), locked(root):
        if is_file(root / LOCK) and not fresh:
            raise FlowmapError(
                f"{root} is the folder of a run; give the comparison another name, or another folder by --runs "
                "(--fresh sets the run aside)"
            )
        for folder in [root] if fresh else [root / name for name in redo]:
            if aside := set_aside(folder):
                console.print(f"the old {escape(str(folder))} is now {escape(str(aside))}", soft_wrap=True)
        comparison = allotted(comparison, root, at_once, context, console)
        _warn(comparison, console)
        tasks = _tasks(comparison, root)
        if not fresh:
            _take_over(tasks, root, console)
        write_whole(root / RECORD, json.dumps(record(comparison, command), indent=1) + "\n")
        lines = read_lines(root / FINISHED, _FinishedLine)
        # A line that a kill has cut off goes, and there is a file to append to.
        rewrite_lines(root / FINISHED, lines)
        known = {line["key"] for line in lines}
        for task in tasks:
            task.done = task.result.exists() and _key(task) in known
        try:
            with Interruption().raising():
                _work_off(tasks, at_once, context, console, root)
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


def _dumped(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", by_alias=True, exclude_none=True)


def _tasks(comparison: Comparison, root: Path) -> list[_Task]:
    """Everything to be done, in order; folders and links made, recipes written.

    Of all seeds, what others wait for comes first: a contestant is always ready then, and no core has to wait.

    Raises FlowmapError if a contestant's folder holds another configuration's stage.
    """
    awaited: list[_Task] = []
    tasks: list[_Task] = []
    for seed in comparison.seeds:
        plans = {entrant.name: _plan(entrant, seed, root) for entrant in comparison.entrants}
        first = _first_tasks(plans, seed, root)
        awaited += first.values()
        for plan in plans.values():
            _link(plan.folder / SHELF, root / SHARED / SHELF)
        for name, plan in plans.items():
            stages = {stage.stage.name for stage in plan.stages}
            after = [task for (owner, stage), task in first.items() if stage in stages and _shares(plan, owner, stage)]
            tasks.append(
                _Task(name, seed, _file(plan), plan.folder / METRICS, plan.recipe.compute.threads, after=after)
            )
        for name, plan in plans.items():
            try:
                refuse_changes(plan.stages)
            except FlowmapError as error:
                told = str(error).rsplit("\n", 1)[0]
                raise FlowmapError(
                    f"{told}\nUndo the change, give the contestant another name, or start over with --redo {name}, "
                    "which sets its old folder aside (--fresh: all)."
                ) from None
            write_whole(_file(plan), tomli_w.dumps(_dumped(plan.recipe)))
    return awaited + tasks


def _take_over(tasks: Sequence[_Task], root: Path, console: Console) -> None:
    """Copy what other comparisons beside `root` have trained already: stages with equal locks are one."""
    for task in tasks:
        place = task.result.parent
        if not task.only or checkpoints(place):
            continue
        there = _elsewhere(place, task.steps, root)
        if there is not None:
            with writing(place):
                shutil.rmtree(place)  # made for the links; what was begun there has no checkpoint
            write_whole_folder(place, partial(shutil.copytree, there, dirs_exist_ok=True))
            told = f"{task.name}, seed {task.seed}: the same is in {there}; taken over from there"
            console.print(escape(told), soft_wrap=True)


def _elsewhere(place: Path, steps: int, root: Path) -> Path | None:
    """Where another comparison has the finished stage that `place` is for."""
    for path in sorted(root.parent.glob(f"*/{place.relative_to(root)}")):
        if root in path.parents or OLD in path.relative_to(root.parent).parts[0]:
            continue
        with suppress(FlowmapError):  # what is damaged is that comparison's own affair
            if finished(path, steps):
                return path
    return None


def _plan(entrant: Entrant, seed: int, root: Path) -> Plan:
    """The training of one seed as a run of its own, `<contestant>/seed-<n>`."""
    return make_plan(entrant.of_seed(seed), root / entrant.name)


def _file(plan: Plan) -> Path:
    return plan.folder.with_suffix(".toml")


def _first_tasks(plans: Mapping[str, Plan], seed: int, root: Path) -> dict[tuple[Path, str], _Task]:
    """Trainings of what several contestants build on, by the folder they go to and the stage.

    Stages with equal locks are one: they are trained in the folder of the first contestant that has it, where, as
    in those of the others, a link leads to the shared folder.
    """
    users: dict[tuple[Path, str], list[Plan]] = {}
    for plan in plans.values():
        for each in plan.stages:
            name = each.stage.name
            place = root / SHARED / f"seed-{seed}" / f"{name}-{digest(each.lock)}"
            users.setdefault((place, name), []).append(plan)
    tasks: dict[tuple[Path, str], _Task] = {}
    for (place, stage), sharing in users.items():
        if len(sharing) == 1:
            continue
        for plan in sharing:
            _link(plan.folder / stage, place)
        first = sharing[0]
        earlier = [task for (_, name), task in tasks.items() if name in _before(first, stage)]
        tasks[place, stage] = _Task(
            f"{SHARED}: {stage}",
            seed,
            _file(first),
            place / "checkpoints",
            first.recipe.compute.threads,
            (stage,),
            first.recipe.stage(stage).steps,
            earlier,
        )
    return tasks


def _before(plan: Plan, stage: str) -> list[str]:
    names = [s.stage.name for s in plan.stages]
    return names[: names.index(stage)]


def _shares(plan: Plan, place: Path, stage: str) -> bool:
    link = plan.folder / stage
    return link.is_symlink() and link.resolve() == place.resolve()


def _link(link: Path, place: Path) -> None:
    """Make `link` lead to the folder `place`; what was trained at `link` before there was another user goes there."""
    with writing(link):
        make_folder(place.parent)
        make_folder(link.parent)
        if link.is_symlink():
            link.unlink()
        elif link.is_dir() and not place.exists():
            link.rename(place)
        elif link.is_dir():
            return  # its own training of the same configuration
        place.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(place, link.parent), target_is_directory=True)


def _key(task: _Task) -> str:
    """Names a training and all that it depends on; contestants of the same recipe are trained and measured each."""
    text = f"{task.name}\n{task.file.read_text(encoding='utf-8')}\n{task.only}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _work_off(tasks: Sequence[_Task], processes: int, context: ForkServerContext, console: Console, root: Path) -> None:
    """Run all tasks that are not done, so many at a time, each when those before it are done."""
    running: list[tuple[_Task, ForkServerProcess, Connection]] = []
    waiting = [task for task in tasks if not task.done]
    threads = max(1, (os.cpu_count() or 1) // processes)
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
                process.start()
                theirs.close()
                running.append((task, process, ours))
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
                    append_line(root / FINISHED, {"key": _key(task), "contestant": task.name, "seed": task.seed})


@contextmanager
def _stopping(running: Sequence[tuple[_Task, ForkServerProcess, Connection]], console: Console) -> Iterator[None]:
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


def _finish(task: _Task, code: int, pipe: Connection, console: Console, tasks: Sequence[_Task]) -> None:
    told: str | None = None
    try:
        told = pipe.recv() if pipe.poll() else None
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


def _status(tasks: Sequence[_Task], running: Sequence[_Task]) -> str:
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
