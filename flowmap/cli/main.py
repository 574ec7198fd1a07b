"""The `flowmap` command. Only the commands that compute import torch."""

from __future__ import annotations

import atexit
import gc
import sys
import time
from typing import Annotated

import typer
from rich.markup import escape

from flowmap.cli import consoles, docs, doctor, faults, jobs, new, page, plugins, recipes, schema
from flowmap.cli import runs as cli_runs
from flowmap.cli import vbench as cli_vbench
from flowmap.cli.shared import SHARED
from flowmap.console.commands import process
from flowmap.console.terminal import prepare, settle_launcher
from flowmap.errors import FlowmapError
from flowmap.schema.words import shown
from flowmap.version import __version__

app = typer.Typer(
    name="flowmap",
    help="Turn a many-step diffusion or flow-matching model into an any-step one.\n\n"
    "Start with: flowmap run quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(jobs.app)
app.add_typer(plugins.app)
app.add_typer(cli_runs.app)
app.add_typer(cli_vbench.app)
app.add_typer(page.app)
app.add_typer(recipes.app)
app.add_typer(new.app)
app.add_typer(doctor.app)
app.add_typer(docs.app)
app.add_typer(schema.app)
_GRACE_SECONDS = 30
_LAST_WORDS_SECONDS = 5
_SIGNALLED = 128  # above it, the exit code of what a signal has ended


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        consoles.out.print(f"flowmap {__version__}")
        raise typer.Exit
    number = process()[1]
    if number > 1 and context.invoked_subcommand not in SHARED:
        names = [f"`flowmap {name}`" for name in SHARED]
        raise FlowmapError(
            f"only {', '.join(names[:-1])} and {names[-1]} are shared by processes, and this was started as {number}; "
            "start it without torchrun"
        )


def main() -> None:
    """Run the command; a FlowmapError is a message, not a traceback."""
    # At the end Python would look through all that is left for cycles: seconds, before the prompt is back.
    atexit.register(gc.freeze)
    sys.exit(_main())


def _say(error: str) -> None:
    """Print what was wrong; names in files of others may hold what a terminal obeys."""
    told = "\n".join(map(shown, error.split("\n")))
    consoles.err.print(f"[red]error:[/] {escape(told)}", soft_wrap=True, highlight=False)


def _main() -> str | int | None:
    """Run the command; returns its exit code."""
    terminal = prepare()
    try:
        settle_launcher()
    except FlowmapError as error:
        _say(str(error))
        return error.code
    code: str | int | None = 0
    try:
        with faults.in_one_line():
            app()
    except FlowmapError as error:
        index = process()[0]
        if index and error.code > _SIGNALLED:
            # Its end ends all, and the first process says so: it is given time, for then it is killed where it stands.
            time.sleep(_LAST_WORDS_SECONDS)
            return error.code
        if index:
            # Most errors are everybody's, and the first process says them: torchrun ends this one when that one ends.
            time.sleep(_GRACE_SECONDS)
        _say(f"process {index}: {error}" if index else str(error))
        return error.code
    except SystemExit as stop:
        code = stop.code
    if not code and (why := terminal.lost()):
        consoles.err.print(f"[red]error:[/] not all of the output could be written: {escape(why)}", soft_wrap=True)
        code = 1
    return code
