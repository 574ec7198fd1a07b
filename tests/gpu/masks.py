"""Causal attention at a video's full length: one layer, teacher-forced, in parts and by flex, over several windows."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Literal

import torch

from flowmap.interfaces import Scene, World, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.training.memory import peak_memory, reset_peak_memory
from tests.benchmarks.wan import SHAPES, Ours
from tests.gpu.device import finish

_WINDOWS, _AGAIN = 3, 2


def measure(kernel: Literal["parts", "flex"], small: bool) -> None:
    """Print seconds of the first and of later passes, forward and backward, and the peak of memory."""
    device = torch.device("cpu" if small else "cuda")
    shape, precision = (SHAPES["tiny"], torch.float32) if small else (SHAPES["1.3b"], torch.bfloat16)
    trainer = Ours(
        "forward", replace(shape, layers=1), 1, causal=True, device=device, precision=precision, attention=kernel
    )
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
            print(f"  {kernel}, window {number}, {which} pass  {time.perf_counter() - begin:.3f} s", flush=True)
    print(f"  {kernel}, peak memory  {peak_memory(device) / 2**30:.3f} GiB")


def main() -> None:
    """Both; flex has no backward on a CPU."""
    small = "--small" in sys.argv or not torch.cuda.is_available()
    measure("parts", small)
    if not small:
        measure("flex", small)


if __name__ == "__main__":
    main()
