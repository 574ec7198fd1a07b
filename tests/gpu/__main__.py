"""Measure on an accelerator what only it can show, the most valuable first, within a time.

    python -m tests.gpu --minutes 15 --out DIR

Needs nothing but what the project installs with its development extras, and runs from a copy of the tree too, without
installation. DIR gets results.json and results.md after every item, and what they print in output.txt. What crashes or
takes too long loses nothing else; what no longer fits in the time is skipped, and said to be. On a CPU (or with
--small) everything runs in a tiny form that shows that it works, and says what an accelerator would do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tests.gpu.installed import TREE, paths
from tests.gpu.items import entries
from tests.gpu.schedule import RESULTS, TABLE, minutes, run


def facts_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What the device says of itself; asked in another process, whose memory on the device is free afterwards."""
    command = [sys.executable, "-m", "tests.gpu.device", "--facts"]
    told = subprocess.run(command, capture_output=True, text=True, env=dict(environment), check=False)
    if told.returncode:
        raise SystemExit(f"PyTorch does not start:\n{told.stderr.strip()}")
    return dict(line.split("=", 1) for line in told.stdout.splitlines() if "=" in line)


def main() -> int:
    """Run; the exit code says whether all that was begun has passed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="time for all of it")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="where results are written")
    parser.add_argument(
        "--only",
        default="",
        help="of these only those whose names begin with one of these words, such as step-1.3b,kernels",
    )
    parser.add_argument("--small", action="store_true", help="the small form, though there is an accelerator")
    asked = parser.parse_args()
    if not asked.minutes > 0:
        parser.error(f"--minutes {asked.minutes:g}: there is no time for anything")
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="flowmap-gpu-") as scratch:
        added = os.pathsep.join([*paths(Path(scratch)), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": added, "PYTHONUNBUFFERED": "1"}
        facts = facts_of(environment)
        accelerator = "driver" in facts and not asked.small
        chosen = [
            entry for entry in entries(TREE, out, Path(scratch)) if entry.name.startswith(tuple(asked.only.split(",")))
        ]
        items = [item for entry in chosen if (item := entry.on(accelerator)) is not None]
        if not items:
            parser.error(f"--only {asked.only}: there are {', '.join(entry.name for entry in entries(TREE, out, out))}")
        if not accelerator:
            facts["form"] = "tiny, which measures nothing of an accelerator"
            print("The small form, which shows that everything works. An accelerator would run, in this order:")
            for entry in chosen:
                print(f"  {entry.name:<34}  {minutes(entry.seconds):>8}  {' '.join(entry.words)}")
        print("; ".join(f"{name} {value}" for name, value in facts.items()))
        expected = sum(item.seconds for item in items)
        print(f"{len(items)} items, about {minutes(expected)} of {asked.minutes:g} min; results in {out}", flush=True)
        found = run(items, 60 * asked.minutes, out, facts, environment, partial(print, flush=True))
    print(f"{out / RESULTS}\n{out / TABLE}")
    return int(any(result.outcome in ("failed", "out of time") for result in found))


if __name__ == "__main__":
    sys.exit(main())
