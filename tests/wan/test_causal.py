"""Chunks: what sees what, what is remembered, what can be given, what it costs, what is drawn."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from flowmap_samplers.samplers import FlowMapEuler
from flowmap_wan.condition import VideoCond
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.memory import Following
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, Chunking, Cond, Velocity, Window
from flowmap.maths.draw import Draw
from flowmap.networks.guidance import Guided, GuidedChunks, GuidedCond
from flowmap.networks.rollout import rollout
from flowmap.plugin import SampleSpec

from .support import CHANNELS, architecture, bidirectional, causal, chunking, draw, error, noise, student, text
from .test_forward import seen, window

CHUNKS = (1, 2, 1, 2, 1, 1, 2, 1)
FRAMES = sum(CHUNKS)
GRID = torch.tensor([1.0, 0.6, 0.3, 0.0])


def spans(chunks: Sequence[int]) -> list[slice]:
    ends = list(itertools.accumulate(chunks))
    return [slice(end - size, end) for end, size in zip(ends, chunks, strict=True)]


def following(cond: Cond) -> Following:
    assert isinstance(cond, VideoCond)
    assert isinstance(cond.view, Following)
    return cond.view


# Causality


@pytest.mark.parametrize("count", [3, 6])
@torch.no_grad()
def test_what_a_chunk_depends_on_in_training(count: int) -> None:
    backbone = causal(CHUNKS)
    _, network = student(backbone)
    x0, where, t, r = noise(2, FRAMES, CHANNELS, 6, 10), window(CHUNKS, count), torch.tensor([0.8, 0.3]), torch.zeros(2)
    x_t = noise(2, where.stop - where.start, CHANNELS, 6, 10, seed=4)
    own = [span for span in spans(CHUNKS) if where.start <= span.start < where.stop]

    def run(clean: Tensor, noisy: Tensor) -> list[Tensor]:
        cond = chunking(backbone).forced(Batch(clean, text(2), text(2)), where).cond
        result = network.mean_velocity(noisy, t, r, cond)
        return [result[:, span.start - where.start : span.stop - where.start] for span in own]

    def changed(x: Tensor, span: slice) -> Tensor:
        x = x.clone()
        x[:, span] += 1
        return x

    before = run(x0, x_t)
    for i, span in enumerate(own):
        shifted = slice(span.start - where.start, span.stop - where.start)
        for j, (old, new) in enumerate(zip(before, run(x0, changed(x_t, shifted)), strict=True)):
            assert torch.equal(old, new) == (i != j), f"chunk {j} and the noised frames of chunk {i}"
        for j, (old, new) in enumerate(zip(before, run(changed(x0, span), x_t), strict=True)):
            assert torch.equal(old, new) == (j <= i), f"chunk {j} and the clean frames of chunk {i}"
    for span in spans(CHUNKS):
        if span.start < where.start:
            assert not any(torch.equal(*pair) for pair in zip(before, run(changed(x0, span), x_t), strict=True))
        if span.start >= where.stop:
            assert all(torch.equal(*pair) for pair in zip(before, run(changed(x0, span), x_t), strict=True))


@torch.no_grad()
def test_what_a_chunk_depends_on_in_a_rollout() -> None:
    backbone = causal(CHUNKS)
    _, network = student(backbone)
    start = noise(2, FRAMES, CHANNELS, 6, 10)

    def run(x: Tensor) -> Tensor:
        return rollout(FlowMapEuler(), network, x, GRID, text(2), chunking(backbone), draw(2))

    before = run(start)
    for span in spans(CHUNKS):
        x = start.clone()
        x[:, span] += 0.5
        after = run(x)
        assert torch.equal(before[:, : span.start], after[:, : span.start])
        for later in spans(CHUNKS):
            assert later.start < span.start or not torch.equal(before[:, later], after[:, later])


# Memory


@pytest.mark.parametrize("full", [2, 3, 4])
@pytest.mark.parametrize(("size", "heads", "head_dim"), [((6, 10), 3, 12), ((8, 12), 2, 20), ((4, 4), 4, 32)])
@torch.no_grad()
def test_cached_is_uncached(size: tuple[int, int], heads: int, head_dim: int, full: int) -> None:
    backbone = causal(CHUNKS, size, full_chunks=full, architecture=architecture(heads, head_dim))
    _, network = student(backbone)
    chunks, cond = chunking(backbone), text(2)
    remembered: Cond = cond
    x0, x_t = noise(2, FRAMES, CHANNELS, *size), noise(2, FRAMES, CHANNELS, *size, seed=4)
    t, r = torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.0])
    for index, span in enumerate(spans(CHUNKS)):
        where = window(CHUNKS, index + 1, full)
        forced = chunks.forced(Batch(x0, cond, cond), where)
        expected = network.mean_velocity(x_t[:, where.start : where.stop], t, r, forced.cond)
        result = network.mean_velocity(x_t[:, span], t, r, remembered)
        assert error(result, expected[:, span.start - where.start :]) < 1e-5
        if index:
            given = chunks.given(network, cond, x0[:, : span.start])
            assert error(network.mean_velocity(x_t[:, span], t, r, given), result) < 1e-5
            one, other = following(given).memory, following(remembered).memory
            assert (one.frames, one.chunks, one.compressed) == (other.frames, other.chunks, other.compressed)
            assert one.frames == span.start
        remembered = chunks.remember(network, remembered, x0[:, span])


@torch.no_grad()
def test_rows_of_a_batch_are_independent() -> None:
    backbone = causal(CHUNKS)
    _, network = student(backbone)
    x0, cond = noise(3, FRAMES, CHANNELS, 6, 10), text(3)
    t, r = torch.tensor([0.83, 0.31, 0.6]), torch.tensor([0.47, 0.0, 0.6])
    chunks, given = chunking(backbone), sum(CHUNKS[:5])
    together = chunks.given(network, cond, x0[:, :given])
    together = chunks.remember(network, together, x0[:, given : given + 1])
    expected = network.mean_velocity(x0[:, given + 1 : given + 3], t, r, together)
    forced = chunks.forced(Batch(x0, cond, cond), window(CHUNKS, 6))
    expected_forced = network.mean_velocity(forced.x0, t, r, forced.cond)
    for row in range(3):
        index = torch.tensor([row])
        alone = chunks.given(network, cond.take(index), x0[index, :given])
        alone = chunks.remember(network, alone, x0[index, given : given + 1])
        at = (t[index], r[index])
        result = network.mean_velocity(x0[index, given + 1 : given + 3], *at, alone)
        assert error(result, expected[index]) < 1e-5
        taken = together.take(index)
        assert error(network.mean_velocity(x0[index, given + 1 : given + 3], *at, taken), expected[index]) < 1e-5
        taken = forced.cond.take(index)
        assert error(network.mean_velocity(forced.x0[index], *at, taken), expected_forced[index]) < 1e-5


@torch.no_grad()
def test_conditions_with_a_past_are_joined_and_taken() -> None:
    causal_backbone, whole_backbone = causal(CHUNKS), bidirectional(FRAMES)
    x0, t = noise(4, FRAMES, CHANNELS, 6, 10), torch.tensor([0.8, 0.3, 0.9, 0.1])
    for backbone in (causal_backbone, whole_backbone):
        _, network = student(backbone)
        chunks, given = backbone.chunking(), sum(CHUNKS[:4])
        one, two = (
            chunks.given(network, text(2, seed=seed), x0[rows, :given]) for seed, rows in ((3, [0, 1]), (4, [2, 3]))
        )
        both, x = one.join(two), x0[:, given : given + 1]
        apart = [network.velocity(x[:2], t[:2], one), network.velocity(x[2:], t[2:], two)]
        assert error(network.velocity(x, t, both), torch.cat(apart)) < 1e-5
        index = torch.tensor([3, 0, 3])
        assert error(network.velocity(x[index], t[index], both.take(index)), torch.cat(apart)[index]) < 1e-5
        forced = [
            chunks.forced(Batch(x0[rows], text(2, seed=seed), text(2)), Window(0 if chunks is None else 1, 4)).cond
            for seed, rows in ((3, [0, 1]), (4, [2, 3]))
        ]
        x = x0[:, 1:4]
        apart = [network.velocity(x[:2], t[:2], forced[0]), network.velocity(x[2:], t[2:], forced[1])]
        assert error(network.velocity(x, t, forced[0].join(forced[1])), torch.cat(apart)) < 1e-5
        with pytest.raises(ValueError, match="cannot join"):
            one.join(text(2))


@torch.no_grad()
def test_a_memory_is_never_written_again() -> None:
    backbone = causal(CHUNKS)
    _, network = student(backbone)
    chunks, x0 = chunking(backbone), noise(1, FRAMES, CHANNELS, 6, 10)
    first = chunks.given(network, text(1), x0[:, :6])
    kept = [[k.clone() for k in layer.tensors()] for layer in following(first).memory.past.layers]  # type: ignore[union-attr]
    second = chunks.remember(network, first, x0[:, 6:7])
    one = network.velocity(x0[:, 7:8], torch.tensor([0.4]), second)
    chunks.remember(network, chunks.remember(network, second, x0[:, 7:8]), x0[:, 8:10])
    assert torch.equal(network.velocity(x0[:, 7:8], torch.tensor([0.4]), second), one)
    for layer, before in zip(following(first).memory.past.layers, kept, strict=True):  # type: ignore[union-attr]
        assert all(torch.equal(a, b) for a, b in zip(layer.tensors(), before, strict=True))


@torch.no_grad()
def test_guided_rollouts_remember_for_both_conditions() -> None:
    backbone = causal(CHUNKS)
    _, network = student(backbone)
    start, cond, null = noise(2, FRAMES, CHANNELS, 6, 10), text(2), text(2, seed=9)
    scale, cell = 2.5, backbone.chunking()

    class Euler(FlowMapEuler):  # type: ignore[misc]
        def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
            for t, r in itertools.pairwise(times):
                x = x - (t - r) * network.velocity(x, t.expand(len(x)), cond)
            return x

    ours = rollout(Euler(), Guided(network, scale), start, GRID, GuidedCond(cond, null), GuidedChunks(cell), draw(2))
    conds: list[Cond] = [cond, null]
    for span in spans(CHUNKS):
        x = start[:, span]
        for t, r in itertools.pairwise(GRID):
            v, v_null = (network.velocity(x, t.expand(2), c) for c in conds)
            x = x - (t - r) * (v_null + scale * (v - v_null))
        assert error(ours[:, span], x) < 1e-4
        conds = [cell.remember(network, c, x) for c in conds]


# Context frames


PIXELS = SampleSpec((81, 3, 480, 832))


def test_contexts_of_81_frames() -> None:
    far = FarWan21Config(weights="not needed")
    assert far.contexts(PIXELS) == {1: 1, 13: 4, 25: 7, 37: 10, 49: 13, 61: 16, 73: 19}
    assert Wan21Config(weights="not needed").contexts(PIXELS) == {4 * i - 3: i for i in range(1, 21)}
    chunks = far.build(PIXELS).chunking()
    for given in far.contexts(PIXELS).values():
        assert sum(chunks.sizes(21, given)) == 21 - given
    assert far.build(PIXELS).latent_shape() == (21, 16, 60, 104)


@pytest.mark.parametrize(("given", "near"), [(2, "1 or 4"), (3, "1 or 4"), (6, "4 or 7"), (20, "19$"), (21, "19$")])
def test_a_context_that_is_not_whole_chunks_is_refused(given: int, near: str) -> None:
    chunks = FarWan21Config(weights="not needed").build(PIXELS).chunking()
    with pytest.raises(FlowmapError, match=rf"{given} latent frames cannot be given.*nearest: {near}"):
        chunks.sizes(21, given)
    assert chunks.sizes(21, 4) == (3, 3, 3, 3, 3, 2)
    with pytest.raises(FlowmapError, match="make 21 latent frames, not 20"):
        chunks.sizes(20)


@pytest.mark.parametrize("given", [1, 3, 6, 10])
@torch.no_grad()
def test_a_rollout_returns_its_context_and_no_frame_is_left_out(given: int) -> None:
    for backbone in (causal(CHUNKS), bidirectional(FRAMES)):
        _, network = student(backbone)
        clean, start = noise(2, given, CHANNELS, 6, 10, seed=7), noise(2, FRAMES - given, CHANNELS, 6, 10)
        chunks = backbone.chunking()
        made = rollout(FlowMapEuler(), network, start, GRID, text(2), chunks, draw(2), context=clean)
        assert made.shape == (2, FRAMES, CHANNELS, 6, 10)
        assert torch.equal(made[:, :given], clean)
        assert float(made.abs().amax((0, 2, 3, 4)).min()) > 1e-3
        other = rollout(FlowMapEuler(), network, start, GRID, text(2), chunks, draw(2), context=clean + 0.5)
        for frame in range(given, FRAMES):
            assert not torch.equal(made[:, frame], other[:, frame])
            assert not torch.equal(made[:, frame], start[:, frame - given])


@torch.no_grad()
def test_a_context_of_generated_chunks_goes_on_as_the_rollout_did() -> None:
    backbone = causal(CHUNKS)
    _, network = student(backbone)
    start = noise(2, FRAMES, CHANNELS, 6, 10)
    made = rollout(FlowMapEuler(), network, start, GRID, text(2), chunking(backbone), draw(2))
    for given in (1, 6, 8):
        rest = start[:, given:]
        on = rollout(FlowMapEuler(), network, rest, GRID, text(2), chunking(backbone), draw(2), context=made[:, :given])
        assert error(on, made) < 1e-5


def test_frames_that_cannot_be_given_are_refused_in_a_rollout() -> None:
    backbone = causal(CHUNKS)
    _, network = student(backbone)
    with pytest.raises(FlowmapError, match="nearest: 1 or 3"):
        rollout(
            FlowMapEuler(), network, noise(1, FRAMES - 2, CHANNELS, 6, 10), GRID, text(1), chunking(backbone), draw(),
            context=noise(1, 2, CHANNELS, 6, 10),
        )  # fmt: skip


# Draws


def windows(chunks: Chunking, frames: int, count: int) -> list[Window]:
    return [chunks.window(frames, draw(4, step=step)) for step in range(count)]


def rarely(seen: int, count: int, share: float) -> bool:
    """Whether `seen` of `count` is more than 5 deviations from what a `share` gives."""
    return abs(seen - share * count) > 5 * math.sqrt(count * share * (1 - share))


def test_windows_of_chunks() -> None:
    count = 6000
    sizes = FarWan21Config(weights="not needed").chunks
    chunks = FarWan21Config(weights="not needed").build(PIXELS).chunking()
    ends = [0, *itertools.accumulate(sizes)]
    drawn = Counter(windows(chunks, 21, count))
    assert set(drawn) == {Window(ends[n - 3], ends[n]) for n in range(3, 9)}
    assert not rarely(drawn[Window(0, 7)], count, 0.5 + 0.5 / 6)
    for n in range(4, 9):
        assert not rarely(drawn[Window(ends[n - 3], ends[n])], count, 0.5 / 6)


@pytest.mark.parametrize(("share", "expected"), [(0.0, {3}), (1.0, {3, 4, 5, 6, 7, 8})])
def test_the_share_of_long_windows(share: float, expected: set[int]) -> None:
    chunks = FarWan21Config(weights="not needed", long_share=share).build(PIXELS).chunking()
    ends = [0, *itertools.accumulate(FarWan21Config(weights="not needed").chunks)]
    assert {ends.index(w.stop) for w in windows(chunks, 21, 300)} == expected


def test_short_videos_have_one_window() -> None:
    spec = SampleSpec((13, 3, 480, 832))
    chunks = FarWan21Config(weights="not needed", chunks=(1, 3)).build(spec).chunking()
    assert set(windows(chunks, 4, 100)) == {Window(0, 4)}


def test_windows_are_the_same_in_all_processes() -> None:
    for config in (FarWan21Config(weights="not needed"), Wan21Config(weights="not needed", first_frame=0.5)):
        chunks = config.build(PIXELS).chunking()
        for step in range(50):
            whole = draw(8, step=step)
            parts = [whole.part(first, 4) for first in (0, 4)]
            assert {chunks.window(21, part) for part in parts} == {chunks.window(21, whole)}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_given_first_frames(share: float) -> None:
    chunks = Wan21Config(weights="not needed", first_frame=share).build(PIXELS).chunking()
    drawn = Counter(windows(chunks, 21, 2000))
    assert set(drawn) <= {Window(0, 21), Window(1, 21)}
    assert not rarely(drawn[Window(1, 21)], 2000, share)
    assert chunks.window(1, draw()) == Window(0, 1)


@torch.no_grad()
def test_training_given_the_first_frame() -> None:
    backbone = bidirectional(4, first_frame=1.0)
    _, network = student(backbone)
    x0, cond = noise(2, 4, CHANNELS, 6, 10), text(2)
    forced = backbone.chunking().forced(Batch(x0, cond, cond), Window(1, 4))
    assert torch.equal(forced.x0, x0[:, 1:])
    given = backbone.chunking().given(network, cond, x0[:, :1])
    t, x = torch.tensor([0.8, 0.2]), noise(2, 3, CHANNELS, 6, 10, seed=4)
    assert torch.equal(network.velocity(x, t, forced.cond), network.velocity(x, t, given))


# Cost


@pytest.mark.parametrize("count", [8, 16, 32])
@torch.no_grad()
def test_what_remembering_costs(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks, fine, coarse, size = (2,) * count, 4, 1, 2
    backbone = causal(chunks, (4, 4), architecture=architecture(layers=1))
    _, network = student(backbone)
    read, made = [], []
    cond: Cond = text(1)
    for index in range(count):
        x = noise(1, size, CHANNELS, 4, 4, seed=index)
        with monkeypatch.context() as patch:
            asked = seen(patch)
            network.velocity(x, torch.tensor([0.5]), cond)
            made += [call[1:] for call in asked if call[2] != 5]
        with monkeypatch.context() as patch:
            asked = seen(patch)
            cond = chunking(backbone).remember(network, cond, x)
            read += [call[1:] for call in asked]
    per = size * fine
    for done in range(1, count + 1):
        old = max(0, done - 2)
        # Two chunks in full and the one that is compressed now: the same from the third chunk on.
        assert read[done - 1][0] == (min(done, 2) * per + (size * coarse if old else 0))
        assert read[done - 1][1] == min(done, 2) * per + old * size * coarse
        assert made[done - 1] == (per, per + min(done - 1, 2) * per + max(0, done - 3) * size * coarse)
    assert len({queries for queries, _ in read[2:]}) == 1
    growth = {after[1] - before[1] for before, after in itertools.pairwise(read[2:])}
    assert growth == {size * coarse}
