"""The rules of other projects' causal students: each, broken, shows; and those that no golden file has, by twins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers.models.transformers.transformer_wan as diffusers_wan
import flowmap_wan.writing
import pytest
import torch
from diffusers import WanTransformer3DModel
from flowmap_wan.causal_configs import CausalConfig, CausalWan21Config, CausalWan22Config
from flowmap_wan.condition import VideoCond
from flowmap_wan.foreign import foreign_at
from flowmap_wan.memory import Following, tensors
from flowmap_wan.pieces import Piece
from torch import Tensor
from torch.nn import functional as F

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, EncodedText, Samples, Window
from flowmap.plugin import SampleSpec
from flowmap.testing import check_backbone

from .rivals import SAMPLERS, built, condition_of, config_of, golden, network_of, off, role_of, sampled
from .support import CHANNELS, TEXT, architecture, draw, lora, noise


def made(name: str, folder: Path, given: int = 0, **fields: Any) -> Tensor:
    of = golden(name)
    sampler = SAMPLERS[name].model_copy(update=fields.pop("sampler", {}))
    backbone = built(config_of(name, of.write(folder), **fields))
    return sampled(of, backbone, network_of(role_of(backbone)), sampler=sampler, given=given)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("self_forcing_window", {"window": None}),
        ("self_forcing_window", {"window": 12}),
        ("self_forcing_sink", {"sink": 0}),
        ("self_forcing_sink", {"window": 9}),
        ("causvid", {"sampler": {"levels": "exact"}}),
        ("causvid_warp4", {"sampler": {"warped": False}}),
        ("causal_wan22_t2v", {"shared_text_keys": False}),
        ("causal_wan22_t2v", {"boundary": 950}),
        ("krea", {"keep_first_frame": True}),
        ("krea_keep_first", {"context_frames": 4}),
    ],
    ids=str,
)
def test_a_rule_that_is_broken_shows(name: str, broken: dict[str, Any], tmp_path: Path) -> None:
    assert off(made(name, tmp_path, **broken), golden(name).held["latents"]) > 2e-4


def test_finished_frames_are_written_at_time_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*given: Any, **named: Any) -> Piece:
        piece: Piece = flowmap_wan.pieces.clean(*given, **named)
        return replace(piece, t=piece.t + 0.625)

    monkeypatch.setattr(flowmap_wan.writing, "clean", late)
    assert off(made("self_forcing_first", tmp_path), golden("self_forcing_first").held["latents"]) > 1e-2


@pytest.mark.parametrize("name", ["self_forcing", "self_forcing_window", "self_forcing_sink", "causvid"])
@pytest.mark.parametrize("given", [1, 4])
def test_given_frames_are_written_as_if_they_had_been_made(name: str, given: int, tmp_path: Path) -> None:
    # Four chunks in one call: of a window of 7 or 9 frames the first of them see less than the last.
    assert off(made(name, tmp_path, given), golden(name).held["latents"]) < 2e-5


@pytest.mark.parametrize("fields", [{}, {"window": 9}, {"window": 7, "sink": 2}, {"first_chunk": 1}], ids=str)
def test_teacher_forcing_is_generation_after_the_same_frames(fields: dict[str, Any], tmp_path: Path) -> None:
    of = golden("self_forcing")
    backbone = built(config_of(of.name, of.write(tmp_path), **fields))
    network, chunking, text = network_of(role_of(backbone)), backbone.chunking(), condition_of(of, backbone)
    count = 13 if fields.get("first_chunk") else 15
    clean, x = of.held["latents"][:, :count], of.held["noise"][:, :count]
    t, begin = torch.tensor([0.7, 0.3]), 0
    with torch.no_grad():
        forced = chunking.forced(Batch(clean, text, text), Window(0, count))
        whole = network.velocity(x, t, forced.cond)
        after = text
        for size in chunking.sizes(count):
            part = slice(begin, begin + size)
            assert off(whole[:, part], network.velocity(x[:, part], t, after)) < 1e-5
            after, begin = chunking.remember(network, after, clean[:, part]), begin + size


def test_what_is_remembered_is_each_samples_own(tmp_path: Path) -> None:
    of = golden("self_forcing")
    backbone = built(config_of(of.name, of.write(tmp_path)))
    network, text, x = network_of(role_of(backbone)), condition_of(of, backbone), of.held["noise"][:, 6:9]
    t = torch.tensor([0.7, 0.3])
    with torch.no_grad():
        after = backbone.chunking().given(network, text, of.held["latents"][:, :6])
        both, turned = network.velocity(x, t, after), torch.tensor([1, 0])
        assert off(network.velocity(x[turned], t[turned], after.take(turned)), both[turned]) < 1e-6
        one, other = after.take(torch.tensor([0])), after.take(torch.tensor([1]))
        assert off(network.velocity(x, t, one.join(other)), both) < 1e-6
    assert off(network.velocity(x, t, text).detach(), both) > 1e-2


def test_a_window_lets_go_of_what_it_no_longer_sees(tmp_path: Path) -> None:
    of = golden("self_forcing_sink")
    backbone = built(config_of(of.name, of.write(tmp_path)))
    network, chunking, after = network_of(role_of(backbone)), backbone.chunking(), condition_of(of, backbone)
    held = []
    with torch.no_grad():
        for chunk in of.held["latents"].split(3, dim=1):
            after = chunking.remember(network, after, chunk)
            assert isinstance(after.view, Following)  # type: ignore[attr-defined]
            past = after.view.memory.past  # type: ignore[attr-defined]
            held.append([run.frame for run in past.runs])
            assert sum(keys.shape[2] for keys in past.layers[0].keys) == 4 * len(held[-1])
            # What is no longer seen is let go of, and not held by a view.
            for kept in past.layers[0].tensors():
                assert kept.untyped_storage().nbytes() == kept.nbytes
    # The chunk that ends at e sees frames 0 and 1, and those from e - 5.
    assert held[:4] == [[0, 1, 2], [0, 1, 4, 5], [0, 1, 7, 8], [0, 1, 10, 11]]


@pytest.mark.parametrize("name", ["self_forcing", "causal_wan22_t2v"])
def test_a_longer_memory_has_no_copy_of_the_shorter_one(name: str, tmp_path: Path) -> None:
    """Of two 14B networks and 81 frames a copy is 46 GB: with it no GPU of 140 GB made such a video."""
    of = golden(name)
    backbone = built(config_of(of.name, of.write(tmp_path)))
    network, chunking, after = network_of(role_of(backbone)), backbone.chunking(), condition_of(of, backbone)
    held: set[int] = set()
    with torch.no_grad():
        latents = of.held["latents"]
        for chunk in latents.split(chunking.sizes(latents.shape[1]), dim=1):
            after = chunking.remember(network, after, chunk)
            assert isinstance(after.view, Following)  # type: ignore[attr-defined]
            there = {x.data_ptr() for x in tensors(after.view.memory)}  # type: ignore[attr-defined]
            assert held < there
            held = there


def uncached(of_file: Path, x: Tensor, t: Tensor, text: Tensor, seen: Tensor, zeros: Tensor) -> Tensor:
    """diffusers' own Wan on frames `x` `[1, F, C, H, W]` at times `t` `[F]`, of which each sees those in `seen`.

    Beside them frame i sees `zeros[i]` tokens whose keys and values are 0.
    """
    foreign = foreign_at(of_file)
    assert foreign is not None
    model = WanTransformer3DModel.from_config(dict(foreign.sizes(16)))
    model.load_state_dict(foreign.read(16), strict=True)
    cells = x.shape[3] * x.shape[4] // 4
    mask = seen.repeat_interleave(cells, 0).repeat_interleave(cells, 1)
    most = int(zeros.max())
    mask = torch.cat([mask, torch.arange(most)[None] < zeros.repeat_interleave(cells)[:, None]], dim=1)

    def attention(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        own = q.shape[1] == k.shape[1]
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if own and most:
            k, v = (F.pad(part, (0, 0, 0, most)) for part in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask if own else None).transpose(1, 2)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(diffusers_wan, "dispatch_attention_fn", attention)
        times = (1000 * t).repeat_interleave(cells)[None]
        result: Tensor = model(x.transpose(1, 2), times, text, return_dict=False)[0]
    return result.transpose(1, 2)


@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.parametrize("padded", [True, False])
def test_recomputed_frames_are_an_uncached_pass(count: int, padded: bool, tmp_path: Path) -> None:
    of = golden("krea")
    file = of.write(tmp_path)
    config = config_of("krea", file, context_frames=count, padded_attention=padded)
    assert isinstance(config, CausalWan21Config)
    backbone = built(config)
    network, text = network_of(role_of(backbone)), condition_of(of, backbone)
    anew = noise(1, 1, 16, 4, 4, seed=8)
    asked: list[Tensor] = []

    def reencoded(frames: Tensor) -> Tensor:
        asked.append(frames)
        return anew

    chunking = config.splitting(reencoded)
    done, x, t = of.held["latents"][:, :12], of.held["noise"][:, 12:], 0.7
    after = text
    with torch.no_grad():
        for chunk in done.split(3, dim=1):
            after = chunking.remember(network, after, chunk)
        ours = network.velocity(x, torch.tensor([t]), after)
    # Before chunk 4, 9 frames or more lie behind the first: the newest, the oldest of which is encoded anew.
    assert torch.equal(asked[-1], done[:, : 12 - count + 1])
    frames = torch.cat([anew, done[:, 12 - count + 1 :], x], dim=1)
    block = torch.tensor([*(frame // 3 for frame in range(count)), 99, 99, 99])
    zeros = torch.zeros(count + 3, dtype=torch.long)
    if padded and count % 3:
        zeros[count // 3 * 3 : count] = min(4 * (3 - count % 3), 128 - 4 * count)
    times = torch.tensor([0.0] * count + [t] * 3)
    theirs = uncached(file, frames, times, of.held["text"], block[:, None] >= block[None, :], zeros)[:, count:]
    assert off(ours, theirs) < 2e-5
    if count % 3:
        other = uncached(file, frames, times, of.held["text"], block[:, None] >= block[None], zeros * 0)[:, count:]
        assert (off(ours, other) > 1e-3) == padded


def test_recomputed_frames_begin_with_the_videos_first(tmp_path: Path) -> None:
    of = golden("krea")
    config = config_of("krea", of.write(tmp_path), context_frames=5)
    network = network_of(role_of(built(config)))
    text = condition_of(of, built(config))
    seen = []
    for frames in (3, 6):
        with torch.no_grad():
            after = config.splitting(lambda frames: frames[:, :0]).given(network, text, of.held["latents"][:, :frames])
        seen.append(after.view.memory.frames)  # type: ignore[attr-defined]
    assert seen == [3, 5]


SPEC = SampleSpec((5, CHANNELS, 4, 4))
SMALL: dict[str, Any] = {"weights": "random", "architecture": architecture(), "chunk": 2, "first_chunk": 1}


@pytest.mark.parametrize(
    "config",
    [
        CausalWan21Config(**SMALL, window=4, sink=1),
        pytest.param(CausalWan21Config(**SMALL, window=4, sink=1, attention="dense"), marks=pytest.mark.slow),
        # Quick ones of these are in tests/kit/test_ours.py.
        pytest.param(CausalWan21Config(**SMALL), marks=pytest.mark.slow),
        pytest.param(CausalWan21Config(**SMALL, lora=lora()), marks=pytest.mark.slow),
        pytest.param(CausalWan22Config(**SMALL), marks=pytest.mark.slow),
    ],
    ids=["window", "dense", "all", "adapters", "two networks"],
)
def test_they_keep_the_contract(config: CausalConfig) -> None:
    prompts = EncodedText(noise(4, 5, TEXT, seed=3), noise(5, TEXT, seed=4))
    check_backbone(config, SPEC, Samples(noise(4, *SPEC.shape), prompts=prompts))


def test_of_two_networks_each_computes_at_its_own_times() -> None:
    backbone = built(CausalWan22Config(**SMALL))
    role = backbone.role("student", "flow_map", None, draw())
    network, x = network_of(role), noise(3, 2, CHANNELS, 4, 4)
    cond, _ = backbone.condition(EncodedText(noise(3, 5, TEXT), noise(5, TEXT)), 3, x.device)
    t = torch.tensor([0.9, 0.875, 0.8])
    before = network.velocity(x, t, cond).detach()
    with torch.no_grad():
        for name, parameter in role.own.items():
            parameter.mul_(1.5 if name.startswith("low.") else 1.0)
    after = network.velocity(x, t, cond).detach()
    assert torch.equal(before[:2], after[:2])
    assert off(after[2:], before[2:]) > 1e-2


def test_what_is_recomputed_is_not_taught_by_force() -> None:
    chunking = built(CausalWan21Config(**{**SMALL, "first_chunk": None}, context="recomputed")).chunking()
    with pytest.raises(FlowmapError, match="cannot be trained with teacher forcing"):
        chunking.forced(Batch(noise(1, 4, 3, 4, 4), *[VideoCond(noise(1, 5, TEXT))] * 2), Window(0, 4))
