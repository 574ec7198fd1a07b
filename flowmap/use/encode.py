"""Encode raw data once, ahead of training: what `flowmap encode` does."""

from __future__ import annotations

import glob
import hashlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flowmap.console.commands import process
from flowmap.console.display import display
from flowmap.console.signals import CTRL_C, Signalled
from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError, locked
from flowmap.files.names import expanded, printable
from flowmap.files.turns import turns_in
from flowmap.interfaces import Archive, EncodedText, Samples
from flowmap.maths.draw import Draw
from flowmap.phases import each, phase
from flowmap.plugin.kinds import ArchiveConfig, ComponentConfig
from flowmap.recipe.made_with import MadeWith, agree
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe
from flowmap.training.processes import Processes
from flowmap.use.listener import Listener

_FAULTS = "faults.jsonl"
_UNITS = ("B", "kB", "MB", "GB", "TB")


def encode_recipe(
    path: Path, raw: str, to: Path | None, overrides: Sequence[str], console: Console, quiet: bool = False
) -> None:
    """Encode the parts of `raw` with the recipe's backbone into `to`, or where the recipe looks for its data.

    Parts whose file is there are skipped; all processes share the others. `quiet` leaves out the recipe's warnings and
    how to go on. Raises FlowmapError for everything that the user can act on, a signal included (its code is the
    signal's).
    """
    recipe, warnings = read(path, overrides)
    loud = console
    if process()[0]:
        console = Console(quiet=True)
    for warning in () if quiet else warnings:
        console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
    if not isinstance(recipe.data, ArchiveConfig):
        raise FlowmapError(f"{path}: data '{recipe.data.type}' is not read from files that could be encoded ahead")
    source = recipe.data.model_copy(update={"path": raw})
    folder = _target(path, recipe.data, to)
    _refuse_same(raw, folder)
    _refuse_missing(source, recipe.backbone)
    processes = Processes(recipe.compute)
    with Listener(console) as faults, _held(folder, processes):
        with phase("looking at the raw data"):
            archive = source.build()
            names = archive.parts()
        if processes.first:
            doubt = agree(folder, MadeWith.now(recipe.backbone, processes.device.type, names))
            if doubt:
                console.print(f"[yellow]{escape(doubt)}[/]", soft_wrap=True)
        absent = processes.agreed([not (folder / name).exists() for name in names])
        left = [name for name, gone in zip(names, absent, strict=True) if gone]
        if len(left) < len(names):
            there = f"{len(names) - len(left)} of {len(names)} parts are in {folder} already; skipped"
            console.print(escape(there), soft_wrap=True)
        if left:
            # What is wrong with a part is said by the one process that looks at that.
            faults.console = loud
            with _explained(folder, names):
                _encode(archive, left, _precompute(recipe, processes.device), folder, console, faults, processes)
    if not processes.first:
        return
    size = _size(sum((folder / name).stat().st_size for name in names))
    console.print(f"[green]✓[/] {escape(str(folder))} has all {len(names)} parts, {size}", soft_wrap=True)
    if not quiet:
        console.print(f"To go on: {escape(_go_on(path, recipe.data, folder, overrides))}", soft_wrap=True)


@contextmanager
def _held(folder: Path, processes: Processes) -> Iterator[None]:
    """Hold the folder for all processes."""
    if not processes.first:
        yield
        return
    with locked(folder), turns_in(folder, processes.number == 1):
        yield


@contextmanager
def _explained(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Say what is kept, and how to go on, where encoding stops before its end."""
    try:
        yield
    except KeyboardInterrupt as error:
        how, code = (error.words(), error.code) if isinstance(error, Signalled) else ("interrupted", CTRL_C)
        kept = sum((folder / name).exists() for name in names)
        raise FlowmapError(
            f"{how}; {kept} of {len(names)} parts are finished and kept in {folder}. "
            "Run the same command again to go on",
            code,
        ) from None
    except StoppedError as error:
        raise FlowmapError(f"{error}\nTo go on: run the same command again", error.code) from error


def _encode(
    archive: Archive,
    parts: Sequence[str],
    precompute: Callable[[Samples], Samples],
    folder: Path,
    console: Console,
    faults: Listener,
    processes: Processes,
) -> None:
    """Encode this process's share of `parts`, one after the other, and say what became of the samples of all.

    Raises FlowmapError, and leaves no part behind, if not one sample could be used.
    """
    mine = parts[processes.index :: processes.number]
    counts = {part: archive.count(part) for part in each(mine, "counting samples", "parts")}
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("samples, {task.fields[faults]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
    began, total = faults.count, 0
    task = bar.add_task("", total=sum(counts.values()), faults=_faults(0))

    with display(console) as shown, shown.added(bar), torch.no_grad():
        for number, part in enumerate(mine, start=1):
            bar.update(task, description=escape(printable(part)))
            done, before = 0, faults.count
            for some in archive.encode(part, precompute, folder):
                done += some
                bar.update(task, advance=some, faults=_faults(faults.count - began))
            total += done
            if not shown.live:
                told = f"{done} samples, {_faults(faults.count - before)}"
                console.print(f"{escape(printable(part))}: {told}; {number} of {len(mine)} parts", soft_wrap=True)
    total, found = map(int, processes.total([total, faults.count - began]))
    encoded = total - found
    # With those that were found before, by every process: of whole parts, and of samples that are not even counted.
    counted = _faults(began + found)
    listed = f", listed in {folder / _FAULTS}" if began + found else ""
    summary = f"encoded {encoded} samples in {len(parts)} parts, {counted}{listed}"
    if not encoded and not any((folder / part).exists() for part in archive.parts() if part not in parts):
        for part in parts:
            (folder / part).unlink(missing_ok=True)
        raise FlowmapError(f"no sample could be encoded: {counted}{listed}", code=1)
    console.print(f"[green]✓[/] {escape(summary)}", soft_wrap=True)


def _faults(count: int) -> str:
    return f"{count} fault" if count == 1 else f"{count} faults"


def _precompute(recipe: Recipe, device: torch.device) -> Callable[[Samples], Samples]:
    """The backbone's `precompute`, on the accelerator; what comes back is on the CPU."""
    backbone = recipe.backbone.build(recipe.data.spec())

    def precompute(samples: Samples) -> Samples:
        # By what is encoded: in whatever order and however often that happens, the draws are the same.
        address = hashlib.blake2b(samples.x.cpu().numpy().tobytes(), digest_size=8).hexdigest()
        draw = Draw.whole(0, f"sample {address}", 0, "encoding", len(samples.x), device)
        found = backbone.precompute(replace(samples, x=samples.x.to(device)), draw)
        return replace(found, x=found.x.cpu(), prompts=_on_cpu(found.prompts))

    return precompute


def _on_cpu(prompts: Any) -> Any:
    return prompts.to(torch.device("cpu")) if isinstance(prompts, EncodedText) else prompts


def _target(path: Path, data: ArchiveConfig, to: Path | None) -> Path:
    """The folder to write into."""
    if to is None and (glob.has_magic(data.path) or expanded(data.path).is_file()):
        raise FlowmapError(f"{path}: data.path is '{data.path}', which is no folder to write into; give one with --to")
    folder = expanded(to or data.path)
    if "\0" in str(folder):
        raise FlowmapError(f"{path}: data.path has a NUL character in it, which no folder has")
    if folder.exists() and not folder.is_dir():
        raise FlowmapError(f"{folder}: is a file; the encoded parts need a folder, give one with --to")
    return folder


def _refuse_same(raw: str, folder: Path) -> None:
    """Refuse to write where the raw parts are: they would be taken for encoded ones."""
    place = expanded(raw)
    places = {place} if place.is_dir() else {Path(p).parent for p in glob.glob(str(place), recursive=True)}
    if folder.resolve() in {p.resolve() for p in places}:
        raise FlowmapError(
            f"--from {raw}: the encoded parts would go into {folder} too; choose another folder with --to"
        )


def _refuse_missing(source: ArchiveConfig, backbone: ComponentConfig) -> None:
    """Refuse, all at once, what is not on this machine."""
    raw = [f"--from {source.path}: {finding.message}" for finding in source.missing() if finding.level == "error"]
    own = [
        ".".join(("backbone", *map(str, finding.field))) + f": {finding.message}"
        for finding in backbone.missing()
        if finding.level == "error"
    ]
    if raw or own:
        raise FlowmapError("\n".join(raw + own))


def _size(size: float) -> str:
    """A number of bytes as one reads it."""
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"


def _go_on(path: Path, data: ArchiveConfig, folder: Path, overrides: Sequence[str]) -> str:
    """The command that trains on what was encoded."""
    settings = [word for text in overrides for word in ("--set", text)]
    if expanded(data.path).resolve() != folder.resolve():
        settings += ["--set", f"data.path={folder}"]
    return shlex.join(["flowmap", "run", str(path), *settings])
