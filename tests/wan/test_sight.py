"""Masks made from chunks: who sees whom, in blocks as torch finds them pair by pair, and each layout once."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from flowmap_wan import sight as masks
from flowmap_wan.configs import FarWan21Config
from flowmap_wan.module import WanModule
from flowmap_wan.sight import Reach, Run, Runs, Sight, blocks, first, parts, runs, table
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode

from flowmap.interfaces import Batch, Window

from .support import CHANNELS, architecture, causal, chunking, noise, student, text

pytestmark = pytest.mark.filterwarnings("ignore:.*flex_attention:UserWarning")
CPU = torch.device("cpu")
BLOCK = 128
LISTS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")


def tokens(of: Runs) -> list[tuple[int, bool]]:
    return [(run.chunk, run.noised) for run in of for _ in range(run.length)]


def seen(query: tuple[int, bool], key: tuple[int, bool]) -> bool:
    """The rule in words of its own: a noised token sees its own noised chunk and clean chunks before it."""
    (chunk, is_noised), (other, other_noised) = query, key
    if is_noised and other_noised:
        return chunk == other
    if is_noised:
        return other < chunk
    return not other_noised and other <= chunk


def brute(sight: Sight) -> Tensor:
    """The rule for every pair of tokens `[queries, keys]`, asked once for all that are of the same two kinds."""
    queries, keys = tokens(sight.queries), tokens(sight.keys)
    rows = {query: torch.tensor([seen(query, key) for key in keys]) for query in dict.fromkeys(queries)}
    return torch.stack([rows[query] for query in queries])


def among(wanted: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The rule that a table is."""
    return wanted[query, key]


def layouts(count: int, largest: int) -> Iterator[Sight]:
    """Random ones: context, noised and clean chunks, with or without a past; odd lengths and whole blocks."""
    dice = random.Random(0)
    for _ in range(count):
        chunks = range(dice.randint(0, 2), dice.randint(3, 6))

        def some(noised: bool = False, chunks: range = chunks) -> Runs:
            lengths = [dice.choice([dice.randint(1, largest), BLOCK, 2 * BLOCK]) for _ in chunks]
            return tuple(Run(chunk, length, noised) for chunk, length in zip(chunks, lengths, strict=True))

        own = dice.choice([some(), some(True) + some(), some(True)])
        past = tuple(Run(chunk, dice.randint(1, largest)) for chunk in range(chunks.start))
        yield Sight(own, past + own if dice.random() < 0.5 else own)


def test_all_forms_are_the_rule_on_many_layouts() -> None:
    index = torch.tensor(0)
    for sight in layouts(40, 300):
        wanted = brute(sight)
        assert torch.equal(table(sight, CPU), wanted)
        in_parts, end = torch.zeros_like(wanted), 0
        for (begin, stop), keys in parts(sight):
            assert begin == end
            end = stop
            for first_key, last_key in keys:
                in_parts[begin:stop, first_key:last_key] = True
        assert end == len(wanted)
        assert torch.equal(in_parts, wanted)
        made = blocks(sight, CPU)
        queries, keys = (torch.arange(length) for length in wanted.shape)
        assert made.seq_lengths == tuple(wanted.shape)
        assert torch.equal(made.mask_mod(index, index, queries[:, None], keys[None, :]), wanted)


@pytest.mark.parametrize(("window", "sink"), [(9, 0), (7, 2), (5, 1), (4, 1)])
@pytest.mark.parametrize("forced", [True, False])
def test_all_forms_keep_a_window_with_a_sink(window: int, sink: int, forced: bool) -> None:
    size, count, per_frame, index = 3, 12, 50, torch.tensor(0)
    labels = tuple(frame // size for frame in range(count))
    clean = runs(labels, per_frame, reach=Reach(window, sink))
    noised = runs(labels, per_frame, noised=True, reach=Reach(window, sink)) if forced else ()
    sight = Sight((*noised, *clean), (*noised, *clean))
    # A chunk that ends before frame e sees [0, sink) and [e - (window - sink), e).
    end = torch.tensor([size * (label + 1) for label in labels])[:, None]
    frame = torch.arange(count)[None]
    near = (frame < end) & ((frame < sink) | (frame >= end - (window - sink)))
    wanted = near
    if forced:
        own = end == end.T
        wanted = torch.cat([torch.cat([own, near & ~own], 1), torch.cat([torch.zeros_like(own), near], 1)])
    wanted = wanted.repeat_interleave(per_frame, 0).repeat_interleave(per_frame, 1)
    assert torch.equal(table(sight, CPU), wanted)
    in_parts = torch.zeros_like(wanted)
    for (begin, stop), keys in parts(sight):
        for first_key, last_key in keys:
            in_parts[begin:stop, first_key:last_key] = True
    assert torch.equal(in_parts, wanted)
    made, place = blocks(sight, CPU), torch.arange(len(wanted))
    assert torch.equal(made.mask_mod(index, index, place[:, None], place[None, :]), wanted)
    theirs = create_block_mask(partial(among, wanted), None, None, *wanted.shape, device="cpu")
    assert torch.equal(made.to_dense(), theirs.to_dense())


def test_blocks_are_those_that_torch_finds_pair_by_pair() -> None:
    edges, inside = 0, 0
    for sight in layouts(25, 400):
        wanted = brute(sight)
        queries, keys = wanted.shape
        theirs = create_block_mask(partial(among, wanted), None, None, queries, keys, device="cpu")
        ours = blocks(sight, CPU)
        assert torch.equal(ours.to_dense(), theirs.to_dense())
        for name in LISTS:
            mine, other = getattr(ours, name), getattr(theirs, name)
            assert mine.dtype == other.dtype
            assert torch.equal(mine, other), name
        for name in ("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert ours.full_kv_num_blocks is not None
        edges += int(ours.kv_num_blocks.sum())
        inside += int(ours.full_kv_num_blocks.sum())
    assert min(edges, inside) > 100


def test_runs_of_frames_and_the_first_of_them() -> None:
    assert runs((0, 1, 1, 1, 2), 4) == (Run(0, 4), Run(1, 12), Run(2, 4))
    assert runs((3,), 5, noised=True) == (Run(3, 5, True),)
    assert first(runs((0, 1, 2), 4), 0) == ()
    assert first(runs((0, 1, 2), 4), 6) == (Run(0, 4), Run(1, 2))
    assert first(runs((0, 1, 2), 4), 12) == runs((0, 1, 2), 4)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes, in bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor):
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return made


def test_a_long_video_takes_no_table_of_tokens() -> None:
    """The whole video of the recipe, teacher-forced: 66 thousand tokens to themselves, 4 GB as a table."""
    chunks = FarWan21Config(weights="not needed").chunks
    frames = tuple(chunk for chunk, size in enumerate(chunks) for _ in range(size))
    own = (*runs(frames, 1560, noised=True), *runs(frames, 1560))
    blocks.cache_clear()
    tracemalloc.start()
    with Largest() as largest:
        made = blocks(Sight(own, own), CPU)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    side = 2 * len(frames) * 1560 // BLOCK + 1
    assert largest.bytes <= 8 * side * (side + 1) < 2.2e6
    assert peak < 1e6
    kept = sum(t.numel() * t.element_size() for t in made.as_tuple() if isinstance(t, Tensor))
    assert kept < 5e6
    # What is left out: of all blocks no more are looked at than the rule has pairs, but for the edges of chunks.
    seen = sum(q.length * k.length for q in own for k in own if q.sees(k)) / (2 * len(frames) * 1560) ** 2
    assert 1 - made.sparsity() / 100 == pytest.approx(seen, rel=0.1)


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """What block masks and tables are made."""
    made: list[object] = []
    real, of_runs = BlockMask.from_kv_blocks, masks._of_runs

    def counted(*args: Any, **named: Any) -> Any:
        made.append("blocks")
        return real(*args, **named)

    def rule(sight: Sight) -> Tensor:
        made.append(sight)
        return of_runs(sight)

    with monkeypatch.context() as patch:
        patch.setattr(BlockMask, "from_kv_blocks", counted)
        patch.setattr(masks, "_of_runs", rule)
        yield made


@pytest.mark.parametrize("kernel", ["dense", "flex"])
@torch.no_grad()
def test_a_second_call_makes_no_mask(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = (1, 2, 1, 2)
    backbone = causal(chunks, architecture=architecture(2, 16, layers=1), attention=kernel)
    role, network = student(backbone)
    assert isinstance(role.module, WanModule)
    x0, cond = noise(1, sum(chunks), CHANNELS, 6, 10), text(1)
    blocks.cache_clear()
    table.cache_clear()

    def everything() -> None:
        forced = chunking(backbone).forced(Batch(x0, cond, cond), Window(1, sum(chunks)))
        network.velocity(forced.x0, torch.tensor([0.5]), forced.cond)
        read = chunking(backbone).given(network, cond, x0[:, :3])
        chunking(backbone).remember(network, read, x0[:, 3:4])

    with counting(monkeypatch) as made:
        everything()
        several = len(made)
        assert several == (3 if kernel == "dense" else 6)
        everything()
        assert len(made) == several
