"""What backward computes again is what was computed, however little of it was kept."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from flowmap.interfaces import Batch, as_flow_map

from .support import CHANNELS, bidirectional, error, gradients, lora, module, noise, relative, student, text

T, R = torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.0])
HOW = ("none", "block", "selective", "offload")


def computed(how: str) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[bool]]:
    """An answer, its gradients, and of each block whether its input was still there before backward."""
    role, network = student(bidirectional(3, lora=lora(), gradient_checkpointing=how))
    inputs: list[Any] = []
    for block in module(role).transformer.blocks:
        block.register_forward_pre_hook(lambda block, given: inputs.append(weakref.ref(given[0].untyped_storage())))
    batch = Batch(noise(2, 3, CHANNELS, 6, 10), text(2), text(2))
    out = as_flow_map(network).mean_velocity(batch.x0, T, R, batch.cond)
    there = [each() is not None for each in inputs]
    out.square().sum().backward()
    return out, gradients(role), there


@pytest.mark.filterwarnings("ignore:.*context_fn is passed")
@pytest.mark.parametrize("how", HOW[1:])
def test_recomputation_changes_no_number(how: str) -> None:
    (kept, graded, _), (out, found, _) = computed("none"), computed(how)
    assert error(out, kept) == 0
    assert relative(found, graded) < 1e-6


def test_what_is_offloaded_is_kept_nowhere_else() -> None:
    assert computed("block")[2] == [True, True]
    assert computed("offload")[2] == [False, False]
