"""The command on VBench: make its environment, make and score clips, or score clips that are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flowmap.cli import consoles
from flowmap.cli import runs as cli_runs
from flowmap.cli.shared import sharing
from flowmap.console.commands import process
from flowmap.console.working import working
from flowmap.errors import FlowmapError
from flowmap.files.texts import home_in
from flowmap.phases import phase

if TYPE_CHECKING:
    from flowmap.vbench.record import Record

app = typer.Typer()

_TABLE_WIDTH = 140


def _folder(about: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=about, callback=cli_runs.at_home)
    return option


@app.command()
def vbench(
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN_OR_WEIGHTS]",
            help="The folder of a run, a folder of weights, or a hub id that is in the cache; not with --videos.",
            callback=lambda where: where and home_in(where),
        ),
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Make the environment for VBench's package, and say what can be scored.")
    ] = False,
    i2v: Annotated[bool, typer.Option("--i2v", help="VBench-I2V: videos that begin with an image.")] = False,
    dimensions: Annotated[
        list[str] | None, typer.Option(help="A dimension, or several with commas; all if not given. Repeatable.")
    ] = None,
    subset: Annotated[
        int | None, typer.Option(min=1, help="So many entries of the list, in proportion: not comparable to any row.")
    ] = None,
    videos: Annotated[Path | None, _folder("Score the clips in this folder, ours or others'; makes none.")] = None,
    prompts: Annotated[
        Path | None, _folder("Augmented prompts: a line for each entry, or JSON with aug_prompt_en.")
    ] = None,
    info: Annotated[
        Path | None, _folder("The list of prompts, in the package's form; the package's if not given.")
    ] = None,
    repository: Annotated[
        Path | None, _folder("A clone of Vchitect/VBench, for images: list, images and code that the package lacks.")
    ] = None,
    flickering: Annotated[
        int, typer.Option(min=5, max=25, help="Videos of a prompt of temporal_flickering: 5, or 25 to choose from.")
    ] = 5,
    nfe: Annotated[int | None, typer.Option(min=1, help="As of `flowmap sample`, as are the next.")] = None,
    sampler: Annotated[str | None, typer.Option(help="A sampler.")] = None,
    guidance: Annotated[float | None, cli_runs.amount(1, "w in null + w (cond - null).")] = None,
    shift: Annotated[float | None, cli_runs.amount(0.001, "Shift of the sampling grid, of weights only.")] = None,
    length: Annotated[int | None, typer.Option(min=2, help="Frames of a video, of weights only.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels, of weights only.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels, of weights only.")] = None,
    stage: Annotated[str | None, typer.Option(help="Which stage of a run.")] = None,
    weights: cli_runs.WhichWeights = "ema",
    train_seed: cli_runs.TrainSeed = None,
    sharded: cli_runs.Sharded = None,
    seed: Annotated[int, typer.Option(min=0, help="Added to the seed of every video.")] = 0,
    resolution: Annotated[str | None, typer.Option(help="Shape of the images: 1-1, 8-5, 7-4 or 16-9.")] = None,
    device: Annotated[str, typer.Option(help="What the package computes on: cpu or cuda.")] = "cpu",
    download: Annotated[
        bool, typer.Option("--download", help="Let the package fetch weights that are missing.")
    ] = False,
    out: Annotated[
        Path | None, _folder("Where clips, scores and vbench.json go; RUN/vbench, or vbench/NAME of weights.")
    ] = None,
    environment: Annotated[
        Path | None, _folder("Where the environment is; FLOWMAP_VBENCH, or the cache folder, if not given.")
    ] = None,
    python: Annotated[str | None, typer.Option(help="A Python 3.10 or 3.11 to make the environment with.")] = None,
    detectron2: Annotated[
        str | None, typer.Option(help="Where detectron2's source is, for four of the dimensions.")
    ] = None,
) -> None:
    """Judge a run, weights or clips by VBench: 5 videos of each prompt, scored by the real package.

    Goes on where it stopped.
    """
    asked = tuple(name.strip() for each in dimensions or () for name in each.split(",") if name.strip())
    console = Console(quiet=True) if process()[0] else consoles.out
    with sharing(), working(console, "what was finished is kept. Run the same command again to go on"):
        with phase("starting"):
            from flowmap.vbench.environment import default_folder

        # Absolute: what runs in it has a folder of its own.
        place = (environment or default_folder()).absolute()
        if install:
            _install(place, i2v, asked, python, detectron2)
            return
        if where is None and videos is None:
            raise FlowmapError("give a run or weights to make clips from, or --videos FOLDER with clips that are there")
        if where is not None and videos is not None:
            raise FlowmapError(
                f"--videos {videos}: is for clips that are there, of which {where} makes none; leave one out"
            )
        with phase("starting"):
            from flowmap.launch.vbench import STATIC, Order, default_out
            from flowmap.launch.vbench import vbench as judged
            from flowmap.use.wish import Wish, known_weights
            from flowmap.vbench.dimensions import VIDEOS
        if flickering not in (VIDEOS, STATIC):
            raise FlowmapError(f"--flickering {flickering}: {VIDEOS} or {STATIC} are possible")
        chosen = known_weights(weights)
        wish = Wish(stage, chosen, sampler, nfe, None, seed, train_seed, cfg_scale=guidance, shift=shift)
        wish = replace(wish, length=length, height=height, width=width, sharded=sharded)
        images = (repository, resolution)
        place_out = out or default_out(where, videos)
        order = Order(
            place_out, place, i2v, info, prompts, asked, subset, flickering, videos, *images, device, download
        )
        record = judged(where, wish, order)
    if record is not None:
        _show(record, order.out)


def _install(place: Path, i2v: bool, asked: tuple[str, ...], python: str | None, detectron2: str | None) -> None:
    from flowmap.vbench.dimensions import I2V, suite
    from flowmap.vbench.install import install
    from flowmap.vbench.readiness import show_readiness

    known = suite(i2v).dimensions
    unknown = [name for name in asked if name not in known]
    if unknown:
        more = "" if i2v or unknown[0] not in I2V.dimensions else "; it is one of --i2v"
        raise FlowmapError(f"--dimensions: there is no '{unknown[0]}'; there are {', '.join(known)}{more}")
    made = install(place, asked or tuple(known), python, detectron2)
    show_readiness(made, asked or tuple(known), _wide())


def _wide() -> Console:
    """Elsewhere than on a terminal lines may be as long as a table needs."""
    return consoles.out if consoles.out.is_terminal else Console(width=_TABLE_WIDTH)


def _show(record: Record, out: Path) -> None:
    from flowmap.vbench.record import RECORD
    from flowmap.vbench.table import show

    show(record, _wide())
    consoles.out.print(str(out / RECORD), soft_wrap=True, markup=False, highlight=False)
    if record.missing:
        raise FlowmapError(f"no score for {', '.join(record.missing)}; the list above says why", 1)
