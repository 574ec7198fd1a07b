"""A transformer block modulated by frame, against diffusers' own forward of it, modulated by token."""

from __future__ import annotations

from typing import Any

import torch
from flowmap_wan.rotary import box, turn
from torch import Tensor

from flowmap.workshop.memo import Text
from tests.benchmarks.table import interleaved, show
from tests.benchmarks.wan import Ours, Shape

SHAPE = Shape(1, 4, 64, 1024, 64, 64, (5, 16, 24, 40), 32, 16, (1, 1, 1, 2))
COUNT, FRAMES, ROWS, COLUMNS = 2, 5, 12, 20


def test_modulation(benchmark: Any) -> None:
    torch.set_num_threads(1)
    block: Any = Ours("forward", SHAPE, COUNT, recompute="none").module.transformer.blocks[0]
    dim, tokens = SHAPE.heads * SHAPE.head_dim, FRAMES * ROWS * COLUMNS
    hidden = torch.randn(COUNT, tokens, dim, requires_grad=True)
    text = Text(torch.randn(COUNT, SHAPE.text, dim))
    numbers = torch.randn(COUNT, FRAMES, 6, dim, requires_grad=True)
    rotation = turn(box(0, FRAMES, ROWS, COLUMNS), SHAPE.head_dim, hidden.device)

    def ours() -> Tensor:
        result: Tensor = block(hidden, text, [(numbers, tokens)], rotation, None, None)
        return result

    def theirs() -> Tensor:
        spread = numbers.repeat_interleave(tokens // FRAMES, dim=1)
        result: Tensor = type(block).forward(block, hidden, text.tokens, spread, rotation, None)
        return result

    assert torch.equal(ours(), theirs())
    sizes: dict[str, int] = {}
    for name, work in {"by frame": ours, "by token (diffusers)": theirs}.items():
        seen: dict[int, int] = {}

        def pack(x: Tensor, seen: dict[int, int] = seen) -> Tensor:
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            kept = work()
        sizes[name] = sum(seen.values())
        del kept
    works = {
        "by frame": lambda: ours().sum().backward(),
        "by token (diffusers)": lambda: theirs().sum().backward(),
    }
    interleaved(works, rounds=2)
    seconds = interleaved(works, rounds=15)
    benchmark.pedantic(works["by frame"], rounds=2)
    show(benchmark, "a block, forward and backward", seconds, "by token (diffusers)")
    for name, size in sizes.items():
        print(f"  {name:<32} {size / 2**20:9.1f} MiB kept for backward")
