"""A step of every objective waits for the device nowhere but where its numbers are read (tests/test_no_waiting.py)."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.recipe.tables import ComputeConfig
from flowmap.training import tangent_error
from flowmap.training.processes import Processes
from flowmap.training.records import Records
from flowmap.training.stage import open_stage
from tests.test_no_waiting import CASES, MODELS, RECIPE, run


@contextmanager
def _errors(there: bool) -> Iterator[None]:
    if there:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if there:
            torch.cuda.set_sync_debug_mode("default")


def waits(model: str, objective: str, device: str, folder: Path) -> str:
    """Where a step waits; empty where it does nowhere."""
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(model=MODELS[model], objective=objective, batch=4).replace('"cpu"', f'"{device}"'))
    stage = open_stage(make_plan(read(path)[0], folder).stages[0], Processes(ComputeConfig(device=device)))
    unread = {"add": lambda self, turn: None, "read": lambda self: None, "told": lambda self: iter(())}
    with mock.patch.multiple(Records, **unread), mock.patch.object(tangent_error, "due", return_value=False):
        run(stage)  # what is made once for all calls of a layout may wait
        try:
            with _errors(device == "auto"):
                run(stage)
        except RuntimeError as error:
            ours = [f for f in traceback.extract_tb(error.__traceback__) if "flowmap" in f.filename]
            where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(ours[-3:]))
            return f"{str(error).splitlines()[0]} at {where}"
    return ""


def main() -> int:
    """Print every case; the exit code says whether none waits."""
    small = "--small" in sys.argv or not torch.cuda.is_available()
    cases = CASES[:: 12 if small else 1]
    waited = 0
    with tempfile.TemporaryDirectory() as folder:
        for model, objective in cases:
            where = waits(model, objective, "cpu" if small else "auto", Path(folder))
            waited += bool(where)
            if where:
                print(f"  {model}, {objective.strip('{} ')}  {where}", flush=True)
    print(f"  steps that wait, of {len(cases)}  {waited}")
    return int(waited > 0)


if __name__ == "__main__":
    sys.exit(main())
