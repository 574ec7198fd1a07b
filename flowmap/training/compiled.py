"""Compile the units of networks, one code for all that are alike: the blocks of a transformer.

What is compiled is a unit's forward and no more: hooks that gather its parameters (FSDP2) stay around it, and what
recomputes it in backward lies within. Sizes are not part of what is compiled, or every window and batch would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import wraps
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from flowmap.errors import FlowmapError
from flowmap.interfaces import Role
from flowmap.phases import phase

MOST_FORMS = 128
"""Of one kind of unit, for all roles together: what differs by more than sizes is compiled anew, at most so often."""


def compile_units(roles: Iterable[Role], compiled: bool, backend: str = "inductor") -> None:
    """Have the units of `roles` run as they are `compiled` at their first call, or as they are. The last word counts.

    `backend` is one of torch's, for tests. Raises FlowmapError if a role has no units.
    """
    for role in roles:
        if compiled and not role.units:
            raise FlowmapError(
                f"compute.compile: the network of role '{role.name}' has no units (blocks) to compile; leave it out"
            )
        for unit in role.units:
            forward = unit.forward
            plain = forward.plain if isinstance(forward, _Compiled) else forward
            unit.forward = _Compiled(unit, plain, backend) if compiled else plain


def is_compiled(unit: nn.Module) -> bool:
    """Whether `unit` runs as it is compiled."""
    return isinstance(unit.forward, _Compiled)


def forms() -> int:
    """How many forms of units have been compiled so far in this process."""
    return _watched().forms


@final
class _Compiled:
    """A unit's `plain` forward, compiled."""

    def __init__(self, unit: nn.Module, plain: Callable[..., Any], backend: str) -> None:
        wraps(plain)(self)
        self.plain = plain
        self._what = type(unit).__name__
        # Anything that cannot be compiled is an error, and no silent way back to what is slow.
        self._run = torch.compile(plain, backend=backend, fullgraph=True, dynamic=True)
        _watched()

    def __call__(self, *args: Any, **named: Any) -> Any:
        if _has_tangent((*args, *named.values())):
            # Forward-mode derivatives are not compiled.
            return self.plain(*args, **named)
        # The limit is one of the calling thread, and backward may call in another.
        with torch._dynamo.config.patch(recompile_limit=MOST_FORMS):
            try:
                return self._run(*args, **named)
            except torch._dynamo.exc.FailOnRecompileLimitHit:
                why = f"{self._what} was compiled in {MOST_FORMS} forms and is asked for yet another"
                raise FlowmapError(f"compute.compile: {why}; set it to false", 1) from None
            except torch._dynamo.exc.TorchDynamoException as error:
                why = f"{self._what} cannot be compiled: {str(error).strip().splitlines()[0]}"
                raise FlowmapError(f"compute.compile: {why}; set it to false", 1) from error


def _has_tangent(given: Any) -> bool:
    """Whether any tensor within `given` carries a forward derivative: of one in time alone only modulations do."""
    if isinstance(given, Tensor):
        return forward_ad.unpack_dual(given).tangent is not None
    return isinstance(given, tuple | list) and any(map(_has_tangent, given))


@final
class _Watched:
    """Shows that torch compiles, and remembers what it has compiled: tracing, compiling, a late backward pass."""

    def __init__(self) -> None:
        self.forms = 0
        self._phases: list[ExitStack] = []

    def begin(self, told: Any) -> None:
        """Something begins."""
        self.forms += told.callback_trigger.name == "DYNAMO"
        self._phases.append(ExitStack())
        self._phases[-1].enter_context(phase(f"compiling blocks, form {self.forms}, each once"))

    def end(self, told: Any) -> None:
        """It has ended."""
        if self._phases:
            self._phases.pop().close()


_WATCHED = _Watched()


def _watched() -> _Watched:
    """The one that is told; torch forgets whom it tells when it is reset."""
    from torch._dynamo.callback import callback_handler

    if _WATCHED.begin not in callback_handler.start_callbacks:
        callback_handler.register_start_callback(_WATCHED.begin)
        callback_handler.register_end_callback(_WATCHED.end)
    return _WATCHED
