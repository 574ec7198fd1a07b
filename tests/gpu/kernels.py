"""Attention of a whole video by each of torch's kernels: its speed, and how near it comes to float32."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
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
_FEW = 2
"""Heads whose output and gradients are compared."""


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    taken = []
    for _ in range(_TIMES + 1):
        finish(device)
        begin = time.perf_counter()
        work()
        finish(device)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[1:])


def _taken(kernel: SDPBackend | None, inputs: Sequence[Tensor], slope: Tensor) -> list[Tensor]:
    """The output and the three gradients."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with nullcontext() if kernel is None else sdpa_kernel(kernel):
        out = F.scaled_dot_product_attention(*leaves)
    return [x.float() for x in (out.detach(), *torch.autograd.grad(out, leaves, slope))]


def _off(kernel: SDPBackend | None, inputs: Sequence[Tensor], exact: Sequence[Tensor], slope: Tensor) -> str:
    """How far off the output and gradients are, relative; the worst of them."""
    found = _taken(kernel, inputs, slope)
    return f"{max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)):.2g}"


def measure(heads: int, queries: int, keys: int, dim: int, device: torch.device, precision: torch.dtype) -> None:
    """Print, of every kernel, milliseconds and TFLOP/s of a forward pass and of a backward pass."""
    q, k, v = (
        torch.randn(1, length, heads, dim, device=device, dtype=precision).transpose(1, 2).requires_grad_()
        for length in (queries, keys, keys)
    )
    flops = 4 * heads * queries * keys * dim
    few = [x[:, :_FEW].detach() for x in (q, k, v)]
    slope = torch.randn_like(few[0])
    # Without a table of scores, so not by definition; a CPU has one kernel for both.
    there = SDPBackend.EFFICIENT_ATTENTION if device.type == "cuda" else None
    exact = _taken(there, [x.float() for x in few], slope.float())
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
            off = _off(kernel, few, exact, slope)
        except RuntimeError as error:
            print(f"  {words}  not here: {str(error).splitlines()[0]}", flush=True)
            continue
        print(f"  {words}, output and gradients off by  {off}")
        for which, seconds, share in (("forward", one, 1.0), ("backward", both - one, 2.5)):
            speed = share * flops / seconds / 1e12
            print(f"  {words}, {which}  {1e3 * seconds:.2f} ms, {speed:.0f} TFLOP/s", flush=True)


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
