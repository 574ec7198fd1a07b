"""Rollouts whose backward makes the chunks again: the gradients, calls and lifetimes of those that hold every graph."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from flowmap_samplers.samplers import ConsistencyMultistep, FlowMapEuler
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, Chunking, Cond, FlowMap, Role, Sampler, Velocity, Window, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.maths.path import like
from flowmap.networks.rollout import rollout
from flowmap.training.ledger import Ledger

from .support import whole

SIZES = (1, 2, 1, 2)
FRAMES = sum(SIZES)
TIMES = torch.tensor([1.0, 0.6, 0.0]).double()


class Past(Cond):
    """The clean frames so far `[B, f, D]`; whoever reads them adds a number to each."""

    def __init__(self, frames: Tensor) -> None:
        self.frames = frames

    def take(self, index: Tensor) -> Past:
        return Past(self.frames[index])

    def join(self, other: Past) -> Past:
        return Past(torch.cat([self.frames, other.frames]))


class Recalling(FlowMap):
    """tanh(x W cos 2t + sin 3r + what the past makes of itself)."""

    def __init__(self, module: nn.Linear) -> None:
        self.module = module

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        assert isinstance(cond, Past)
        past = self.module(cond.frames).square().sum(1, keepdim=True)
        return torch.tanh(self.module(x) * torch.cos(2 * like(t, x)) + torch.sin(3 * like(r, x)) + past)


class Remembering(Chunking):
    """Chunks of `SIZES`; every memory is noted weakly."""

    def __init__(self) -> None:
        self.memories: list[weakref.ref[Past]] = []

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        ends = [sum(SIZES[:i]) for i in range(len(SIZES))]
        if given not in ends:
            raise FlowmapError("no chunk ends there")
        return SIZES[ends.index(given) :]

    def window(self, frames: int, draw: Draw) -> Window:
        raise NotImplementedError

    def forced(self, batch: Batch, window: Window) -> Batch:
        raise NotImplementedError

    def whole(self, batch: Batch) -> Batch:
        raise NotImplementedError

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        return self.remember(network, cond, frames)

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        assert not torch.is_grad_enabled()
        assert isinstance(cond, Past)
        network.velocity(chunk, torch.zeros(len(chunk)), cond)
        memory = Past(torch.cat([cond.frames, chunk], dim=1))
        self.memories.append(weakref.ref(memory))
        return memory

    def alive(self) -> int:
        return sum(memory() is not None for memory in self.memories)


def role(seed: int = 0) -> Role:
    generator = torch.Generator().manual_seed(seed)
    module = nn.Linear(2, 2).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return Role("student", Recalling(module), module, dict(module.named_parameters()))


def start(frames: int = FRAMES) -> Tensor:
    return whole(3).normal("start", (FRAMES, 2)).double()[:, -frames:]


def rolled(student: Role, sampler: Sampler, chunking: Chunking | None = None, **fields: Any) -> Tensor:
    noise, context = fields.pop("noise", start()), fields.get("context")
    noise = noise[:, context.shape[1] :] if context is not None else noise
    cond = Past(torch.zeros(3, 0, 2).double())
    return rollout(
        sampler, student.network, noise, TIMES, cond, chunking or Remembering(), whole(3, turn="rollout"), **fields
    )


def slope_of(out: Tensor) -> Tensor:
    return whole(3).normal("slope", (FRAMES, 2)).double()[:, : out.shape[1]]


def differentiated(student: Role, sampler: Sampler, **fields: Any) -> tuple[Tensor, list[Tensor | None]]:
    student.module.zero_grad(set_to_none=True)
    out = rolled(student, sampler, **fields)
    if out.requires_grad:
        (out * slope_of(out)).sum().backward()
    return out.detach(), [parameter.grad for parameter in student.own.values()]


SAMPLERS = pytest.mark.parametrize("sampler", [FlowMapEuler(), ConsistencyMultistep()], ids=["flow_map", "consistency"])


@SAMPLERS
@pytest.mark.parametrize("stop", [None, 3, 4])
@pytest.mark.parametrize("still", [0, 1, 3, 4, 6])
@pytest.mark.parametrize("given", [0, 1, 3])
def test_replayed_gradients_are_those_of_graphs_that_are_held(
    sampler: Sampler, stop: int | None, still: int, given: int
) -> None:
    student = role()
    fields = {"stop": stop, "still": still, "context": start()[:, :given] if given else None}
    held, expected = differentiated(student, sampler, **fields)
    replayed, ours = differentiated(student, sampler, replay=True, **fields)
    assert torch.equal(held, replayed)
    for mine, theirs in zip(ours, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@SAMPLERS
def test_the_gradient_of_the_noise_is_replayed_too(sampler: Sampler) -> None:
    student, found = role(), []
    for replay in (False, True):
        noise = start().requires_grad_()
        out = rolled(student, sampler, noise=noise, still=1, replay=replay)
        (out * slope_of(out)).sum().backward()
        assert noise.grad is not None
        found.append(noise.grad)
    assert bool(found[0][:, 1:].any())
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_a_replay_adds_to_the_gradients_that_are_there() -> None:
    student = role()
    _, once = differentiated(student, FlowMapEuler())
    twice = [2 * grad for grad in once if grad is not None]
    rolled(student, FlowMapEuler(), replay=True).backward(slope_of(start()))
    torch.testing.assert_close([p.grad for p in student.own.values()], twice)


def test_nothing_is_replayed_where_no_gradient_is_wanted() -> None:
    student = role()
    with torch.no_grad():
        assert not rolled(student, FlowMapEuler(), replay=True).requires_grad
    student.freeze()
    rolled(student, FlowMapEuler(), replay=True).sum().backward()
    assert all(parameter.grad is None for parameter in student.own.values())


CALLS: dict[str, tuple[dict[str, Any], tuple[int, int], tuple[int, int]]] = {
    # Four chunks of two calls each, and a memory after each but the last.
    "held": ({"replay": False}, (8, 3), (8, 3)),
    "all replayed": ({"replay": True}, (0, 8 + 3), (8, 8 + 3 + 3)),
    # The frames before the first chunk with gradient are read again in one call.
    "two replayed": ({"replay": True, "still": 3}, (0, 8 + 3), (4, 8 + 3 + 1 + 1)),
    "one chunk has a gradient: its graph is held": ({"replay": True, "still": 4}, (2, 6 + 3), (2, 6 + 3)),
    "up to a stop": ({"replay": True, "stop": 3}, (0, 4 + 1), (4, 4 + 1 + 1)),
    "after a context": ({"replay": True, "context": start()[:, :3]}, (0, 1 + 4 + 1), (4, 1 + 4 + 1 + 1 + 1)),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_calls_of_a_replay(name: str) -> None:
    fields, made, after = CALLS[name]
    ledger = Ledger()
    student = ledger.watch([role()], ["student"])["student"]
    out = rolled(student, FlowMapEuler(), **fields)
    calls = ledger.calls["student"]
    assert (calls.grad, calls.no_grad) == made
    out.sum().backward()
    assert (calls.grad, calls.no_grad) == after
    assert (calls.grad_samples, calls.no_grad_samples) == (3 * after[0], 3 * after[1])


class Saved:
    """A tensor that a graph holds."""

    def __init__(self, value: Tensor) -> None:
        # Not the output of the node that holds it: that would be a ring.
        self.value = value.detach()


@contextmanager
def graphs() -> Iterator[weakref.WeakSet[Saved]]:
    """What graphs hold that are made within this context."""
    held: weakref.WeakSet[Saved] = weakref.WeakSet()

    def pack(value: Tensor) -> Saved:
        saved = Saved(value)
        held.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.value):
        yield held


@pytest.mark.parametrize("still", [0, 3])
def test_one_graph_and_one_memory_are_alive_at_a_time(still: int) -> None:
    student, chunking = role(), Remembering()
    lived: list[tuple[bool, int, int]] = []

    class Watched(FlowMap):
        def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
            lived.append((torch.is_grad_enabled(), len(held), chunking.alive()))
            return as_flow_map(student.network).mean_velocity(x, t, r, cond)

    with graphs() as held:
        watched = Role("student", Watched(), student.module, student.own)
        out = rolled(watched, FlowMapEuler(), chunking, still=still, replay=True)
        assert len(held) == 0
        assert chunking.alive() == 0
        lived.clear()
        out.sum().backward()
        assert len(held) == 0
        assert chunking.alive() == 0
    graded = [(graph, memories) for grad, graph, memories in lived if grad]
    one_call = max(graph for graph, _ in graded)
    # Two calls a chunk: the first finds no graph, the second that of the first.
    assert [graph for graph, _ in graded] == [0, one_call] * (len(graded) // 2)
    assert one_call > 0
    assert max(memories for _, memories in graded) == 1


def test_graphs_that_are_held_are_seen_by_that_test() -> None:
    with graphs() as held:
        one = rolled(role(), FlowMapEuler(), stop=1)
        count = len(held)
        del one
        assert len(held) == 0
        out = rolled(role(), FlowMapEuler())
        assert len(held) == len(SIZES) * count
        del out


def chunks_of(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[: i + 1]) for i in range(len(sizes))]


@pytest.mark.parametrize("stop", range(1, FRAMES + 1))
def test_the_last_chunk_is_the_one_that_reaches_the_stop(stop: int) -> None:
    out = rolled(role(), FlowMapEuler(), stop=stop)
    assert out.shape[1] == next(end for end in chunks_of(SIZES) if end >= stop)
    assert torch.equal(out, rolled(role(), FlowMapEuler())[:, : out.shape[1]])
