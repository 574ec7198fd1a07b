"""The commands on recipes and comparisons: run, compare, check, encode, plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flowmap.cli import consoles
from flowmap.cli import runs as cli_runs
from flowmap.cli.shared import sharing
from flowmap.console.working import working
from flowmap.errors import FlowmapError
from flowmap.files.texts import home_in
from flowmap.phases import phase

if TYPE_CHECKING:
    from flowmap.recipe.recipe import Absent

app = typer.Typer()

_TABLE_WIDTH = 110

_GO_ON = "what was finished is kept. Run the same command again to go on"


RecipePath = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="A recipe: a file, or a name that `flowmap recipes` lists.", callback=cli_runs.at_home
    ),
]
Runs = Annotated[Path, typer.Option(help="Where the folders of runs are.", callback=cli_runs.at_home)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=VALUE",
        help="Change a field; stages by name: stages.teacher.steps=10. Repeatable.",
    ),
]


def _refuse_wrong(recipe: Path, overrides: list[str] | None, absent: Absent = "ignore") -> None:
    """Raise FlowmapError for a wrong recipe before torch is imported, which takes seconds; it is read again then."""
    from flowmap.recipe.read import read

    read(recipe, overrides or [], absent)


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    stage: Annotated[list[str] | None, typer.Option(help="Train only this stage. Repeatable.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over; the old folder is set aside, not deleted.")
    ] = False,
    runs: Runs = Path("runs"),
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Try every code path in minutes, with a tiny twin of model and data.")
    ] = False,
) -> None:
    """Train, evaluate and report. Resumes where it stopped; finished stages are not run again.

    Ctrl-C finishes the step, saves, and says how to go on.
    """
    if rehearse and (stage or fresh):
        raise FlowmapError("--rehearse tries the whole recipe, anew; leave out --stage and --fresh")
    with sharing(), working(consoles.out, _GO_ON):
        if rehearse:
            with phase("starting"):
                _refuse_wrong(recipe, overrides)

                from flowmap.launch.rehearse import rehearse as rehearsal
            rehearsal(recipe, overrides or [], runs, consoles.out)
        else:
            with phase("starting"):
                _refuse_wrong(recipe, overrides, absent="error")

                from flowmap.launch.run import run_recipe
            run_recipe(recipe, overrides or [], stage or [], fresh, runs, consoles.out)


@app.command()
def compare(
    specification: Annotated[
        list[Path],
        typer.Argument(
            metavar="SPEC",
            help="A specification, or several recipes to compare as they are: files, or names of `flowmap recipes`.",
            callback=lambda paths: [cli_runs.at_home(path) for path in paths],
        ),
    ],
    overrides: Overrides = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Trainings at the same time; as the specification says if not given.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over; the old folder is set aside, not deleted.")
    ] = False,
    redo: Annotated[list[str] | None, typer.Option(help="Start over with this contestant only. Repeatable.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Train contestants at equal budgets and say which is better where. Resumes where it stopped."""
    with working(consoles.out, _GO_ON):
        with phase("starting"):
            from flowmap.comparison.unfold import read_comparison

            read_comparison(specification, overrides or [], absent="error")  # before torch, as _refuse_wrong does

            from flowmap.comparison.run import compare as run_comparison
        run_comparison(specification, overrides or [], runs, processes, fresh, redo or [], consoles.out)


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Say at once what is wrong with a recipe or a comparison. Computes nothing."""
    with working(consoles.err, "nothing was changed"), phase(f"checking {recipe}"):
        what, warnings = _checked(recipe, overrides or [])
    for warning in warnings:
        consoles.err.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
    consoles.out.print(f"[green]✓[/] {escape(str(recipe))}: {escape(what)}", soft_wrap=True)


def _checked(path: Path, overrides: list[str]) -> tuple[str, list[str]]:
    """What the recipe or the comparison at `path` is, and what is doubtful about it."""
    from flowmap.recipe.read import is_comparison, read

    if is_comparison(path):
        from flowmap.comparison.unfold import read_comparison

        comparison, doubts = read_comparison([path], overrides, absent="warning")
        return ", ".join(entrant.name for entrant in comparison.entrants), list(doubts)
    checked, warnings = read(path, overrides, absent="warning")
    stages = "; ".join(f"{s.name} ({s.objective.type}, {s.steps} steps)" for s in checked.stages)
    return stages or "trains nothing, and measures weights", list(warnings)


@app.command()
def encode(
    recipe: RecipePath,
    raw: Annotated[
        str,
        typer.Option("--from", metavar="RAW", help="Where the raw data are: a folder or a pattern.", callback=home_in),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DIR",
            help="Where they go; the recipe's data.path if not given.",
            callback=cli_runs.at_home,
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Encode raw data once, ahead of training, with the recipe's own encoders. Finished parts are not made again."""
    with sharing(), working(consoles.out, _GO_ON):
        with phase("starting"):
            _refuse_wrong(recipe, overrides)

            from flowmap.use.encode import encode_recipe
        encode_recipe(recipe, raw, to, overrides or [], consoles.out)


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    devices: Annotated[int, typer.Option(min=1, help="How many devices share the work.")] = 1,
    memory: Annotated[
        float | None, cli_runs.amount(0.001, "GB of one device: refuse what cannot fit, warn where it is tight.")
    ] = None,
    tflops: Annotated[
        float | None, cli_runs.amount(0.001, "TFLOP/s that a device achieves; 400 if not given, 40 % of an H100.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Say what each stage will cost: network calls, memory of each device, FLOPs, GPU-hours. Needs no weights."""
    # On a console of its own, for the output may go to a program.
    with working(consoles.out if consoles.out.is_terminal else consoles.err, "nothing is kept"):
        with phase("starting"):
            _refuse_wrong(recipe, overrides)

            from flowmap.planning import plan as planning
            from flowmap.planning import tables as plan_tables
        planned = planning.plan_recipe(recipe, overrides or [], devices, memory, tflops or planning.TFLOPS)
    for warning in planned.warnings:
        consoles.err.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
    if as_json:
        print(planning.as_json(planned))
    else:
        # Elsewhere than on a terminal lines may be as long as the table needs.
        plan_tables.show(planned, consoles.out if consoles.out.is_terminal else Console(width=_TABLE_WIDTH))
