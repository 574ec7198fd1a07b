"""One causal rollout and its backward: peak memory above what was there before, and seconds.

`python -m tests.benchmarks.replay_memory held|replayed STILL`, in a process of its own: a peak is a process's. STILL
frames are made without gradient.
"""

from __future__ import annotations

import sys
import time

import torch
from flowmap_samplers.samplers import FlowMapEuler

from flowmap.interfaces import as_flow_map
from flowmap.maths.draw import Draw
from flowmap.networks.rollout import rollout
from flowmap.training.memory import peak_memory, reset_peak_memory
from tests.benchmarks.wan import Ours, Shape

SHAPE = Shape(6, 4, 32, 512, 64, 64, (21, 16, 16, 24), 32, 16, (1, 3, 3, 3, 3, 3, 3, 2))
COUNT, TIMES = 4, (1.0, 0.8, 0.4, 0.0)


def main(mode: str, still: int) -> None:
    """Print bytes and seconds."""
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    ours = Ours("forward", SHAPE, COUNT, causal=True)
    draw = Draw.whole(0, "replay", 0, "turn", COUNT)
    start = draw.normal("start noise", SHAPE.latent)
    network, chunks = as_flow_map(ours.roles["student"].network), ours.backbone.chunking()
    times = torch.tensor(TIMES)
    reset_peak_memory(cpu)
    before, begin = peak_memory(cpu), time.perf_counter()
    out = rollout(
        FlowMapEuler(), network, start, times, ours.batch.cond, chunks, draw, still=still, replay=mode == "replayed"
    )
    out.backward(torch.ones_like(out) / out.numel())
    print(peak_memory(cpu) - before, time.perf_counter() - begin)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
