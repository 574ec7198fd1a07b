"""The commands on what there is already, runs and weights: sample, evaluate, export, report."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from flowmap.cli import consoles
from flowmap.cli.shared import sharing
from flowmap.console.commands import process
from flowmap.console.working import working
from flowmap.errors import FlowmapError
from flowmap.files.texts import home, home_in
from flowmap.phases import phase

app = typer.Typer()

_PIECES_KEPT = "samples that were finished are kept. Run the same command again to go on"


def _samplers(incomplete: str) -> list[str]:
    from flowmap.plugin.catalogue import catalogue

    return [name for name in catalogue().names("sampler") if name.startswith(incomplete)]


def at_home(path: Path | None) -> Path | None:
    """A path as an option gives it, with `~` for the home folder: a shell leaves that of `--out=~/x` as it is."""
    return None if path is None else home(path)


def _finite(number: float | None) -> float | None:
    """A number as an option gives it; `nan` and `inf` are numbers to a parser, and to nobody else."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"{number:g} is no finite number")
    return number


def amount(least: float, about: str) -> Any:
    """An option that is a finite number from `least` on, with `about` as its help."""
    return typer.Option(min=least, callback=_finite, help=about)


RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/quickstart.", callback=at_home)
]
Where = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_WEIGHTS",
        help="The folder of a run, a folder of weights, or a hub id that is in the cache.",
        callback=home_in,
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change a field of --recipe. Repeatable.")
]
Stage = Annotated[str | None, typer.Option(help="Which stage; the last flow map if not given.")]
Guidance = Annotated[
    float | None,
    amount(1, "w in null + w (cond - null), for networks with none fused in: 1 (none), or as the weights' authors."),
]
Length = Annotated[
    int | None, typer.Option(min=1, help="Frames of a video, of weights only; what they were made for if not given.")
]
Side = Annotated[int | None, typer.Option(min=1, help="Pixels, of weights only.")]
GridShift = Annotated[
    float | None, amount(0.001, "Shift of the sampling grid, of weights only; their own if not given.")
]
WhichWeights = Annotated[str, typer.Option(help="ema or raw.")]
_HELD = "The network in parts over all processes, or whole in each; as the recipe says, or as fits, if not given."
Sharded = Annotated[bool | None, typer.Option("--sharded/--replicated", help=_HELD)]
TrainSeed = Annotated[int | None, typer.Option(help="Which training seed; the first if not given.")]


@app.command()
def sample(
    where: Where,
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to show; the data's own if not given. Repeatable.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A prompt a line (or .jsonl: prompt, seed, name, image): a file each in the folder OUT.",
            callback=at_home,
        ),
    ] = None,
    classes: Annotated[
        list[int] | None,
        typer.Option("--class", help="Which class, of data with class labels; random ones if not given. Repeatable."),
    ] = None,
    image: Annotated[Path | None, typer.Option(help="The first frame of the video to make.", callback=at_home)] = None,
    video: Annotated[Path | None, typer.Option(help="The beginning of the video to make.", callback=at_home)] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="How many frames of --video are given; as many as fit if not given.")
    ] = None,
    nfe: Annotated[
        int | None,
        typer.Option(
            min=1, help="Network calls per sample (of each chunk, in causal models): 4, or as the weights' authors."
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            autocompletion=_samplers,
            help="A sampler; if not given the stage's first in the recipe, or what the weights are made for.",
        ),
    ] = None,
    guidance: Guidance = None,
    length: Length = None,
    height: Side = None,
    width: Side = None,
    shift: GridShift = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="How many samples: 64 images, 4 videos, or 1 per prompt or class.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same samples.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Writes OUT.png, OUT.safetensors and, of videos, OUT.mp4.", callback=at_home)
    ] = Path("samples"),
    stage: Stage = None,
    weights: WhichWeights = "ema",
    train_seed: TrainSeed = None,
    together: Annotated[
        int | None,
        typer.Option(min=1, help="How many processes share each sample: 1 of --prompts, else all that were started."),
    ] = None,
    sharded: Sharded = None,
) -> None:
    """Draw samples from a run or from weights: a picture, the tensors and, of videos, mp4 files."""
    if together and not prompts and together != process()[1]:
        raise FlowmapError(f"--together {together}: without --prompts all processes share each sample; leave it out")
    with sharing(), working(consoles.out, _PIECES_KEPT if prompts else "nothing was finished"):
        with phase("starting"):
            from flowmap.use.pieces import read_pieces
            from flowmap.use.produce import produce
            from flowmap.use.sample import sample as sample_from
            from flowmap.use.wish import Wish, known_weights
        wish = Wish(
            stage=stage,
            weights=known_weights(weights),
            sampler=sampler,
            calls=nfe,
            number=n,
            seed=seed,
            train_seed=train_seed,
            prompts=tuple(prompt or ()),
            classes=tuple(classes or ()),
            image=image,
            video=video,
            frames=frames,
            cfg_scale=guidance,
            length=length,
            height=height,
            width=width,
            shift=shift,
            sharded=sharded,
        )
        if prompts:
            pieces = read_pieces(prompts, seed, image)
            done = produce(where, replace(wish, image=None), pieces, out, together or 1)
        else:
            files, summary = sample_from(where, wish, out)
    if process()[0]:
        return
    if prompts:
        consoles.out.print(f"[green]✓[/] {escape(done.summary())}", soft_wrap=True)
        return
    shown = [str(file) for file in files]
    listed = ", ".join([*shown[:2], "..."] if len(shown) > 6 else shown[:-1])
    consoles.out.print(f"{escape(listed)} and {escape(shown[-1])}: {escape(summary)}", soft_wrap=True)


@app.command()
def evaluate(
    where: Where,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="What weights are measured by, a file or a name of `flowmap recipes`; a run has its own.",
            callback=at_home,
        ),
    ] = None,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what has been measured.")] = False,
    runs: Annotated[Path, typer.Option(help="Where the results of weights go.", callback=at_home)] = Path("runs"),
) -> None:
    """Measure a finished run again, or weights by a recipe, and write a report. Trains nothing."""
    with sharing(), working(consoles.out, "what was measured is saved. Run the same command again to go on"):
        with phase("starting"):
            from flowmap.launch.measure import evaluate_at
        evaluate_at(where, recipe, overrides or [], runs, fresh, consoles.out)


@app.command()
def export(
    run: RunFolder,
    to: Annotated[Path, typer.Option(help="A new folder.", callback=at_home)],
    stage: Stage = None,
    weights: WhichWeights = "ema",
    train_seed: TrainSeed = None,
    keep_lora: Annotated[
        bool, typer.Option("--keep-lora", help="Write adapters beside the base weights instead of merging them.")
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="For whom, of Wan: diffusers (if not given), released: AnyFlow's own classes, original: Wan's own "
            "code, or comfyui.",
        ),
    ] = None,
    nfe: Annotated[
        int | None, typer.Option("--nfe", min=1, help="For original and comfyui: a flow map's steps, 4 if not given.")
    ] = None,
) -> None:
    """Write a stage's student as others load it (diffusers' pipelines, for Wan), with a model card."""
    with working(consoles.out, f"nothing was written to {to}"):
        with phase("starting"):
            from flowmap.use.export import export_run
            from flowmap.use.wish import known_weights
        chosen, loading = export_run(run, to, stage, known_weights(weights), train_seed, not keep_lora, form, nfe)
    consoles.out.print(
        f"[green]✓[/] {escape(str(to))}: stage {escape(chosen.stage.name)}. Load it with", soft_wrap=True
    )
    consoles.out.print(loading, soft_wrap=True, markup=False, highlight=False)


@app.command()
def report(run: RunFolder) -> None:
    """Write report.html (of a comparison: comparison.html) anew from a run's files."""
    doubts: list[str] = []
    with working(consoles.out, "the page is as it was"):
        with phase("starting"):
            from flowmap.comparison.page import write_page
            from flowmap.comparison.record import is_comparison_folder
            from flowmap.report.page import write_report
        with phase("writing the page"):
            written = write_page(run) if is_comparison_folder(run) else write_report(run, doubts.append)
    for doubt in doubts:
        consoles.out.print(f"[yellow]warning: {escape(doubt)}[/]", soft_wrap=True)
    consoles.out.print(str(written), soft_wrap=True)
