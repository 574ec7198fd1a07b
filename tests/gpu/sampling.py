"""Seconds of a network call while sampling: all frames at once, and of each chunk of a causal model."""

from __future__ import annotations

import argparse
import time

import torch
from flowmap_samplers.samplers import FlowMapEuler
from torch import Tensor

from flowmap.interfaces import Cond, Sampler, Velocity
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid
from flowmap.networks.rollout import rollout
from flowmap.training.memory import peak_memory, reset_peak_memory
from flowmap.training.precision import compute_in
from tests.benchmarks.wan import SHAPES, Ours
from tests.gpu.device import finish

_STEPS = 4


class Timed(Sampler):
    """The sampler `inner`, which notes the seconds of a call of every chunk."""

    def __init__(self, device: torch.device, inner: Sampler) -> None:
        self.seconds: list[float] = []
        self._inner, self._device = inner, device

    def order(self) -> int | None:
        """That of the sampler."""
        return self._inner.order()

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """See Sampler.sample."""
        finish(self._device)
        begin = time.perf_counter()
        made = self._inner.sample(network, x, times, cond, draw)
        finish(self._device)
        self.seconds.append((time.perf_counter() - begin) / (len(times) - 1))
        return made


@torch.no_grad()
def main() -> None:
    """Print the seconds of one sample, twice: the first compiles and warms up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny")
    parser.add_argument("--small", action="store_true", help="on the CPU")
    options = parser.parse_args()
    on_cpu = options.small or not torch.cuda.is_available()
    device = torch.device("cpu" if on_cpu else "cuda")
    shape, precision = SHAPES[options.shape], torch.float32 if on_cpu else torch.bfloat16
    for causal in (False, True):
        trainer = Ours("forward", shape, 1, causal=causal, device=device, precision=precision)
        if not on_cpu:
            compute_in(trainer.module, "bf16", device)
        trainer.module.eval()
        who = "causal" if causal else "bidirectional"
        draw, chunking = Draw.whole(0, "sampling", 0, "x", 1, device), trainer.backbone.chunking()
        noise, network = draw.normal("noise", shape.latent), trainer.roles["student"].network
        for which in ("first", "second"):
            timed = Timed(device, FlowMapEuler())
            reset_peak_memory(device)
            begin = time.perf_counter()
            rollout(timed, network, noise, grid(_STEPS, 5.0, device), trainer.batch.cond, chunking, draw)
            finish(device)
            print(f"  {who}: {which} sample of {_STEPS} steps  {time.perf_counter() - begin:.3f} s", flush=True)
        print(f"  {who}: a call of each chunk  {', '.join(f'{seconds:.3f}' for seconds in timed.seconds)} s")
        print(f"  {who}: peak memory  {peak_memory(device) / 2**30:.3f} GiB", flush=True)
        del trainer, network, chunking


if __name__ == "__main__":
    main()
