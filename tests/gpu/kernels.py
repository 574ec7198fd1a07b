"""Attention of a whole video by each of torch's kernels: how near it comes to what the device can do."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.benchmarks.wan import SHAPES
from tests.gpu.device import finish

_KERNELS = {
    "whatever torch takes": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_TIMES = 5


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    taken = []
    for _ in range(_TIMES + 1):
        finish(device)
        begin = time.perf_counter()
        work()
        finish(device)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[1:])


def measure(heads: int, queries: int, keys: int, dim: int, device: torch.device, precision: torch.dtype) -> None:
    """Print, of every kernel, milliseconds and TFLOP/s of a forward pass and of a backward pass."""
    q, k, v = (
        torch.randn(1, length, heads, dim, device=device, dtype=precision).transpose(1, 2).requires_grad_()
        for length in (queries, keys, keys)
    )
    flops = 4 * heads * queries * keys * dim
    for name, kernel in _KERNELS.items():

        def forward(kernel: SDPBackend | None = kernel) -> Tensor:
            with nullcontext() if kernel is None else sdpa_kernel(kernel):
                return F.scaled_dot_product_attention(q, k, v)

        def back(forward: Callable[[], Tensor] = forward) -> None:
            torch.autograd.grad(forward().sum(), (q, k, v))

        words = f"{queries:,} tokens see {keys:,}, {name}"
        try:
            with torch.no_grad():
                one = _seconds(forward, device)
            both = _seconds(back, device)
        except RuntimeError as error:
            print(f"  {words}  not here: {str(error).splitlines()[0]}", flush=True)
            continue
        print(f"  {words}, forward  {1e3 * one:.2f} ms, {flops / one / 1e12:.0f} TFLOP/s")
        print(
            f"  {words}, backward  {1e3 * (both - one):.2f} ms, {2.5 * flops / (both - one) / 1e12:.0f} TFLOP/s",
            flush=True,
        )


def main() -> None:
    """Of a whole video, and of one chunk of it that sees all before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="few tokens, on the CPU")
    small = parser.parse_args().small or not torch.cuda.is_available()
    device = torch.device("cpu" if small else "cuda")
    shape, precision = (SHAPES["tiny"], torch.float32) if small else (SHAPES["1.3b"], torch.bfloat16)
    frames, _, height, width = shape.latent
    frame = height * width // 4
    for queries, keys in ((frames * frame, frames * frame), (shape.chunks[1] * frame, frames * frame)):
        measure(shape.heads, queries, keys, shape.head_dim, device, precision)


if __name__ == "__main__":
    main()
