"""Try faults, and say in a table what became of them: `python -m tests.faults [--long] [--seed N] [--kinds a,b]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .tally import Outcome, Tally

KINDS = ("kills", "disks", "damage", "inputs")
_SHOWN = 40  # lines of what a command said


def main() -> int:
    """Run what is asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--long", action="store_true", help="500 kills and 10,000 inputs, for hours")
    parser.add_argument("--seed", type=int, default=0, help="the same seed tries the same faults")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--only", default="", help="of these only what has this in its name, such as a command")
    parser.add_argument("--jobs", type=int, default=2, choices=(1, 2), help="processes at a time")
    parser.add_argument("--folder", type=Path, help="where folders of failures are kept; a new one if not given")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    kinds = asked.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"unknown kind {unknown[0]}; there are {', '.join(KINDS)}")
    folder = (asked.folder or Path(tempfile.mkdtemp(prefix="flowmap-faults-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    tally = _in_one(kinds[0], asked, folder) if len(kinds) == 1 else _in_several(kinds, asked, folder)
    if asked.out:
        tally.save(asked.out)
        return 0
    print(f"\n{tally.table()}\n\n{time.monotonic() - began:.0f} s, seed {asked.seed}", flush=True)
    if tally.wrong:
        print(f"The folders of what went wrong are kept in {folder}")
    return 0 if tally.clean else 1


def _in_several(kinds: list[str], asked: argparse.Namespace, folder: Path) -> Tally:
    """A process for each kind, so many at a time, which prints what goes wrong as it is found."""
    waiting, running, tally = list(kinds), dict[str, subprocess.Popen[bytes]](), Tally()
    while waiting or running:
        while waiting and len(running) < asked.jobs:
            kind = waiting.pop(0)
            words = ["--kinds", kind, "--seed", str(asked.seed), "--only", asked.only, "--folder", str(folder)]
            words += ["--out", str(folder / f"{kind}.json"), *(["--long"] if asked.long else [])]
            running[kind] = subprocess.Popen([sys.executable, "-m", "tests.faults", *words])
        for kind in [kind for kind, process in running.items() if process.poll() is not None]:
            if running.pop(kind).returncode:
                raise SystemExit(f"the harness itself has failed at {kind}; see above")
        time.sleep(0.2)
    for kind in kinds:
        tally.merge(Tally.load(folder / f"{kind}.json"))
    return tally


def _in_one(kind: str, asked: argparse.Namespace, folder: Path) -> Tally:
    tally = Tally()
    for outcome in _source(kind)(folder / kind, asked.seed, asked.long, asked.only):
        tally.add(outcome)
        if outcome.wrong:
            told = outcome.told.strip().splitlines()
            cut = [f"    ... {len(told) - _SHOWN} lines"] if len(told) > _SHOWN else []
            shown = "\n".join([*cut, *(f"    {line}" for line in told[-_SHOWN:])])
            print(f"{outcome.verdict}: {outcome.kind}: {outcome.case}\n{shown}", flush=True)
    return tally


def _source(kind: str) -> Callable[[Path, int, bool, str], Iterator[Outcome]]:
    """What tries the faults of a kind; imported where it is needed, for it imports much."""
    from . import forms

    return {"kills": forms.kills, "disks": forms.disks, "damage": forms.damage, "inputs": forms.inputs}[kind]


if __name__ == "__main__":
    sys.exit(main())
