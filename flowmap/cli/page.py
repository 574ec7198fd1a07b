"""The command that opens a page to play with what there is already: demo."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer
from rich.markup import escape

from flowmap.cli import consoles
from flowmap.cli import runs as cli_runs
from flowmap.console.working import working
from flowmap.files.texts import home_in
from flowmap.phases import phase

app = typer.Typer()


def _at_home(where: str | None) -> str | None:
    return None if where is None else home_in(where)


@app.command()
def demo(
    where: cli_runs.Where,
    beside: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="Another run or weights, beside it from the same noise.", callback=_at_home),
    ] = None,
    beside_stage: Annotated[
        str | None, typer.Option(help="Another stage, beside it; of the same run, unless --beside names another.")
    ] = None,
    beside_guidance: Annotated[
        float | None,
        cli_runs.amount(1, "Guidance of the one beside it: a teacher, say, needs what a student has built in."),
    ] = None,
    stage: cli_runs.Stage = None,
    weights: cli_runs.WhichWeights = "ema",
    train_seed: cli_runs.TrainSeed = None,
    guidance: cli_runs.Guidance = None,
    length: cli_runs.Length = None,
    height: cli_runs.Side = None,
    width: cli_runs.Side = None,
    shift: cli_runs.GridShift = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where on this machine the page is.")] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="Also at a public address of Gradio's: whoever has it can ask.")
    ] = False,
) -> None:
    """Open a page for the browser, to play with a model or with two side by side. Local, unless shared."""
    with working(consoles.out, "no page was opened"):
        with phase("starting"):
            from flowmap.demo.serve import serve
            from flowmap.use.wish import Wish, known_weights
        chosen = Wish(stage, known_weights(weights), train_seed=train_seed, cfg_scale=guidance, shift=shift)
        chosen = replace(chosen, length=length, height=height, width=width)
        other = None
        if (beside, beside_stage, beside_guidance) != (None, None, None):
            same = stage if beside is None else None
            other = beside or where, replace(chosen, stage=beside_stage or same, cfg_scale=beside_guidance)
        served = serve((where, chosen), other, port, share)
    consoles.out.print(escape(served.words), soft_wrap=True)
    served.wait()
