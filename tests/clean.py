"""Environments in which packages are installed from wheels, and nothing leads to this clone."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pip(*words: str) -> None:
    """Run pip, which must succeed."""
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def wheel_of(source: Path, folder: Path) -> Path:
    """The wheel of the package in `source`, built in the empty `folder` without a network."""
    pip("wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    (built,) = folder.glob("*.whl")
    return built


def environment(place: Path, *wheels: Path) -> Path:
    """The folder of programs of an environment that holds `wheels`; what they depend on is that of these tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    pip("--python", str(python), "install", "--no-deps", "--no-index", *map(str, wheels))
    (packages,) = place.glob("lib/python*/site-packages")
    # Files ending in .pth are read in the environment's own folder alone: a clone that is installed here stays unseen.
    (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"])
    done = call(python, "-c", "import flowmap, flowmap_wan; print(flowmap.__file__, flowmap_wan.__file__)", cwd=place)
    assert done.stdout.split() == [str(packages / name / "__init__.py") for name in ("flowmap", "flowmap_wan")]
    return python.parent


def call(program: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What `program` says, of which nothing in the environment leads to this clone."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"COLUMNS": "160", "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([program, *words], cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(ROOT) not in done.stdout + done.stderr
    return done
