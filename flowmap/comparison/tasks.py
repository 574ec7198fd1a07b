"""The trainings of a comparison, laid out in its folder: what contestants share once, then each by itself."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import final

import tomli_w
from rich.console import Console
from rich.markup import escape

from flowmap.comparison.entrants import Comparison, Entrant
from flowmap.comparison.specification import SHARED
from flowmap.console.options import flag, option
from flowmap.errors import FlowmapError
from flowmap.files.folder import OLD, make_folder, writing
from flowmap.files.manifest import checkpoints
from flowmap.files.shelf import SHELF
from flowmap.files.texts import digest
from flowmap.files.whole import write_whole, write_whole_folder
from flowmap.recipe.layout import Plan, make_plan
from flowmap.statistics.scores import METRICS
from flowmap.training.changes import refuse_changes
from flowmap.training.stage import finished


@final
@dataclass(eq=False)
class Task:
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
    after: list[Task] = field(default_factory=list)
    began: float = 0.0
    failure: str | None = None
    done: bool = False


def lay_out(comparison: Comparison, root: Path) -> list[Task]:
    """Everything to be done, in order; folders and links made, recipes written.

    Of all seeds, what others wait for comes first: a contestant is always ready then, and no core has to wait.

    Raises FlowmapError if a contestant's folder holds another configuration's stage.
    """
    awaited: list[Task] = []
    tasks: list[Task] = []
    for seed in comparison.seeds:
        plans = {entrant.name: _plan(entrant, seed, root) for entrant in comparison.entrants}
        first = _first_tasks(plans, seed, root)
        awaited += first.values()
        for plan in plans.values():
            _link(plan.folder / SHELF, root / SHARED / SHELF)
        for name, plan in plans.items():
            stages = {stage.stage.name for stage in plan.stages}
            after = [task for (owner, stage), task in first.items() if stage in stages and _shares(plan, owner, stage)]
            tasks.append(Task(name, seed, _file(plan), plan.folder / METRICS, plan.recipe.compute.threads, after=after))
        for name, plan in plans.items():
            try:
                refuse_changes(plan.stages)
            except FlowmapError as error:
                told = str(error).rsplit("\n", 1)[0]
                raise FlowmapError(
                    f"{told}\nUndo the change, give the contestant another name, or start over with "
                    f"{option('redo', name)}, which sets its old folder aside ({flag('fresh')}: all)."
                ) from None
            write_whole(_file(plan), tomli_w.dumps(plan.recipe.as_tables()))
    return awaited + tasks


def take_over(tasks: Sequence[Task], root: Path, console: Console) -> None:
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


def _first_tasks(plans: Mapping[str, Plan], seed: int, root: Path) -> dict[tuple[Path, str], Task]:
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
    tasks: dict[tuple[Path, str], Task] = {}
    for (place, stage), sharing in users.items():
        if len(sharing) == 1:
            continue
        for plan in sharing:
            _link(plan.folder / stage, place)
        first = sharing[0]
        earlier = [task for (_, name), task in tasks.items() if name in _before(first, stage)]
        tasks[place, stage] = Task(
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


def key_of(task: Task) -> str:
    """Names a training and all that it depends on; contestants of the same recipe are trained and measured each."""
    text = f"{task.name}\n{task.file.read_text(encoding='utf-8')}\n{task.only}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
