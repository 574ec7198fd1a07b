"""How long `flowmap check` and `flowmap plugins` take, which do not import torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.table import interleaved, show

ROOT = Path(__file__).parents[2]


def command(*words: str) -> Any:
    """Work that starts Python with `words`, and hears nothing of what it prints."""

    def work() -> None:
        subprocess.run(
            [sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    return work


def test_startup(benchmark: Any) -> None:
    works = {
        "python -c pass": command("-c", "pass"),
        "flowmap check": command("-m", "flowmap", "check", "recipes/quickstart.toml"),
        "flowmap plugins": command("-m", "flowmap", "plugins"),
    }
    interleaved(works, rounds=1)
    seconds = interleaved(works, rounds=7)
    benchmark.pedantic(works["flowmap check"], rounds=3)
    show(benchmark, "start-up", seconds, "python -c pass")
