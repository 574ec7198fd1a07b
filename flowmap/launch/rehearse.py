"""Rehearse a recipe: every stage, turn and code path, with a tiny twin of its model and data, in minutes.

The twin recipe is a file like any other and goes through the same commands as the real one: encode, run (stopped
once and resumed), evaluate, report, export, sample.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import final

import numpy as np
import tomli_w
from rich.console import Console
from rich.markup import escape

from flowmap.console.commands import command_line
from flowmap.errors import FlowmapError
from flowmap.files.folder import clear, locked
from flowmap.files.whole import write_whole
from flowmap.launch.run import run_recipe
from flowmap.launch.twin import STEPS, STOP_AFTER, twin_of
from flowmap.planning.count import count
from flowmap.planning.limits import needs, refuse_impossible
from flowmap.plugin.kinds import ArchiveConfig
from flowmap.recipe.layout import Plan, StagePlan, make_plan
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe
from flowmap.schema.words import needed, plain
from flowmap.training.processes import Processes
from flowmap.training.records import StepRecord
from flowmap.use.encode import encode_recipe
from flowmap.use.export import export_run
from flowmap.use.sample import sample_run
from flowmap.use.showing import write_picture
from flowmap.use.wish import Wish

_COUNTED = 32
_TWIN = "twin.toml"
_RAW, _ENCODED = ".raw", "encoded"
_LEFT = (_TWIN, "parts", "encoded", "run", "exported")
"""What a rehearsal leaves, beside samples."""
_FIRST = "sample-first.png"

_INTERRUPTED = 128 + signal.SIGINT


def rehearse(path: Path, overrides: Sequence[str], runs: Path, console: Console) -> Path:
    """Rehearse the recipe at `path` in `runs`/<name>-rehearsal; returns that folder.

    Everything in it is made anew. Raises FlowmapError where the real run would fail for the same reason.
    """
    began = time.monotonic()
    recipe, warnings = read(path, overrides)
    if not recipe.stages:
        raise FlowmapError(f"{path}: trains nothing, so there is nothing to rehearse; run it")
    processes = Processes(recipe.compute)
    console = console if processes.first else Console(quiet=True)
    for warning in warnings:
        console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
    if processes.number % recipe.compute.sequence:
        told = f"compute.sequence = {recipe.compute.sequence} is left out, for want of so many processes (torchrun)"
        console.print(f"[yellow]warning: {told}[/]", soft_wrap=True)
        recipe = recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"sequence": 1})})
    # Not for want of memory: a rehearsal is for any machine.
    refuse_impossible(recipe, make_plan(recipe, runs), processes.number, None)
    folder = runs / f"{recipe.name}-rehearsal"
    with locked(folder) if processes.first else nullcontext():
        if processes.first:
            # What an earlier rehearsal left would be found finished.
            _refuse_others(folder)
            clear(folder)
            _prepare(recipe, processes.number, folder, console)
        processes.wait()
        _encode(folder, console)
        processes.wait()
        plan = _run_twice(folder / _TWIN, folder, console)
        files = _finish(plan, console) if processes.first else []
        processes.wait()
    if processes.first:
        _needs(recipe, command_line(path, overrides, (), runs), console)
    console.print(
        f"[green]✓[/] rehearsed in {time.monotonic() - began:.0f} s: {escape(', '.join(map(str, files)))}",
        soft_wrap=True,
    )
    return folder


def _refuse_others(folder: Path) -> None:
    """Raise FlowmapError if anything is in `folder` that no rehearsal leaves there, and that would be deleted."""
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        if name not in _LEFT and not name.startswith((".", "sample")):
            raise FlowmapError(
                f"a rehearsal begins by clearing {folder}, and '{plain(name)}' in it is of no rehearsal; move it away, "
                "or rehearse with another --runs"
            )


def _prepare(recipe: Recipe, processes: int, folder: Path, console: Console) -> None:
    """Make the twin of `recipe` for so many `processes`, its data, and a note of what is to be encoded of them."""
    twin = twin_of(recipe, folder, processes)
    written = folder / _TWIN
    _say(console, "a tiny twin", f"of model and data is in {folder}; the recipe it runs is {written}")
    raw = twin.data
    if isinstance(raw, ArchiveConfig):
        (folder / _RAW).write_text(raw.path, "utf-8")
        twin = twin.model_copy(update={"data": raw.model_copy(update={"path": str(folder / _ENCODED)})})
    _write(twin, written)


def _encode(folder: Path, console: Console) -> None:
    """Encode the twin's data, where the recipe's can be, by all processes."""
    if (folder / _RAW).is_file():
        _say(console, "encode", "the samples, as `flowmap encode` does")
        raw = (folder / _RAW).read_text("utf-8")
        encode_recipe(folder / _TWIN, raw, folder / _ENCODED, (), console, quiet=True)


def _say(console: Console, what: str, how: str) -> None:
    console.print(f"[bold]{what}[/] {escape(how)}", soft_wrap=True, highlight=False)


def _write(recipe: Recipe, file: Path) -> None:
    header = "# Written by flowmap: the tiny twin of a recipe, for its rehearsal.\n"
    write_whole(file, header + tomli_w.dumps(recipe.as_tables()))


@final
class _StopOnce:
    """Sends this process the signal of Ctrl-C after some steps of a stage, once."""

    def __init__(self) -> None:
        self.done = False

    def begin(self, plan: StagePlan, done: int) -> None:
        """Nothing to do."""

    def step(self, record: StepRecord) -> None:
        """Stop when it is time."""
        if record.step == STOP_AFTER and not self.done:
            self.done = True
            signal.raise_signal(signal.SIGINT)

    def warn(self, text: str) -> None:
        """Nothing to do."""

    def end(self, plan: StagePlan, note: str) -> None:
        """Nothing to do."""


def _run_twice(recipe: Path, runs: Path, console: Console) -> Plan:
    _say(console, "run", f"every stage for {STEPS} steps; stopped after step {STOP_AFTER} of the first, then resumed")
    try:
        run_recipe(recipe, (), (), False, runs, console, _StopOnce(), quiet=True)
    except FlowmapError as error:
        if error.code != _INTERRUPTED:
            raise
        console.print(f"[green]✓[/] {escape(str(error).splitlines()[0])}", soft_wrap=True)
    else:
        raise FlowmapError("the rehearsed run was told to stop and did not", code=1)
    return run_recipe(recipe, (), (), False, runs, console, quiet=True)


def _finish(plan: Plan, console: Console) -> list[Path]:
    """Export and sample; returns what was made."""
    made = [plan.folder / "report.html"]
    exported = plan.folder.parent / "exported"
    try:
        _, loading = export_run(plan.folder, exported, None, "ema", None, merged=True)
        line = next((line for line in loading.splitlines() if "from_pretrained" in line), loading)
        _say(console, "export", f"to {exported}; load it with {line}")
        made.append(exported)
    except FlowmapError as error:
        _say(console, "export", f"skipped: {error}")
    spec = plan.recipe.data.spec()
    prompts = ("a red square moves to the right",) if spec.text and plan.recipe.backbone.reads_text() else ()
    image = None
    if needed(plan.recipe.backbone.contexts(spec)):
        image = plan.folder.parent / _FIRST
        write_picture(image, np.full((*spec.shape[2:], 3), 128, np.uint8))
    wish = Wish(number=1, prompts=prompts, image=image)
    files, _ = sample_run(plan.folder, wish, plan.folder.parent / "sample")
    _say(console, "sample", f"to {files[0]}")
    return [*made, files[0]]


def _needs(recipe: Recipe, command: str, console: Console) -> None:
    """Say what the real run will need, and the `command` that starts it."""
    console.print("\n[bold]The real run needs[/]")
    lines = list(dict.fromkeys(finding.message for finding in recipe.missing()))  # several metrics may lack one file
    footprint = recipe.backbone.footprint(recipe.data.spec(), recipe.compute.precision)
    # A model that starts from nothing is a toy.
    lines += [] if footprint is None or recipe.backbone.random_base else list(needs(footprint))
    # How a batch is cut changes neither: whole batches are counted faster.
    whole = recipe.compute.model_copy(update={"micro_batch": 0})
    plan = make_plan(recipe.model_copy(update={"compute": whole}), Path("runs"))
    for stage in plan.stages:
        if stage.seed != recipe.seeds[0]:
            continue
        cost = count(stage, most=_COUNTED)
        samples = sum(c.grad_samples + c.no_grad_samples for c in cost.calls.values()) / cost.steps
        graded = sum(c.grad_samples for c in cost.calls.values()) / cost.steps
        lines.append(
            f"stage {stage.stage.name}: {stage.stage.steps} steps of batch {stage.stage.batch}; a step sends about "
            f"{samples:.0f} samples or chunks through a network, {graded:.0f} of them with gradient"
        )
    for line in lines:
        console.print(f"• {escape(line)}", soft_wrap=True, highlight=False)
    console.print(f"Then: {escape(command)}\n", soft_wrap=True, highlight=False)
