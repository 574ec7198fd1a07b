"""Measure a computation without doing it, on tensors that have shapes and no data: memory on fake ones, which say that
they are on a CPU and follow mixed precision; arithmetic on those of the meta device, which is faster.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from flowmap.schema.words import Precision


@final
@dataclass(frozen=True)
class Taken:
    """Bytes: `held` after a call until its backward, and `peak`, the most at any moment of both (with held).

    `left` are those of what the call returned and left behind, without its backward.
    """

    held: int
    peak: int
    left: int


@final
class Meter(TorchDispatchMode):
    """Adds up the bytes of every tensor that is made in its context, for as long as it lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, weakref.ref[Any]] = {}
        self.alive: int = 0
        self.peak: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation, and look at what it made."""
        result = func(*args, **(kwargs or {}))
        # A view, and what is written in place, is no new memory.
        if not (func.is_view or func._schema.is_mutable):
            for made in result if isinstance(result, tuple | list) else (result,):
                if isinstance(made, Tensor):
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


def measure(call: Callable[[], Any], gradient: bool, precision: Precision, backward: bool = True) -> Taken:
    """What `call` takes under fake tensors, in mixed `precision`, and with `gradient` its `backward` if it is wanted.

    With gradient `call` returns a tensor to differentiate.
    """
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
    # Attention whose table of scores is never whole, where it can be done so.
    fused = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    with fused, Meter() as meter:
        with torch.set_grad_enabled(gradient), mixed:
            result = call()
        left = meter.alive
        if gradient and backward:
            result.backward(torch.zeros_like(result))
    return Taken(left if gradient else 0, meter.peak, left)


@final
class Arithmetic(TorchDispatchMode):
    """Counts the floating-point operations in its context, by torch's own formulas (torch.utils.flop_counter).

    A multiply-add counts as 2. Attention on the meta device is made of products of tables.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation, and count it."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


@final
@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a call: its `forward`, and both with its backward."""

    forward: int
    both: int

    def of(self, gradient: bool) -> int:
        """Those with `gradient`, or without."""
        return self.both if gradient else self.forward


def arithmetic(call: Callable[[], Any], gradient: bool) -> Flops:
    """The floating-point operations of `call` on the meta device, and with `gradient` those of its backward too."""
    with Arithmetic() as counted, torch.set_grad_enabled(gradient):
        result = call()
        forward = int(counted.flops)
        if gradient:
            result.backward(torch.zeros_like(result))
    return Flops(forward, int(counted.flops))
