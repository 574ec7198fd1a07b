"""Blocks modulated by frame are diffusers' own, modulated by token."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from flowmap_wan.block import Modulation
from flowmap_wan.rotary import box, joined, turn
from torch import Tensor, nn

from flowmap.workshop.memo import Text

from .support import bidirectional, error, lora, module, noise, relative, student
from .support import text as prompt

DIM, HEAD = 24, 12
# Of each piece: groups that are modulated alike, and tokens in a group.
PIECES = {
    "one time": [(1, 12)],
    "a time per frame": [(3, 4)],
    "pieces": [(3, 4), (1, 6)],
    "coarse and fine": [(2, 1), (3, 4), (3, 4)],
}


def spread(modulations: list[Modulation]) -> Tensor:
    """Six numbers for each token `[B, L, 6, D]`, as diffusers' block takes them."""
    parts = [numbers.repeat_interleave(length // numbers.shape[1], dim=1) for numbers, length in modulations]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
def test_a_block_is_that_of_diffusers(pieces: list[tuple[int, int]], precision: torch.dtype) -> None:
    role, _ = student(bidirectional())
    block: Any = module(role).transformer.blocks[1]
    for layer in (block.attn1, block.attn2, block.ffn):
        layer.to(precision)
    length = sum(groups * size for groups, size in pieces)
    hidden = noise(2, length, DIM).to(precision).requires_grad_()
    text = Text(noise(2, 5, DIM, seed=1).to(precision))
    rotation = joined([turn(box(0, 1, 1, length), HEAD, hidden.device)])
    numbers = [noise(2, groups, 6, DIM, seed=i).to(precision).requires_grad_() for i, (groups, _) in enumerate(pieces)]
    modulations = [(n, groups * size) for n, (groups, size) in zip(numbers, pieces, strict=True)]
    ours = block(hidden, text, modulations, rotation, None, None)
    theirs = type(block).forward(block, hidden, text.tokens, spread(modulations), rotation, None)
    assert error(ours, theirs) == 0
    assert ours.dtype == precision
    # FSDP warns of blocks that return a view.
    assert not ours._is_view()
    slope = noise(*ours.shape, seed=9).to(precision)
    wanted = {
        "hidden": hidden,
        **{f"modulation {i}": n for i, n in enumerate(numbers)},
        **dict(block.named_parameters()),
    }
    slopes = [
        dict(zip(wanted, torch.autograd.grad((y * slope).sum(), list(wanted.values())), strict=True))
        for y in (ours, theirs)
    ]
    # One sum over the tokens of a frame instead of another.
    assert relative(*slopes) < (1e-5 if precision == torch.float32 else 3e-2)


def test_a_block_is_still_called_as_a_module() -> None:
    """What shards it, and what looks at it, hooks into the call."""
    role, network = student(bidirectional())
    calls: list[nn.Module] = []
    for block in module(role).transformer.blocks:
        block.register_forward_hook(lambda block, *_: calls.append(block))
    network.velocity(noise(1, 3, 3, 6, 10), torch.tensor([0.5]), prompt(1))
    assert calls == list(module(role).transformer.blocks)


def test_a_copied_module_runs_its_own_blocks() -> None:
    role, _ = student(bidirectional(lora=lora()))
    twin = copy.deepcopy(module(role))
    for original, copied in zip(module(role).transformer.blocks, twin.transformer.blocks, strict=True):
        assert copied.forward.__self__ is copied
        assert original.forward.__self__ is original


@pytest.mark.parametrize("adapted", [True, False])
def test_nothing_is_as_large_as_six_numbers_for_every_token(adapted: bool) -> None:
    backbone = bidirectional(3, (16, 20), lora=lora() if adapted else None)
    _, network = student(backbone)
    tokens = 3 * 8 * 10
    sizes: list[int] = []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        t = torch.tensor([[0.8, 0.5, 0.1]])
        network.mean_velocity(noise(1, 3, 3, 16, 20), t, t / 2, prompt(1))
    # The widest layer has 32 hidden units, the model 24.
    assert tokens * 32 <= max(sizes) < tokens * 6 * DIM
