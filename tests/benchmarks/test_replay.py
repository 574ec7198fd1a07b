"""What replaying a causal rollout saves in memory and costs in time (LoRA, 8 chunks, gradient checkpointing)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def measured(mode: str, still: int) -> tuple[int, float]:
    words = [sys.executable, "-m", "tests.benchmarks.replay_memory", mode, str(still)]
    found = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return int(found[-2]), float(found[-1])


@pytest.mark.parametrize(("graded", "still"), [(8, 0), (3, 13)])
def test_replay(graded: int, still: int, benchmark: Any) -> None:
    taken = {mode: measured(mode, still) for mode in ("held", "replayed")}
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\na causal rollout, {graded} of 8 chunks with gradient")
    for mode, (peak, seconds) in taken.items():
        print(f"  {mode:<10} {peak / 2**20:8.0f} MiB {seconds:8.1f} s")
    for place, what in enumerate(("memory", "seconds")):
        ratio = taken["replayed"][place] / taken["held"][place]
        benchmark.extra_info[what] = ratio
        print(f"  {what}: {ratio:.2f} x held")
