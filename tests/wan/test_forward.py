"""The forward pass, its mask and its rotary positions are those of diffusers' AnyFlow models."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_anyflow import apply_rotary_emb
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowCausalRotaryPosEmbed
from flowmap_wan import attention
from flowmap_wan.rotary import box, joined, rotated, turn
from flowmap_wan.sight import Run, Sight, blocks, table
from torch import Tensor

from flowmap.interfaces import Batch, Window
from flowmap.maths.path import noised
from flowmap.networks.tangent import tangent
from flowmap.schema.settings import TangentConfig
from flowmap.workshop.backbone import ModuleBackbone

from .support import (
    CHANNELS,
    SIZES,
    architecture,
    bidirectional,
    causal,
    chunking,
    diffusers_twin,
    error,
    lora,
    module,
    noise,
    student,
    text,
)

CHUNKS = (1, 2, 1, 2, 1, 1, 2, 1)
TOKENS = 5  # of a text
# diffusers' flex attention on a CPU is for tests only, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*flex_attention:UserWarning")


def scaled(t: Tensor, frames: int) -> Tensor:
    """Times as diffusers' models take them."""
    return 1000 * (t if t.ndim == 2 else t[:, None].expand(-1, frames))


def window(chunks: tuple[int, ...], count: int, full: int = 3) -> Window:
    return Window(sum(chunks[: max(0, count - full)]), sum(chunks[:count]))


@pytest.mark.parametrize(("size", "heads", "head_dim"), [((6, 10), 3, 12), ((4, 4), 4, 20), ((8, 12), 2, 32)])
@torch.no_grad()
def test_bidirectional(size: tuple[int, int], heads: int, head_dim: int) -> None:
    role, network = student(bidirectional(5, size, architecture=architecture(heads, head_dim)))
    theirs, cond, x = diffusers_twin(role), text(2), noise(2, 5, CHANNELS, *size)
    for t, r in (
        (torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.0])),
        (noise(2, 5).sigmoid(), 0.2 * noise(2, 5, seed=2).sigmoid()),
        (torch.ones(2), torch.zeros(2)),
    ):
        expected = theirs(x, scaled(t, 5), scaled(r, 5), cond.text, return_dict=False)[0]
        assert error(network.mean_velocity(x, t, r, cond), expected) < 1e-5


@pytest.mark.parametrize(
    ("count", "size", "heads", "head_dim"),
    [(n, (6, 10), 3, 12) for n in (1, 3, 4, 6, 8)] + [(7, (4, 4), 4, 20), (5, (8, 12), 2, 32)],
)
@torch.no_grad()
def test_teacher_forcing(count: int, size: tuple[int, int], heads: int, head_dim: int) -> None:
    backbone = causal(CHUNKS, size, architecture=architecture(heads, head_dim))
    role, network = student(backbone)
    theirs, cond = diffusers_twin(role), text(2)
    x0, where = noise(2, sum(CHUNKS), CHANNELS, *size), window(CHUNKS, count)
    forced = chunking(backbone).forced(Batch(x0, cond, cond), where)
    frames, given = where.stop - where.start, where.start
    for t, r in (
        (torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.0])),
        (noise(2, frames).sigmoid(), 0.2 * noise(2, frames, seed=2).sigmoid()),
    ):
        x_t = noised(forced.x0, noise(*forced.x0.shape, seed=4), t)
        zeros = torch.zeros(2, given)
        expected = theirs(
            torch.cat([x0[:, :given], x_t], 1),
            torch.cat([zeros, scaled(t, frames)], 1),
            torch.cat([zeros, scaled(r, frames)], 1),
            cond.text,
            list(CHUNKS[:count]),
            clean_hidden_states=forced.x0,
            clean_timestep=torch.zeros(2, frames),
            return_dict=False,
        )[0]
        assert error(network.mean_velocity(x_t, t, r, forced.cond), expected) < 1e-5


@torch.no_grad()
def test_one_chunk_of_a_causal_model_is_bidirectional() -> None:
    role, network = student(causal((1, 2, 2)))
    theirs, cond, x = diffusers_twin(role), text(2), noise(2, 5, CHANNELS, 6, 10)
    t, r = torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.0])
    expected = theirs(x, scaled(t, 5), scaled(r, 5), cond.text, [5], return_dict=False)[0]
    assert error(network.mean_velocity(x, t, r, cond), expected) < 1e-5


@torch.no_grad()
def test_a_given_frame_is_clean_in_both_times() -> None:
    backbone = bidirectional(5)
    role, network = student(backbone)
    theirs, cond, x = diffusers_twin(role), text(2), noise(2, 5, CHANNELS, 6, 10)
    t, r = torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.1])
    clean = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
    times = (scaled(t, 5) * clean, scaled(r, 5) * clean)
    expected = theirs(x, *times, cond.text, return_dict=False)[0][:, 2:]
    given = backbone.chunking().given(network, cond, x[:, :2])
    assert error(network.mean_velocity(x[:, 2:], t, r, given), expected) < 1e-5


@torch.no_grad()
def test_a_jump_takes_each_sample_and_frame_at_its_own_times() -> None:
    _, network = student(bidirectional(3))
    x, cond = noise(2, 3, CHANNELS, 6, 10), text(2)
    t, r = torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.1])
    jumped = network.jump(x, t, r, cond)
    for row in range(2):
        index = torch.tensor([row])
        alone = network.mean_velocity(x[index], t[index], r[index], cond.take(index))
        assert error(jumped[index], x[index] - (t[row] - r[row]) * alone) < 1e-5
    t, r = noise(2, 3).sigmoid(), 0.2 * noise(2, 3, seed=2).sigmoid()
    step = (t - r)[:, :, None, None, None]
    assert error(network.jump(x, t, r, cond), x - step * network.mean_velocity(x, t, r, cond)) < 1e-5


# Who sees whom


def brute(tokens: list[tuple[int, bool]], keys: list[tuple[int, bool]]) -> Tensor:
    """FAR's rule, in words: clean tokens see clean ones up to their own chunk; noised ones see their own chunk's
    noised ones and the clean ones of earlier chunks."""
    table = torch.zeros(len(tokens), len(keys), dtype=torch.bool)
    for q, (chunk, is_noised) in enumerate(tokens):
        for k, (other, other_noised) in enumerate(keys):
            if is_noised and other_noised:
                table[q, k] = chunk == other
            elif is_noised:
                table[q, k] = other < chunk
            elif not other_noised:
                table[q, k] = other <= chunk
    return table


def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor | None, int, int]]:
    """What attention over video is asked to show, and how many queries and keys it has."""
    asked: list[tuple[Tensor | None, int, int]] = []
    real = attention.attend

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if k.shape[2] != TOKENS:
            asked.append((mask, q.shape[2], k.shape[2]))
        return real(q, k, v, mask)

    monkeypatch.setattr(attention, "attend", attend)
    return asked


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [2, 3, 5, 7])
@torch.no_grad()
def test_the_mask_of_training(count: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = causal(CHUNKS, size, architecture=architecture(layers=1), attention="dense")
    role, network = student(backbone)
    asked, where = seen(monkeypatch), window(CHUNKS, count)
    x0 = noise(1, sum(CHUNKS), CHANNELS, *size)
    forced = chunking(backbone).forced(Batch(x0, text(1), text(1)), where)
    network.velocity(forced.x0, torch.tensor([0.5]), forced.cond)
    ((table, queries, keys),) = asked
    assert table is not None
    patch = SIZES[size]
    fine, coarse = size[0] * size[1] // 4, size[0] * size[1] // (patch[1] * patch[2])
    old = max(0, count - 3)
    tokens = [(c, False) for c in range(old) for _ in range(CHUNKS[c] * coarse)]
    for is_noised in (True, False):
        tokens += [(c, is_noised) for c in range(old, count) for _ in range(CHUNKS[c] * fine)]
    assert queries == keys == len(tokens)
    assert torch.equal(table, brute(tokens, tokens))
    mask = diffusers_twin(role).build_attention_mask(
        chunk_partition=list(CHUNKS[:count]), height=size[0], width=size[1], has_clean_context=True, device="cpu"
    )
    zero, index = torch.tensor(0), torch.arange(len(tokens))
    assert torch.equal(table, mask.mask_mod(zero, zero, index[:, None], index[None, :]))


@pytest.mark.parametrize("full", [2, 3])
@torch.no_grad()
def test_the_mask_of_reading(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = causal(CHUNKS, (8, 12), architecture=architecture(layers=1), full_chunks=full, attention="dense")
    role, network = student(backbone)
    fine, coarse, kept = 24, 6, full - 1
    cond, x0 = text(1), noise(1, sum(CHUNKS), CHANNELS, 8, 12)
    for done in range(1, len(CHUNKS)):
        with monkeypatch.context() as patch:
            asked = seen(patch)
            chunk = x0[:, sum(CHUNKS[: done - 1]) : sum(CHUNKS[:done])]
            cond = chunking(backbone).remember(network, cond, chunk)  # type: ignore[assignment]
        ((table, queries, keys),) = asked
        assert table is not None
        old = max(0, done - kept)
        everything = [(c, False) for c in range(old) for _ in range(CHUNKS[c] * coarse)]
        everything += [(c, False) for c in range(old, done) for _ in range(CHUNKS[c] * fine)]
        assert keys == len(everything)
        assert torch.equal(table, brute(everything[-queries:], everything))
        mask = diffusers_twin(role).build_attention_mask(
            chunk_partition=list(CHUNKS[:done]), height=8, width=12, device="cpu", mode="cache"
        )
        zero, index = torch.tensor(0), torch.arange(keys)
        theirs = mask.mask_mod(zero, zero, index[:, None], index[None, :])
        assert torch.equal(table, theirs[-queries:])


@pytest.mark.parametrize("head_dim", [20, 32])
@torch.no_grad()
def test_all_ways_of_causal_attention_are_one(head_dim: int) -> None:
    results = []
    for kernel in ("dense", "flex", "parts"):
        backbone = causal(CHUNKS, (6, 10), architecture=architecture(2, head_dim), attention=kernel)
        _, network = student(backbone)
        cond, x0 = text(2), noise(2, sum(CHUNKS), CHANNELS, 6, 10)
        forced = chunking(backbone).forced(Batch(x0, cond, cond), window(CHUNKS, 5))
        t, r = torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.0])
        results += [[network.mean_velocity(forced.x0, t, r, forced.cond)]]
        read = chunking(backbone).given(network, cond, x0[:, : sum(CHUNKS[:5])])
        read = chunking(backbone).remember(network, read, x0[:, sum(CHUNKS[:5]) : sum(CHUNKS[:6])])
        results[-1] += [network.mean_velocity(x0[:, -2:], t, r, read)]
    for other in results[1:]:
        assert error(other[0], results[0][0]) < 1e-5
        assert error(other[1], results[0][1]) < 1e-5


def test_flex_attention_stays_compiled_for_many_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    attention._flex.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        attention._flex()
    torch._dynamo.reset()
    shapes = [20 + 3 * i for i in range(9)]

    def call(length: int) -> None:
        x, clean = noise(1, 1, length, 16), (Run(0, length // 2), Run(1, length - length // 2))
        sight = Sight(clean, clean)
        with torch.no_grad():
            ours = attention.attend(x, x, x, blocks(sight, x.device))
        assert error(ours, attention.attend(x, x, x, table(sight, x.device))) < 1e-5

    try:
        for length in shapes:
            call(length)
        # On a GPU, backward recomputes in a thread of its own.
        thread = threading.Thread(target=call, args=(shapes[-1] + 3,))
        thread.start()
        thread.join()
        assert len(compiled) == len(shapes) + 1
    finally:
        attention._flex.cache_clear()
        torch._dynamo.reset()


# Rotary positions


@pytest.mark.parametrize(
    ("size", "head_dim"), [((6, 10), 12), ((6, 10), 16), ((4, 4), 20), ((8, 12), 32), ((60, 104), 128)]
)
@pytest.mark.parametrize(("coarse", "fine"), [(0, 3), (4, 3)])
def test_rotary_positions(
    coarse: int, fine: int, size: tuple[int, int], head_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = SIZES.get(size, (1, 4, 4))
    far = AnyFlowCausalRotaryPosEmbed(head_dim, (1, 2, 2), patch, 1024)
    shapes = {"full": (size[0] // 2, size[1] // 2), "compressed": (size[0] // patch[1], size[1] // patch[2])}
    layout = {
        "total_frames": coarse + fine,
        "num_compressed_frames": coarse,
        "full_frame_shape": shapes["full"],
        "compressed_frame_shape": shapes["compressed"],
    }
    theirs = far(layout, torch.device("cpu"), clean_hidden_states=True)["query"]
    parts = [box(coarse, fine, *shapes["full"])] * 2
    if coarse:
        parts.insert(0, box(0, coarse, *shapes["compressed"], (patch[1] // 2, patch[2] // 2)))
    ours = joined([turn(part, head_dim, torch.device("cpu")) for part in parts])
    assert theirs.dtype == torch.complex128
    assert ours.dtype == torch.float32
    assert float((torch.view_as_complex(ours) - theirs[0, 0]).abs().max()) < 1e-6
    x = noise(1, 2, theirs.shape[2], head_dim)
    assert error(rotated(x, ours), apply_rotary_emb(x, theirs)) < 1e-5
    # What compilers are given.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert error(rotated(x, ours), apply_rotary_emb(x, theirs)) < 1e-5


# Times


def near(backbone: ModuleBackbone, mixed: bool) -> list[dict[str, Tensor]]:
    """The embeddings of t = 0.7001 and 0.7002 (and half of that for r)."""
    role, network = student(backbone)
    embedder = module(role).transformer.condition_embedder
    found: list[dict[str, Tensor]] = []
    for name in ("time_embedder", "delta_embedder"):
        getattr(embedder, name).register_forward_hook(lambda m, i, o, name=name: found[-1].update({name: o.detach()}))
    for t in (0.7001, 0.7002):
        found.append({})
        times = torch.full((1,), t)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            y = network.mean_velocity(noise(1, 3, CHANNELS, 6, 10), times, times / 2, text(1))
        assert y.dtype == torch.float32
        found[-1]["y"] = y.detach()
    return found


@pytest.mark.parametrize("adapted", [False, True])
def test_times_are_exact_under_mixed_precision(adapted: bool) -> None:
    config = lora() if adapted else None
    one, two = near(bidirectional(lora=config), mixed=True)
    exact, exact_two = near(bidirectional(lora=config), mixed=False)
    for name in ("time_embedder", "delta_embedder"):
        assert one[name].dtype == torch.float32
        assert torch.equal(one[name], exact[name])
        assert torch.equal(two[name], exact_two[name])
        assert float((one[name] - two[name]).abs().max()) > 1e-3
    assert not torch.equal(one["y"], two["y"])


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_the_forward_derivative_leaves_nothing_behind(forced: bool) -> None:
    turn.cache_clear()
    backbone = causal((1, 2, 2), gradient_checkpointing=True)
    role, network = student(backbone, size=0.02)
    cond, x0 = text(2), noise(2, 5, CHANNELS, 6, 10)
    if forced:
        cond = chunking(backbone).forced(Batch(x0, cond, cond), Window(0, 5)).cond  # type: ignore[assignment]
    t, r, v = torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.0]), noise(2, 5, CHANNELS, 6, 10, seed=9)
    along = tangent(network, x0, t, r, v, cond, TangentConfig(method="jvp"))
    u = network.mean_velocity(x0, t, r, cond)
    u.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in role.own.values() if p.grad is not None)
    turn.cache_clear()
    assert torch.equal(network.mean_velocity(x0, t, r, cond), u)
    difference = tangent(network, x0, t, r, v, cond, TangentConfig(method="central", step=1e-4, batched=False))
    assert float((along - difference).abs().max() / along.abs().max()) < 2e-2
