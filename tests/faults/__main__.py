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
_LANES = (("kills", "inputs"), ("disks", "damage"))


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
    lanes = [[kind for kind in lane if kind in kinds] for lane in _LANES]
    tally = _in_two(lanes, asked, folder) if asked.jobs == 2 and all(lanes) else _in_one(kinds, asked, folder)
    if asked.out:
        tally.save(asked.out)
        return 0
    print(f"\n{tally.table()}\n\n{time.monotonic() - began:.0f} s, seed {asked.seed}", flush=True)
    if tally.wrong:
        print(f"The folders of what went wrong are kept in {folder}")
    return 0 if tally.clean else 1


def _in_two(lanes: list[list[str]], asked: argparse.Namespace, folder: Path) -> Tally:
    """Two processes, which print what goes wrong as they find it."""
    running = []
    for number, kinds in enumerate(lanes):
        out = folder / f"tally-{number}.json"
        words = ["--kinds", ",".join(kinds), "--seed", str(asked.seed), "--only", asked.only, "--jobs", "1"]
        words += ["--folder", str(folder / f"lane-{number}"), "--out", str(out), *(["--long"] if asked.long else [])]
        running.append((subprocess.Popen([sys.executable, "-m", "tests.faults", *words]), out))
    tally = Tally()
    for process, out in running:
        if process.wait():
            raise SystemExit("the harness itself has failed; see above")
        tally.merge(Tally.load(out))
    return tally


def _in_one(kinds: list[str], asked: argparse.Namespace, folder: Path) -> Tally:
    tally = Tally()
    for kind in kinds:
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
