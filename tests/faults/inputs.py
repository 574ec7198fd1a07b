"""Inputs that are wrong, in this process: each is answered in a sentence, or is right after all.

They are tried in a process that may die of them: what reads clips and pictures is not written in Python.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from flowmap.errors import FlowmapError
from tests.mutations import ill_said, mutated_recipes, mutated_settings, outcome

from .tally import Outcome, Verdict

BUSY_SECONDS = 30.0
"""Processor time after which one input hangs; each takes milliseconds, the largest recipes a second."""

IDLE_SECONDS = 120.0
"""Time without an answer after which what is no Python hangs, or waits for what never comes."""

STARTING_SECONDS = 600.0
"""Time for a process to start and to make what its inputs are made of."""

Try = Callable[[int], None]
"""Tries the input of a number; raises AssertionError where it is taken for another, anything else where not met."""

Making = Callable[[], Try]
"""Makes one in another process, which imports this callable by its name."""

_PROCESSES = multiprocessing.get_context("forkserver")


class _Hanging(BaseException):
    """Past its time."""


def tried(kind: str, name: str, seed: int, count: int, making: Making, folder: Path) -> Iterator[Outcome]:
    """What becomes of the inputs 0 to `count` - 1, each in a process that goes on to the next."""
    number = 0
    while number < count:
        for number, verdict, told in _in_a_process(making, number, count):  # noqa: B020
            yield Outcome(kind, f"{name} {number} of seed {seed}, in {folder}", verdict, told)
        number += 1


def _in_a_process(making: Making, first: int, count: int) -> Iterator[tuple[int, Verdict, str]]:
    """Try one input after the other until the process dies of one.

    The process is no fork of this one, which may have threads: a fork of it waits for ever for what they held.
    """
    answers, answering = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_work, args=(making, first, count, BUSY_SECONDS, answering))
    process.start()
    answering.close()
    number, patience = first, STARTING_SECONDS
    try:
        while answers.poll(patience):
            patience = IDLE_SECONDS
            if (answer := answers.recv()) is not None:
                number, verdict, told = answer
                yield number, verdict, told
                number += 1
        process.kill()
    except EOFError:
        pass
    process.join()
    if number < count:
        # Killed for what it does where no Python code could stop it.
        hung = process.exitcode in (-signal.SIGKILL, -signal.SIGXCPU)
        yield number, "hang" if hung else "traceback", f"the process ended with code {process.exitcode}"


def _work(making: Making, first: int, count: int, busy_seconds: float, answering: Connection) -> None:
    def late(number: int, frame: FrameType | None) -> None:
        raise _Hanging

    signal.signal(signal.SIGPROF, late)
    attempt = making()
    answering.send(None)
    for number in range(first, count):
        verdict, told = _verdict(attempt, number, busy_seconds)
        answering.send((number, verdict, told[-3000:]))


def _verdict(attempt: Try, number: int, busy_seconds: float) -> tuple[Verdict, str]:
    signal.setitimer(signal.ITIMER_PROF, busy_seconds)
    try:
        attempt(number)
    except _Hanging:
        return "hang", traceback.format_exc()
    except AssertionError:
        return "silent", traceback.format_exc()
    except Exception:
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "right", ""


# --- what is tried


def recipes(seed: int, folder: Path) -> Try:
    """Recipes and comparisons."""
    made = _Kept(mutated_recipes(seed, 10**9))

    def attempt(number: int) -> None:
        told = ill_said(outcome(made[number], folder / "r.toml"), str(folder / "r.toml"))
        assert not told, told

    return attempt


def settings(seed: int, folder: Path) -> Try:
    """`--set`s."""
    made = _Kept(mutated_settings(seed, 10**9))

    def attempt(number: int) -> None:
        text, setting = made[number]
        told = ill_said(outcome(text, folder / "r.toml", setting), str(folder / "r.toml"))
        assert not told, f"--set {setting[:500]}: {told}"

    return attempt


def shards(seed: int, folder: Path) -> Try:
    """Tars."""
    from tests.test_tars import is_whole, tar_of_tars

    content = tar_of_tars()
    return lambda number: _ignored(is_whole(folder / "a.tar", content, np.random.default_rng((seed, number))))


def clips(seed: int, folder: Path) -> Try:
    """Videos."""
    from tests import test_seen

    made = list(test_seen.clips())
    return lambda number: _ignored(
        test_seen.is_clip(test_seen.mutated(made[number % len(made)], 1_000_000 * (seed + 1) + number))
    )


def images(seed: int, folder: Path) -> Try:
    """Pictures."""
    from tests import test_seen

    made = list(test_seen.pictures())

    def attempt(number: int) -> None:
        ending, content = made[number % len(made)]
        path = folder / f"a.{ending}"
        path.write_bytes(test_seen.mutated(content, 1_000_000 * (seed + 1) + number))
        test_seen.is_picture(path)

    return attempt


def captions(seed: int, folder: Path) -> Try:
    """Captions."""
    from tests.test_video_data import are_captions

    return lambda number: _ignored(are_captions(np.random.default_rng((seed, number))))


def checkpoints(seed: int, folder: Path) -> Try:
    """Checkpoints: what is accepted has every byte of its tensors."""
    from flowmap.files.manifest import checkpoints as found_in
    from flowmap.training.verify import verify
    from tests.small_runs import HEAD, TEACHER, planned, train_all
    from tests.test_seen import mutated

    plan = planned(HEAD + TEACHER, folder)
    train_all(plan)
    stage = plan.stages[0].folder
    files = {path.name: path.read_bytes() for path in sorted(found_in(stage)[-1].path.iterdir())}
    names = sorted(files)

    def attempt(number: int) -> None:
        newest = found_in(stage)[-1]
        path = newest.path / names[number % len(names)]
        path.write_bytes(mutated(files[path.name], 1_000_000 * (seed + 1) + number))
        told = _refusal(lambda: verify(newest))
        # A manifest says more than what is held against it: versions.
        same = path.suffix == ".json" or path.read_bytes() == files[path.name]
        path.write_bytes(files[path.name])
        assert newest.path.name in told if told else same, told

    return attempt


def weights(seed: int, folder: Path) -> Try:
    """Weights from outside: their tensors and configurations. No numbers but those that are not finite are noticed."""
    from flowmap_wan.twin import make_twin

    from tests.test_seen import mutated
    from tests.wan.test_damaged import read, told

    twin = make_twin(folder / "twin")
    files = sorted(path for path in twin.rglob("*") if path.suffix in (".json", ".safetensors"))
    whole = {path: path.read_bytes() for path in files}

    def attempt(number: int) -> None:
        path = files[number % len(files)]
        random = np.random.default_rng((seed, number))
        path.write_bytes(_changed_json(whole[path], random) or mutated(whole[path], 1_000_000 * (seed + 1) + number))
        try:
            problems = told(twin)
            assert all(str(twin) in problem for problem in problems), problems
            refusal = _refusal(lambda: read(twin))
            assert str(twin) in refusal if refusal else not problems, (problems, refusal)
        finally:
            path.write_bytes(whole[path])

    return attempt


def _refusal(reading: Callable[[], object]) -> str:
    """What something is refused with; nothing if it is not."""
    try:
        reading()
    except FlowmapError as error:
        return str(error)
    return ""


_ODD: Sequence[Any] = (None, -1, 0, 10**12, 2.5, "2", [2], {"a": 1}, True, "x" * 300, float("inf"), [], "../..")


def _changed_json(content: bytes, random: np.random.Generator) -> bytes | None:
    """A JSON object with a field that is another; None for what is none, and now and then."""
    if not content.startswith(b"{") or random.random() < 0.4:
        return None
    fields = json.loads(content)
    name = sorted(fields)[int(random.integers(len(fields)))]
    fields[name] = _ODD[int(random.integers(len(_ODD)))]
    return json.dumps(fields).encode()


def _ignored(_: bool) -> None:
    """Either answer is right."""


class _Kept:
    """The elements of an iterator, by number, of which the one asked for is kept and no earlier one."""

    def __init__(self, made: Iterator[Any]) -> None:
        self._made, self._next = made, 0

    def __getitem__(self, number: int) -> Any:
        found = next(islice(self._made, number - self._next, None))
        self._next = number + 1
        return found


KINDS: Mapping[str, Callable[[int, Path], Try]] = {
    "recipes": recipes,
    "--set": settings,
    "shards": shards,
    "clips": clips,
    "images": images,
    "captions": captions,
    "checkpoints": checkpoints,
    "weights": weights,
}
"""What is tried, by the name that the table gives it."""


def inputs(name: str, home: Path, seed: int, count: int) -> Iterator[Outcome]:
    """`count` inputs of a kind; their files lie below `home`, which is left there if one of them goes wrong."""
    folder = home / name.strip("-")
    folder.mkdir(parents=True)
    wrong = False
    for found in tried(f"input: {name}", name, seed, count, partial(KINDS[name], seed, folder), folder):
        wrong |= found.wrong
        yield found
    if not wrong:
        shutil.rmtree(folder)


def again(name: str, home: Path, seed: int, number: int) -> None:
    """Try one input alone, here, so that a debugger sees it."""
    began = time.monotonic()
    KINDS[name](seed, home)(number)
    print(f"{name} {number} of seed {seed}: right, {time.monotonic() - began:.1f} s")
