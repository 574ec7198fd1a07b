"""What backward computes again instead of keeping: nothing, whole units, or units but for their matrix products.

What a recomputed unit needs is its input. That of an accelerator can wait in the memory of the CPU (`offload`), which
has more of it: the program does not wait for copies, but they take their turn in the accelerator's own order of work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
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
        kept = _away if how == "offload" else _where_they_are
        unit.forward = _again(unit.forward, chosen, pinned, {**fixed, "preserve_rng_state": drawn}, kept)


def _again(
    plain: Callable[..., Any],
    chosen: Chosen,
    pinned: Wrap,
    fixed: dict[str, Any],
    kept: Callable[[Sequence[Any]], AbstractContextManager[Any]],
) -> Callable[..., Any]:
    @wraps(plain)
    def forward(*args: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **named)
        # What is compiled holds for one role, and its backward runs no Python.
        now = plain if torch.compiler.is_compiling() else chosen.pinned(pinned(plain))
        with kept((*args, *named.values())):
            return checkpoint(now, *args, **fixed, **named)

    return forward


def _where_they_are(given: Sequence[Any]) -> AbstractContextManager[Any]:
    """Keep what is `given` to a unit where it is."""
    return nullcontext()


def _away(given: Sequence[Any]) -> AbstractContextManager[Any]:
    """Keep on the CPU the tokens `[B, L, D]` that are `given` to a unit; all else is the same for many units."""
    tensors = [x for x in given if isinstance(x, Tensor)]
    # The first of a network's units may be given tokens that need no gradient.
    forms = {(x.shape, x.dtype) for x in tensors if x is tensors[0] or (x.requires_grad and x.ndim == 3)}

    def pack(kept: Tensor) -> Tensor | tuple[Tensor, torch.device]:
        if (kept.shape, kept.dtype) not in forms:
            return kept
        # Its strides too: what is computed of them may be kept in another order otherwise.
        copy = torch.empty_like(kept, device="cpu", pin_memory=kept.device.type != "cpu")
        # Into pinned memory, so that nothing waits for it; what brings it back comes after it on the same stream.
        return copy.copy_(kept, non_blocking=True), kept.device

    def unpack(packed: Tensor | tuple[Tensor, torch.device]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        copy, device = packed
        return copy.to(device, non_blocking=True)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
