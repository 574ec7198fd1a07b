"""Measure a computation without doing it: memory and arithmetic on fake tensors, which have shapes and no data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from flowmap.schema.words import Precision

Masks = Mapping[tuple[int, int], int]
"""Of attention from so many queries to so many keys: how many pairs see each other, where a mask hides others.

Block-sparse attention computes no others, and keeps next to nothing of the mask.
"""


@final
@dataclass(frozen=True)
class Taken:
    """What a call takes, and its backward: bytes `held` in between, and `peak`, the most at any moment (with held).

    `flops` are the floating-point operations of both, a multiply-add counted as 2.
    """

    held: int
    peak: int
    flops: int


@final
class Meter(TorchDispatchMode):
    """Adds up the bytes of every tensor that is made in its context, for as long as it lives, and all arithmetic.

    `flops` by torch's own formulas (torch.utils.flop_counter), a multiply-add counted as 2. Tensors of the shape of a
    mask are left out.
    """

    def __init__(self, masks: Masks | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._masks = masks or {}
        self._formulas = {**flop_registry, **_attention(self._masks)}
        self.flops = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        self.alive: int = 0
        self.peak: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation, and look at what it made."""
        result = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        # A view, and what is written in place, is no new memory.
        if not (func.is_view or func._schema.is_mutable):
            for made in result if isinstance(result, tuple | list) else (result,):
                if isinstance(made, Tensor) and tuple(made.shape) not in self._masks:
                    self._count(made.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def gone(_: object) -> None:
            del self._known[key]
            self.alive -= size

        self._known[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def measure(
    call: Callable[[], Any],
    gradient: bool,
    precision: Precision,
    masks: Masks | None = None,
) -> Taken:
    """What `call` takes under fake tensors, in mixed `precision`, and with `gradient` its backward too.

    With gradient `call` returns a tensor to differentiate.
    """
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
    # Attention whose table of scores is never whole, where it can be done so.
    fused = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    with fused, Meter(masks) as meter:
        with torch.set_grad_enabled(gradient), mixed:
            result = call()
        held = meter.alive if gradient else 0
        if gradient:
            result.backward(torch.zeros_like(result))
    return Taken(held, meter.peak, meter.flops)


def _attention(masks: Masks) -> dict[Any, Callable[..., int]]:
    """FLOPs of attention on a CPU, of which torch has formulas for accelerators only.

    Backward is twice the forward, as of any product: a kernel makes the gradients of queries, keys and values, whoever
    asks for them, and what it computes again is its own affair.
    """

    def products(query: Tensor, key: Tensor) -> int:
        *heads, queries, width = query.shape
        pairs = masks.get((queries, key.shape[-2]), queries * key.shape[-2])
        return int(4 * prod(heads) * width * pairs)

    def forward(query: Tensor, key: Tensor, *rest: Any, **named: Any) -> int:
        return products(query, key)

    def backward(gradient: Tensor, query: Tensor, key: Tensor, *rest: Any, **named: Any) -> int:
        return 2 * products(query, key)

    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
