"""Timing that is fair on a shared machine, and one readable table at the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Work = Callable[[], object]


def interleaved(works: Mapping[str, Work], rounds: int, repeats: int = 1) -> dict[str, float]:
    """The median seconds of one call of each work, all taken in turns, so that all suffer the same weather."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(rounds):
        names = list(works) if round_ % 2 else list(works)[::-1]
        for name in names:
            begin = time.perf_counter()
            for _ in range(repeats):
                works[name]()
            seconds[name].append((time.perf_counter() - begin) / repeats)
    return {name: statistics.median(times) for name, times in seconds.items()}


def show(benchmark: Any, title: str, seconds: Mapping[str, float], against: str) -> None:
    """Print each time and its ratio to `against`, and put the ratios into the benchmark's `extra_info`."""
    print(f"\n{title}")
    for name, value in seconds.items():
        ratio = value / seconds[against]
        print(f"  {name:<32} {1e3 * value:9.2f} ms   {ratio:6.3f} x {against}")
        benchmark.extra_info[f"{name} / {against}"] = ratio
