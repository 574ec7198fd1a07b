"""Damage at random places of folders, finished or not: what reads them says so, or makes the same as before."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

from .running import Ended, run
from .scenes import Result
from .tally import Outcome, Verdict

Words = tuple[str, ...]
_WORDS = "skipped|says nothing of|damaged|left out|warning: "
"""What says that something was left out, on the console or in the log of a run."""


@final
@dataclass
class Damaged:
    """A folder to be damaged below `inside`, the commands that read it, and what is asked of each.

    `unchecked` says of a file's name (relative to `inside`), and of its content before and after, whether the damage is
    one that nothing can tell from what might have been written there.
    """

    name: str
    make: Callable[[], Path]
    inside: str
    commands: tuple[Words, ...]
    result: Callable[[Path], Result]
    unchecked: Callable[[str, bytes, bytes | None, Words], bool]
    home: Path
    untouched: dict[Words, tuple[Ended, Result]] = field(default_factory=dict)

    @cached_property
    def source(self) -> Path:
        """The folder as it is before any damage."""
        return self.make()

    def cases(self, seed: int, count: int, broken: str = "") -> Iterator[Outcome]:
        """`count` pieces of damage, each before one command; `broken` is a patch by which the harness is tried."""
        inside = self.source / self.inside
        kinds: dict[str, list[Path]] = {}
        for path in sorted(inside.rglob("*")):
            if path.is_file() and path.stat().st_size and not path.is_symlink() and not path.name.endswith(".lock"):
                kinds.setdefault(_kind(path.relative_to(inside)), []).append(path)
        for number in range(count):
            dice = random.Random(f"{seed}/{self.name}/{number}")
            # Evenly over kinds of files: most files are pictures.
            path = dice.choice(kinds[dice.choice(sorted(kinds))]).relative_to(self.source)
            words = self.commands[number % len(self.commands)]
            yield self._case(f"{seed}-{number}", path, words, dice, broken)

    def _case(self, name: str, path: Path, words: Words, dice: random.Random, broken: str) -> Outcome:
        folder = self._copy(name)
        before = (folder / path).read_bytes()
        place, after = _damage(before, dice)
        if after is None:
            (folder / path).unlink()
        else:
            (folder / path).write_bytes(after)
        case = f"{folder}: {place} of {path}, then {' '.join(words)}"
        ended = run(folder, *words, patch=broken, report=words[0] == "report")
        verdict, told = self._judged(folder, path, before, after, words, ended)
        if verdict in ("right", "left out"):
            shutil.rmtree(folder)
        return Outcome(f"damage: {self.name}", case, verdict, told)

    def _judged(
        self, folder: Path, path: Path, before: bytes, after: bytes | None, words: Words, ended: Ended
    ) -> tuple[Verdict, str]:
        if ended.broken:
            return ended.broken, ended.text
        whole, expected = self._undisturbed(words)
        if ended.code and ended.error and _nowhere(ended.error) == _nowhere(whole.error):
            return "right", ""
        if ended.code:
            named = any(part in ended.error for part in self._names(path))
            return ("right", "") if named else ("silent", f"the file is not named:\n{ended.text}")
        # What others print says how they came to their result, which is another way.
        said = _difference(_said(ended), _said(whole)) if words[0] in ("plan", "check", "sample") else ""
        other = _difference(self._found(folder, words), expected, str(path)) or said
        if whole.code:
            other = "the command goes on, which it does not where all is whole"
        logs = "".join(log.read_text(errors="replace") for log in folder.rglob("flowmap.log"))
        told = [line for line in (ended.text + logs).splitlines() if re.search(_WORDS, line)]
        if not other or any(part in line for part in self._names(path) for line in told):
            return "right", ""
        if self.unchecked(str(path.relative_to(self.inside)), before, after, words):
            return "left out", ""
        return "silent", f"another result: {other}\n{ended.text}"

    def _names(self, path: Path) -> Iterator[str]:
        """How a message may name the file: with its checkpoint, its part of a tar, or the folder that is missing it."""
        yield path.name
        yield path.parent.name
        if path.suffix == ".tar":
            yield path.stem

    def _undisturbed(self, words: Words) -> tuple[Ended, Result]:
        if words not in self.untouched:
            folder = self._copy(f"untouched-{len(self.untouched)}")
            ended = run(folder, *words, report=words[0] == "report")
            self.untouched[words] = ended, self._found(folder, words)
        return self.untouched[words]

    def _found(self, folder: Path, words: Words) -> Result:
        """What has come out; a page where it was asked for, for elsewhere it has times in it."""
        pages = folder.glob("runs/*/*.html") if words[0] == "report" else ()
        return {**self.result(folder), **{page.name: page.read_bytes() for page in pages}}

    def _copy(self, name: str) -> Path:
        folder = self.home / self.name / name
        shutil.copytree(self.source, folder, symlinks=True)
        return folder


def _kind(path: Path) -> str:
    return re.sub(r"[0-9a-f]{6,}|\d+", "N", f"{path.parent.name}/{path.name}")


def _damage(content: bytes, dice: random.Random) -> tuple[str, bytes | None]:
    """What is done to a file's content, and what it is then; None if it is gone."""
    place = dice.randrange(len(content))
    size = min(dice.choice((1, 8, 64, 512)), len(content) - place)
    kind = dice.choice(("cut", "flip", "flip", "flip", "zero", "delete"))
    if kind == "delete":
        return "deletion", None
    if kind == "cut":
        return f"a cut at byte {place} of {len(content)}", content[:place]
    changed = bytearray(content)
    if kind == "zero":
        changed[place : place + size] = bytes(size)
        return f"{size} zeros at byte {place} of {len(content)}", bytes(changed)
    bit = dice.randrange(8)
    changed[place] ^= 1 << bit
    return f"a flip of bit {bit} of byte {place} of {len(content)}", bytes(changed)


def _difference(found: Result, expected: Result, but: str = "") -> str:
    """The names of what differs, but of the damaged file itself."""
    names = found.keys() | expected.keys()
    return ", ".join(sorted(name for name in names if name != but and found.get(name) != expected.get(name)))


def _nowhere(error: str) -> str:
    """An error without the name of the copy that it tells of."""
    return re.sub(r"/damaged/[^/]+/[^/]+/", "/", error)


def _said(ended: Ended) -> Mapping[str, Any]:
    """What was printed, without times and places."""
    text = re.sub(r"\d[\d.,:e-]*\s?(s|ms|min|h|steps/s)\b|[\d.]+ steps/s", "TIME", ended.text)
    return dict.fromkeys((line for line in text.splitlines() if "TIME" not in line), True)


# --- what nothing can tell


def of_run(name: str, before: bytes, after: bytes | None, words: Words) -> bool:
    """Whether docs/run-folder.md, "What is checked, and what cannot be", says that such damage cannot be found."""
    base = name.rpartition("/")[2]
    if base == "steps.jsonl":
        return _without_times(before) == _without_times(after)
    if base == "metrics.jsonl":
        # A report shows what is there, as long as it agrees with itself.
        return all(_agrees(line) for line in (after or b"").splitlines())
    unsealed = ("about.json", "budget.jsonl", "finished.jsonl", "failures.jsonl", "flowmap.log")
    pages = base.endswith((".png", ".html", ".log")) or base.startswith("comparison.")
    return base in unsealed or pages or (base.endswith(".toml") and base != "recipe.lock.toml")


def of_weights(name: str, before: bytes, after: bytes | None, words: Words) -> bool:
    """Weights from outside have no checksum; what is not finite, missing or of another shape is told."""
    return True


def _agrees(line: bytes) -> bool:
    """Whether the value of a score is the mean of its values; of what is no score nothing is asked here."""
    try:
        found = json.loads(line)
        return bool(abs(found["value"] - sum(found["values"]) / len(found["values"])) < 1e-6 * abs(found["value"]))
    except (ValueError, TypeError, KeyError, ZeroDivisionError):
        return True


def _without_times(content: bytes | None) -> list[Any] | None:
    """The lines of steps without what differs in every run; None if one is damaged."""
    try:
        lines = [json.loads(line) for line in (content or b"").splitlines()]
        return [{key: value for key, value in line.items() if key not in ("seconds", "peak_bytes")} for line in lines]
    except (ValueError, AttributeError):
        return None
