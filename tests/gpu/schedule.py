"""Items one after the other within a time, each in a process of its own; what is known is written at once.

An item prints its numbers as lines of two spaces, a name, at least two more spaces, and the number with its unit. What
it has printed before it crashes or its time is over is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS, TABLE, OUTPUT = "results.json", "results.md", "output.txt"
_NUMBER = re.compile(r"^  (\S.*?)\s{2,}(\S.*?)\s*$")
_GRACE = 3.0  # times what an item is expected to take, which is then over
_LEAST = 60.0  # seconds that every item may take, if they are left


@dataclass(frozen=True)
class Item:
    """A command whose numbers are wanted, and the seconds it is expected to take."""

    name: str
    what: str
    command: Sequence[str]
    seconds: float


@dataclass
class Result:
    """What became of an item: "passed", "failed", "out of time" or "skipped", and why, if it is not passed."""

    name: str
    what: str
    command: str
    outcome: str
    seconds: float = 0.0
    numbers: list[tuple[str, str]] = field(default_factory=list)
    why: str = ""


def run(
    items: Sequence[Item],
    seconds: float,
    out: Path,
    facts: Mapping[str, str],
    environment: Mapping[str, str],
    say: Callable[[str], None] = print,
) -> list[Result]:
    """Run `items` in their order within `seconds`; what no longer fits is skipped, and what takes less may still fit.

    After each of them `out` has all results so far, as JSON and as a table in Markdown under `facts`.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / OUTPUT).write_bytes(b"")
    end, found = time.monotonic() + seconds, list[Result]()
    for item in items:
        left = end - time.monotonic()
        if item.seconds > left:
            why = f"takes about {minutes(item.seconds)}, and {minutes(max(0.0, left))} were left"
            found.append(Result(item.name, item.what, " ".join(item.command), "skipped", why=why))
        else:
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + item.seconds))
            say(f"{item.name}: about {minutes(item.seconds)}, until {until}; {minutes(left)} left in all")
            limit = min(left, max(_LEAST, _GRACE * item.seconds))
            found.append(_one(item, limit, out / OUTPUT, environment))
        result = found[-1]
        say(f"{item.name}: {result.outcome}{f' ({result.why})' if result.why else ''}")
        for name, number in result.numbers:
            say(f"  {name:<44}  {number}")
        write(out, found, facts)
    return found


def _one(item: Item, limit: float, output: Path, environment: Mapping[str, str]) -> Result:
    began = time.monotonic()
    with output.open("ab") as file:
        file.write(f"\n# {item.name}: {' '.join(item.command)}\n".encode())
        file.flush()
        start = file.tell()
        process = subprocess.Popen(
            item.command, stdout=file, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    lines = output.read_bytes()[start:].decode(errors="replace").splitlines()
    numbers = [(match[1], match[2]) for line in lines if (match := _NUMBER.match(line))]
    took, last = time.monotonic() - began, next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    if code == 0:
        return Result(item.name, item.what, " ".join(item.command), "passed", took, numbers or [("said", last[:300])])
    outcome, why = ("out of time", f"after {minutes(limit)}") if code is None else ("failed", f"exit code {code}")
    return Result(item.name, item.what, " ".join(item.command), outcome, took, numbers, f"{why}: {last[:300]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of an item outlives it: the memory of the device is the next one's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write(out: Path, found: Sequence[Result], facts: Mapping[str, str]) -> None:
    """All results so far: whole files, at whatever moment somebody looks."""
    texts = {
        RESULTS: json.dumps({"facts": dict(facts), "results": [asdict(result) for result in found]}, indent=1),
        TABLE: table(found, facts),
    }
    for name, text in texts.items():
        part = out / f".{name}.part"
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(out / name)


def table(found: Sequence[Result], facts: Mapping[str, str]) -> str:
    """The results as Markdown."""
    lines = ["; ".join(f"{name} {value}" for name, value in facts.items()), "", "| what | result | took |"]
    lines.append("| --- | --- | --- |")
    for result in found:
        said = "<br>".join(f"{name}: {number}" for name, number in result.numbers)
        if result.outcome != "passed":
            said = "<br>".join(part for part in (said, f"**{result.outcome}**: {result.why}") if part)
        cells = f"{result.name}: {result.what}", said or result.outcome, minutes(result.seconds)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def minutes(seconds: float) -> str:
    """As one reads it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
