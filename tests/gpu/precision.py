"""A step of both stages in bf16 against one in float32, on the same weights and draws."""

from __future__ import annotations

import sys

import torch

from flowmap.training.precision import compute_in
from tests.benchmarks.wan import KINDS, SHAPES, Ours


def main() -> None:
    """Print the losses, and how far each is off."""
    device = torch.device("cuda" if torch.cuda.is_available() and "--small" not in sys.argv else "cpu")
    for stage in KINDS:
        for causal in (False, True):
            exact, mixed = (Ours(stage, SHAPES["tiny"], 4, causal=causal, device=device) for _ in range(2))
            for module in mixed.modules():
                compute_in(module, "bf16", device)
            losses, others = exact.step(0), mixed.step(0)
            for name, value in losses.items():
                off = abs(others[name] / value - 1)
                words = f"{'causal' if causal else 'bidirectional'} {stage}, {name}"
                print(f"  {words}  {others[name]:.5g} against {value:.5g}: {off:.1%} off", flush=True)


if __name__ == "__main__":
    main()
