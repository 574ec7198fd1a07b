"""A second time for any transformer of diffusers that embeds one, without forking it or replacing its modules.

Beside the layers that embed the sinusoids of t stands a copy of them for r, `delta_embedder`. A hook on the first gives
(1 - gate) t-embedding + gate r-embedding (AnyFlow, arXiv 2605.13724, appendix A.1), so that at r = t the network is
what it was, to the bit, and every weight keeps its name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.transformers.transformer_z_image import TimestepEmbedder
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.interfaces.held import keep_exact
from flowmap.workshop.precision import exactly

DELTA = "delta_embedder"
"""What the layers are called that embed r; they stand beside those of t."""


def delta_of(embedder: str) -> str:
    """Where the embedder of r stands, beside `embedder`."""
    parent, _, _ = embedder.rpartition(".")
    return f"{parent}.{DELTA}" if parent else DELTA


@final
class Times:
    """The times of the call that runs, as the sinusoids see them: both float32 `[B]`."""

    def __init__(self) -> None:
        self._now: tuple[Tensor, Tensor] | None = None

    @property
    def now(self) -> tuple[Tensor, Tensor]:
        """t and r."""
        assert self._now is not None, "a transformer of two times is called with both"
        return self._now

    @contextmanager
    def at(self, t: Tensor, r: Tensor) -> Iterator[None]:
        """Within this context these are the times."""
        before, self._now = self._now, (t, r)
        try:
            yield
        finally:
            self._now = before

    def pinned(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` at the times that are now, whenever it is called: blocks are computed again in backward."""
        t, r = self.now

        def at_these(*args: Any, **named: Any) -> Any:
            with self.at(t, r):
                return function(*args, **named)

        return at_these


def add_second_time(transformer: nn.Module, embedders: Iterable[str], gate: float, times: Times, both: bool) -> None:
    """Have `transformer` take its times from `times`, and, if `both`, embed r as well.

    Times reach the sinusoids in float32, whatever the precision of the rest. Raises FlowmapError if at one of the
    places `embedders` there is none of a kind that is known.
    """
    for path in embedders:
        try:
            embedder = transformer.get_submodule(path)
            sinusoids = _sinusoids(transformer, path, embedder)
        except AttributeError:
            embedder, sinusoids = None, None
        if embedder is None or sinusoids is None:
            raise FlowmapError(
                f"a {type(transformer).__name__} has no embedder of its time at '{path}' that two times are known for"
            )
        parent = transformer.get_submodule(path.rpartition(".")[0])
        keep_exact(embedder)
        if both:
            # Its weights are copied by hand: tensors without data have no other copies.
            own = {id(p): nn.Parameter(p.detach().clone()) for p in embedder.parameters()}
            parent.add_module(DELTA, copy.deepcopy(embedder, own))
        embedder.register_forward_hook(_Embedding(sinusoids, parent if both else None, gate, times))


def _sinusoids(transformer: nn.Module, path: str, embedder: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What makes of a time what `embedder` is given; None if it is of no known kind."""
    if isinstance(embedder, TimestepEmbedder):
        # It takes the sinusoids itself.
        return lambda time: time
    proj = getattr(transformer.get_submodule(path.rpartition(".")[0]), "time_proj", None)
    return proj if isinstance(embedder, TimestepEmbedding) and isinstance(proj, Timesteps) else None


@final
class _Embedding:
    """The hook: the embedding of both times in place of what was made of one that the model may have rounded."""

    def __init__(
        self, sinusoids: Callable[[Tensor], Tensor], parent: nn.Module | None, gate: float, times: Times
    ) -> None:
        self._sinusoids, self._parent, self._gate, self._times = sinusoids, parent, gate, times

    def __call__(self, embedder: nn.Module, given: Any, made: Tensor) -> Tensor:
        t, r = self._times.now
        with exactly(made.device):
            # Not through the hook again.
            embedded: Tensor = embedder.forward(self._sinusoids(t))
            if self._parent is not None:
                # Asked for by its name: another may have taken its place.
                delta = self._parent.get_submodule(DELTA)
                embedded = torch.lerp(embedded, delta(self._sinusoids(r)), self._gate)
        return embedded.to(made.dtype)
