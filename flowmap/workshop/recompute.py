"""What backward computes again instead of keeping: nothing, whole units, or units but for their matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from flowmap.schema.words import Recomputation
from flowmap.workshop.adapters import Chosen

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]

# Linear layers, and attention whose table of scores is never whole: of one that is made of matrix products (bmm) it
# would be kept.
_KEPT = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.higher_order.flex_attention,
]


def recompute(units: Iterable[nn.Module], how: Recomputation, chosen: Chosen, pinned: Wrap = lambda f: f) -> None:
    """From now on backward computes `units` again as `how` says, under the role they were first computed for.

    It lies within a unit's forward, so that hooks (FSDP2's) and compilation stay around it. `pinned` makes of a forward
    one at whatever it depends on now besides its arguments.
    """
    if how == "none":
        return
    fixed: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        fixed["context_fn"] = partial(create_selective_checkpoint_contexts, _KEPT)
    for unit in units:
        # Without dropout nothing is drawn, and the state of no generator has to be kept.
        drawn = any(isinstance(part, nn.Dropout) and part.p for part in unit.modules())
        unit.forward = _again(unit.forward, chosen, pinned, {**fixed, "preserve_rng_state": drawn})


def _again(plain: Callable[..., Any], chosen: Chosen, pinned: Wrap, fixed: dict[str, Any]) -> Callable[..., Any]:
    @wraps(plain)
    def forward(*args: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **named)
        # What is compiled holds for one role, and its backward runs no Python.
        now = plain if torch.compiler.is_compiling() else chosen.pinned(pinned(plain))
        return checkpoint(now, *args, **fixed, **named)

    return forward
