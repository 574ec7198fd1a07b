"""Make the environment for VBench's package with one command: a venv, pip with pins that work, a check of imports."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flowmap.errors import FlowmapError
from flowmap.files.folder import clear, locked, writing
from flowmap.files.texts import TextError, parse_json
from flowmap.files.whole import write_whole
from flowmap.phases import each, phase
from flowmap.vbench.dimensions import T2V, VERSION
from flowmap.vbench.environment import MARKER, Environment, Made, ask, interpreter, needed, opened, run_isolated
from flowmap.vbench.failures import explained
from flowmap.vbench.pins import PYTHONS, SMALL, Kit, kit, serves
from flowmap.vbench.protocol import FLICKERING

_PACKAGES = (
    "import importlib.metadata as m, json, sys;"
    "print(json.dumps({'python': sys.version.split()[0],"
    " 'packages': {d.metadata['Name'].lower(): d.version for d in m.distributions()}}))"
)
# All that the package itself has: camera_motion is computed by what its repository has.
_TRIED = (*T2V.dimensions, "i2v_subject", "i2v_background")
_VERSION = "import sys; print(*sys.version_info[:2])"


def install(folder: Path, dimensions: Sequence[str], python: str | None, detectron2: str | None) -> Environment:
    """Make the environment in `folder` for `dimensions`, and say what each of them can be imported.

    One that is there and serves is kept, a half-made one is made again. `python` is the interpreter it is made with, of
    3.10 or 3.11 (one of those found by itself if None), `detectron2` where its source is. Raises FlowmapError if pip
    cannot install; then nothing counts as made.
    """
    wanted = kit(dimensions, detectron2)
    found = opened(folder)
    if found is not None and serves(found.made.kit, wanted) and found.made.packages.get("vbench") == VERSION:
        return found
    chosen = _python(python)
    if folder.exists() and any(folder.iterdir()) and not _ours(folder):
        raise FlowmapError(f"{folder} is no environment that flowmap has made; name another folder, or empty this one")
    log = folder / "install.log"
    with locked(folder):
        with writing(folder / MARKER):
            (folder / MARKER).unlink(missing_ok=True)
        clear(folder)
        with writing(log):
            log.write_bytes(b"")
        with phase(f"making an environment for VBench ({wanted.name}, {wanted.size})"):
            _run(chosen, ["-m", "venv", str(folder)], log)
            for step in wanted.steps:
                with phase(f"installing {', '.join(word for word in step if not word.startswith('-'))}"):
                    _run(interpreter(folder), ["-m", "pip", "install", "--no-input", *step], log)
        made = _asked(folder, wanted)
        broken = _broken(folder, _TRIED if wanted is not SMALL else (FLICKERING,), log)
        with phase("noting what was made"):
            write_whole(folder / MARKER, made.model_copy(update={"broken": broken}).model_dump_json(indent=1))
    return needed(folder)


def _ours(folder: Path) -> bool:
    """Whether what is in a folder was put there by this: whole, or broken off."""
    return any((folder / name).exists() for name in (MARKER, "install.log"))


def _python(named: str | None) -> Path:
    """An interpreter that the pins have wheels for."""
    words = " or ".join(f"{major}.{minor}" for major, minor in reversed(PYTHONS))
    why = "transformers 4.33.2, which VBench pins, has no tokenizers for a newer one"
    if named is not None:
        version = _version_of(named)
        if version not in PYTHONS:
            shown = "no Python that runs" if version is None else "Python {}.{}".format(*version)
            raise FlowmapError(f"--python {named}: this is {shown}; {words} is needed: {why}")
        return Path(shutil.which(named) or named)
    candidates = [sys.executable] if sys.version_info[:2] in PYTHONS else []
    candidates += [found for major, minor in PYTHONS if (found := shutil.which(f"python{major}.{minor}"))]
    for candidate in candidates:
        if _version_of(candidate) in PYTHONS:
            return Path(candidate)
    raise FlowmapError(f"no Python {words} was found ({why}); install one, and name it: --python PATH")


def _version_of(python: str) -> tuple[int, int] | None:
    try:
        said = subprocess.run([python, "-I", "-c", _VERSION], capture_output=True, text=True, check=True, timeout=60)
        major, minor = map(int, said.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return major, minor


def _run(python: Path, arguments: Sequence[str], log: Path) -> None:
    # PIP_* and pip's own files are the user's configuration, and stay.
    before = log.stat().st_size
    if run_isolated(python, arguments, log):
        said = log.read_bytes()[before:].decode("utf-8", "replace").strip().splitlines()
        errors = [line for line in said if line.startswith("ERROR")] or said[-1:] or ["it said nothing"]
        raise FlowmapError(
            f"the environment for VBench could not be made: {errors[-1].strip()[:300]} (all of it: {log}). What is "
            "there counts as not made; the same command makes it anew",
            code=1,
        )


def _asked(folder: Path, wanted: Kit) -> Made:
    """What is installed, as the environment itself says."""
    try:
        said = subprocess.run([interpreter(folder), "-I", "-c", _PACKAGES], capture_output=True, text=True, check=True)
        return Made.model_validate({"kit": wanted.name, "broken": {}, **parse_json(said.stdout)})
    except (OSError, subprocess.SubprocessError, TextError, TypeError, ValueError) as error:
        raise FlowmapError(f"the new environment in {folder} does not run ({error})", code=1) from None


def _broken(folder: Path, dimensions: Sequence[str], log: Path) -> dict[str, str]:
    """The dimensions that cannot be imported, and why."""
    broken = {}
    with tempfile.TemporaryDirectory(prefix="flowmap-vbench-") as work:
        for name in each(list(dimensions), "importing each dimension"):
            code, said = ask(interpreter(folder), {"probe": True, "dimension": name}, Path(work), log)
            if code:
                broken[name] = explained(name, code, said, "")
    return broken
