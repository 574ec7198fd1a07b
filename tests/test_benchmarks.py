"""The benchmarks still run: what `make bench` measures in seconds is run once, and nothing is timed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
QUICK = ("frechet", "modulation", "report", "sampling", "tangent")


@pytest.mark.slow
def test_quick_benchmarks_run() -> None:
    files = [str(BENCHMARKS / f"test_{name}.py") for name in QUICK]
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "--benchmark-disable", *files]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS.parents[1])
    assert told.returncode == 0, told.stdout[-3000:]
    assert " passed" in told.stdout
