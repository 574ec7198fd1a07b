"""Masks at a video's full length: one layer of the 1.3B shape, teacher-forced, with the masks of several windows."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import torch

from flowmap.interfaces import Scene, World, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.training.loop import peak_memory, reset_peak_memory
from tests.benchmarks.wan import SHAPES, Ours
from tests.gpu.device import finish

_WINDOWS, _AGAIN = 3, 2


def main() -> None:
    """Print seconds of the first and of later passes, forward and backward, and the peak of memory."""
    small = "--small" in sys.argv or not torch.cuda.is_available()
    device = torch.device("cpu" if small else "cuda")
    shape, precision = (SHAPES["tiny"], torch.float32) if small else (SHAPES["1.3b"], torch.bfloat16)
    trainer = Ours("forward", replace(shape, layers=1), 1, causal=True, device=device, precision=precision)
    network = as_flow_map(trainer.roles["student"].network)
    t, r = torch.tensor([0.8], device=device), torch.tensor([0.3], device=device)
    reset_peak_memory(device)
    for number in range(_WINDOWS):
        draw = Draw.whole(0, "masks", number, "student", 1, device)
        seen = Scene(trainer.roles, trainer.batch, draw, trainer.backbone.chunking(), World()).forced()
        for again in range(_AGAIN):
            begin = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=not small):
                network.mean_velocity(seen.x0, t, r, seen.cond).square().mean().backward()
            finish(device)
            which = "later" if again else "first"
            print(f"  window {number}, {which} pass  {time.perf_counter() - begin:.3f} s", flush=True)
    print(f"  peak memory  {peak_memory(device) / 2**30:.3f} GiB")


if __name__ == "__main__":
    main()
