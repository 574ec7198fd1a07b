"""Steps of a tiny Wan model against the published loop, straightforwardly written, on the same weights and draws.

Aims: compiled, a forward step in at most 0.60 of its time on a CPU and an on-policy step in at most 0.72; at most 0.45
of its parameter bytes with adapters. Compiling takes a few minutes before anything is measured.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import torch

from tests.benchmarks.table import interleaved, show
from tests.benchmarks.wan import KINDS, SHAPES, Ours, Published, StageName

STEPS = 4  # the same few draws, so that both take rollouts of the same lengths


# The compiler's own, which it makes errors of where pytest makes errors of warnings.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("stage", list(KINDS))
def test_wan_step(stage: StageName, benchmark: Any) -> None:
    torch.set_num_threads(1)
    ours = Ours(stage, SHAPES["tiny"], 8)
    ways = {
        "blocks recomputed": Ours(stage, SHAPES["tiny"], 8, recompute="block"),
        "compiled": Ours(stage, SHAPES["tiny"], 8, compiled=True),
    }
    published = Published(ours)
    takers = {"flowmap": ours, **ways, "published": published}
    for step in range(STEPS):
        expected = published.step(step)
        for name, taker in takers.items():
            if name != "published":
                assert taker.step(step) == pytest.approx(expected, rel=1e-5), name
    numbers = {name: count() for name in takers}
    works = {name: lambda name=name: takers[name].step(next(numbers[name]) % STEPS) for name in takers}
    seconds = interleaved(works, rounds=4, repeats=STEPS)
    benchmark.pedantic(works["flowmap"], rounds=1)
    show(benchmark, f"one step of the {stage} stage (tiny Wan, batch 8)", seconds, "published")
    ratio = ours.parameter_bytes() / published.parameter_bytes()
    benchmark.extra_info["parameter bytes"] = ratio
    print(f"  parameter bytes: {ours.parameter_bytes()} / {published.parameter_bytes()} = {ratio:.3f}")
