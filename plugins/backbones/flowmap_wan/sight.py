"""Which token sees which, known from the chunks that tokens stand in, and the masks of it, made once a layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Literal, Union, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

AttentionKernel = Literal["auto", "parts", "dense", "flex"]
Span = tuple[int, int]
"""Tokens from the first number on, up to the second."""
Parts = tuple[tuple[Span, tuple[Span, ...]], ...]
"""All queries part by part, and the keys that the whole part sees."""
Mask = Union[Parts, Tensor, "BlockMask"]
"""Who sees whom, in parts, as a table `[Lq, Lk]`, or for flex attention as the blocks that are seen."""

_BLOCK = 128  # tokens: a side of the blocks of flex attention
_LATEST = 2**31 - 1  # a chunk after all others


@final
@dataclass(frozen=True)
class Run:
    """`length` tokens that stand together in one chunk, all of them noised or all clean.

    Where it matters how far back they see, they are those of one `frame`: of clean ones they see frames below `sink`
    and from `since` on.
    """

    chunk: int
    length: int
    noised: bool = False
    frame: int = 0
    since: int = 0
    sink: int = 0

    def sees(self, other: Run) -> bool:
        """A noised token sees its own chunk and earlier clean ones, a clean one clean ones up to its own (FAR,
        arXiv 2503.19325)."""
        if other.noised:
            return self.noised and self.chunk == other.chunk
        if self.sink <= other.frame < self.since:
            return False
        return other.chunk < self.chunk or (other.chunk == self.chunk and not self.noised)


Runs = tuple[Run, ...]


@final
@dataclass(frozen=True)
class Reach:
    """How far back a chunk sees: `window` frames, its own among them, of which the first `sink` are a video's first.

    A chunk that ends before frame e sees frames from 0 up to `sink`, and those from e - (window - sink) up to e.
    """

    window: int
    sink: int = 0

    def since(self, end: int) -> int:
        """The first frame, after those of the sink, that a chunk ending before frame `end` sees."""
        return max(0, end - (self.window - self.sink))


def runs(chunks: Sequence[int], tokens: int, noised: bool = False, first: int = 0, reach: Reach | None = None) -> Runs:
    """Consecutive frames, from frame `first` on, of so many `tokens` each; `chunks` has the chunk of each frame.

    With a `reach` each frame is a run of its own; the last of a chunk's frames are then among them.
    """
    if reach is None:
        return tuple(Run(chunk, tokens * len(list(frames)), noised) for chunk, frames in groupby(chunks))
    ends = {chunk: first + place + 1 for place, chunk in enumerate(chunks)}
    return tuple(
        Run(chunk, tokens, noised, first + place, reach.since(ends[chunk]), reach.sink)
        for place, chunk in enumerate(chunks)
    )


def first(found: Iterable[Run], tokens: int) -> Runs:
    """The first `tokens` of what is `found`."""
    kept: list[Run] = []
    for run in found:
        length = min(run.length, tokens - sum(each.length for each in kept))
        if length:
            kept.append(replace(run, length=length))
    return tuple(kept)


@final
@dataclass(frozen=True)
class Sight:
    """Of the tokens that ask (`queries`) and those that are asked about (`keys`): which sees which, by `Run.sees`."""

    queries: Runs
    keys: Runs

    def mask(self, kernel: AttentionKernel, head_dim: int, device: torch.device, compiled: bool) -> Mask:
        """What shows it to attention with heads of `head_dim`, in a block that is `compiled` or not.

        `auto` means in parts, but not where blocks are compiled: that is anew for each number of parts, of masks not.
        """
        if kernel == "auto" and compiled:
            kernel = "flex" if device.type == "cuda" else "dense"
        if kernel in ("auto", "parts"):
            return parts(self)
        # Compiled flex attention takes no heads below 16 dimensions; only toys have them.
        return blocks(self, device) if kernel == "flex" and head_dim >= 16 else table(self, device)


@lru_cache(maxsize=256)
def parts(sight: Sight) -> Parts:
    """The rule without masks: all tokens of a run see the same runs, and neighbours that see the same are one part."""
    found = []
    queries = zip(sight.queries, _spans(sight.queries), strict=True)
    for keys, several in groupby(queries, lambda query: seen_by(query[0], sight.keys)):
        spans = [span for _, span in several]
        found.append(((spans[0][0], spans[-1][1]), keys))
    return tuple(found)


def seen_by(query: Run, keys: Runs) -> tuple[Span, ...]:
    """The tokens that `query` sees, neighbouring runs as one span."""
    spans = [span for key, span in zip(keys, _spans(keys), strict=True) if query.sees(key)]
    found: list[Span] = []
    for begin, end in spans:
        joins = found and found[-1][1] == begin
        found[-1:] = [(found[-1][0], end)] if joins else [*found[-1:], (begin, end)]
    return tuple(found)


def _spans(found: Runs) -> list[Span]:
    ends = list(accumulate(run.length for run in found))
    return [(end - run.length, end) for run, end in zip(found, ends, strict=True)]


# A table of a long video is a gigabyte, but long videos have accelerators, and there blocks.
@lru_cache(maxsize=32)
def table(sight: Sight, device: torch.device) -> Tensor:
    """The rule as a table `[Lq, Lk]`."""
    queries, keys = (
        torch.cat([torch.full((run.length,), place, device=device) for place, run in enumerate(side)])
        for side in (sight.queries, sight.keys)
    )
    return _of_runs(sight).to(device).index_select(0, queries).index_select(1, keys)


@lru_cache(maxsize=64)
def blocks(sight: Sight, device: torch.device) -> BlockMask:
    """The rule as flex attention takes it: blocks that nobody sees left out, blocks that are seen whole not looked at.

    Nothing is as large as tokens by tokens: of every block is reckoned, from the runs that reach into it, how many of
    its pairs see each other. It is what `create_block_mask` finds out pair by pair.
    """
    from torch.nn.attention.flex_attention import BlockMask

    lengths = (sum(run.length for run in sight.queries), sum(run.length for run in sight.keys))
    # Exact: no block has more pairs than 2^14.
    pairs = _reached(sight.queries, lengths[0]) @ _of_runs(sight).double() @ _reached(sight.keys, lengths[1]).T
    whole = pairs == _BLOCK * _BLOCK
    partial = (pairs > 0) & ~whole
    # A clean key is seen by those whose limit lies above its chunk, a noised one by the noised queries of its chunk.
    limit = _by_token(sight.queries, lambda run: run.chunk + (not run.noised), device)
    own = _by_token(sight.queries, lambda run: run.chunk if run.noised else -1, device)
    clean = _by_token(sight.keys, lambda run: _LATEST if run.noised else run.chunk, device)
    noised = _by_token(sight.keys, lambda run: run.chunk if run.noised else -2, device)

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (clean[key] < limit[query]) | (noised[key] == own[query])

    frame = _by_token(sight.keys, lambda run: run.frame, device)
    sink = _by_token(sight.queries, lambda run: run.sink, device)
    since = _by_token(sight.queries, lambda run: run.since, device)

    def within(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = (frame[key] < sink[query]) | (frame[key] >= since[query])
        return ((clean[key] < limit[query]) & near) | (noised[key] == own[query])

    reaching = any(run.since for run in sight.queries)
    return BlockMask.from_kv_blocks(
        *_listed(partial, device),
        *_listed(whole, device),
        BLOCK_SIZE=_BLOCK,
        mask_mod=within if reaching else rule,
        seq_lengths=lengths,
    )


def _of_runs(sight: Sight) -> Tensor:
    """The rule as a table of runs, by `Run.sees`."""
    return torch.tensor([[query.sees(key) for key in sight.keys] for query in sight.queries])


def _reached(found: Runs, length: int) -> Tensor:
    """How many tokens of each run stand in each block `[blocks, runs]`, float64."""
    ends = torch.tensor(list(accumulate(run.length for run in found)))
    begins = ends - torch.tensor([run.length for run in found])
    block = torch.arange(0, length, _BLOCK)[:, None]
    return (torch.minimum(ends, block + _BLOCK) - torch.maximum(begins, block)).clamp(min=0).double()


def _by_token(found: Runs, number: Callable[[Run], int], device: torch.device) -> Tensor:
    """The number of its run for each token `[L]`, int32."""
    return torch.cat([torch.full((run.length,), number(run), dtype=torch.int32) for run in found]).to(device)


def _listed(seen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each block of queries how many blocks of keys are `seen` `[rows, columns]`, and which: those first."""
    order = seen.int().argsort(dim=1, descending=True, stable=True)
    count, order = (numbers[None, None].to(device, torch.int32).contiguous() for numbers in (seen.sum(1), order))
    return count, order
