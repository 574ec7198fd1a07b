"""What all checks share: saying what is broken, and by how much, and watching the global generators."""

from __future__ import annotations

import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from flowmap.maths.draw import Draw
from flowmap.plugin.kinds import ComponentConfig
from flowmap.schema.config import Finding

T = TypeVar("T")


def require(kept: bool, contract: str) -> None:
    """Raise AssertionError with the sentence `contract` unless it is `kept`."""
    if not kept:
        raise AssertionError(contract)


def is_sentence(error: AssertionError) -> bool:
    """Whether a check says so; an assertion of the component under examination is an error like others."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("flowmap.testing.")


@contextmanager
def told_by_networks(who: str) -> Iterator[None]:
    """Within this context the sentences of networks, which know how they are to be asked, are about `who`."""
    try:
        yield
    except AssertionError as error:
        if not is_sentence(error):
            raise
        raise AssertionError(f"{who}: {error}") from error


@contextmanager
def own_randomness_only(who: str) -> Iterator[None]:
    """Require that the global generators of torch, numpy and Python are where they were."""
    before = _global_states()
    yield
    require(
        before == _global_states(), f"{who} must take random numbers from its Draw only, not from a global generator"
    )


def build_quietly(config: ComponentConfig, build: Callable[[], T]) -> T:
    """What `build` returns, which must not move a global generator."""
    build()  # what it imports the first time may move one
    with own_randomness_only(f"building '{config.type}'"):
        return build()


def _global_states() -> tuple[Any, ...]:
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    numpy_state = {**state["state"], "key": state["state"]["key"].tobytes()}
    return torch.random.get_rng_state().numpy().tobytes(), numpy_state, random.getstate()


def require_no_errors(findings: Iterable[Finding], who: str, hint: str = "") -> None:
    """Require that `findings` has no error: what is checked must be a combination that a recipe may have."""
    errors = [finding.message for finding in findings if finding.level == "error"]
    require(not errors, f"{who} refuses what it is checked with: {'; '.join(errors)}{hint}")


def require_like(x: Tensor, shape: tuple[int, ...], who: str) -> None:
    """Require finite float32 of `shape`."""
    require(x.shape == shape, f"{who} must have the shape {list(shape)}, not {list(x.shape)}")
    require(x.dtype == torch.float32, f"{who} must be float32, not {x.dtype}")
    require(bool(x.isfinite().all()), f"{who} must be finite")


def require_equal(a: Tensor, b: Tensor, contract: str, tolerance: float = 1e-4) -> None:
    """Require the same shape and the same numbers up to `tolerance`, absolute or of the largest number in the row.

    Rows are samples, and what is small in one of them may be a difference of what is large.
    """
    require(a.shape == b.shape, f"{contract} (shapes {list(a.shape)} and {list(b.shape)})")
    largest = b.abs().amax(tuple(range(1, b.ndim)), keepdim=True) if b.numel() else b
    kept = bool(((a - b).abs() <= tolerance * (1 + largest)).all())
    require(kept, f"{contract} ({difference(a, b)})")


def difference(a: Tensor, b: Tensor) -> str:
    """By how much two tensors of one shape differ, and what size their numbers are."""
    off, largest = float((a - b).detach().abs().max()), float(b.detach().abs().max())
    return f"they differ by up to {off:.2g}, in numbers of up to {largest:.2g}"


def unchanged_rows(a: Tensor, b: Tensor) -> int:
    """How many rows of `a` `[B, ...]` are those of `b` to the bit."""
    return int((a == b).flatten(1).all(dim=1).sum())


def whole(count: int, step: int = 0, group: int = 1) -> Draw:
    """A draw of `count` samples, in groups of `group`."""
    return Draw.whole(0, "conformance", step, "check", count, group=group)


def halves(count: int, step: int = 0) -> tuple[Draw, Draw]:
    """`whole(count, step)` as two processes see it: every third sample, and the others."""
    draw = whole(count, step)
    others = tuple(row for row in draw.rows if row % 3)
    return replace(draw, rows=draw.rows[::3]), replace(draw, rows=others)


def require_own_names(who: str, draw: Draw, use: Callable[[Draw], object]) -> None:
    """Require that `use` reads no stream of numbers of `draw` twice for one sample."""
    read: Counter[tuple[str, str, int]] = Counter()

    def watch(part: Draw, stream: str) -> None:
        # By rows, so that a part of the samples is found in the whole.
        read.update((part.turn, stream, row) for row in set(part.rows))

    use(replace(draw, watch=watch))
    twice = sorted({stream.split("\0")[0] for (_, stream, _), number in read.items() if number > 1})
    require(
        not twice,
        f"{who} draws under one name twice ('{', '.join(twice)}'), which gives the same numbers; give what is drawn "
        "names of its own, or keep it",
    )
