"""What frozen layers make of a prompt is made once, and nothing that is computed changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from flowmap_distribution.configs import BackwardSimulationConfig
from flowmap_samplers.samplers import FlowMapEuler
from flowmap_wan.condition import VideoCond
from flowmap_wan.settings import LoraConfig
from torch import Tensor, nn

from flowmap.interfaces import Batch, Role, Scene, World, as_flow_map
from flowmap.networks.rollout import rollout
from flowmap.networks.tangent import tangent
from flowmap.schema.settings import TangentConfig
from flowmap.workshop.backbone import ModuleBackbone
from flowmap.workshop.memo import TextMemo

from .support import CHANNELS, causal, chunking, draw, gradients, lora, make, module, noise, text

CHUNKS = (1, 2, 1, 2)
FRAMES, SIZE, LAYERS = sum(CHUNKS), (4, 4), 2


def three(adapted: LoraConfig | None, **fields: Any) -> tuple[ModuleBackbone, dict[str, Role]]:
    backbone = causal(CHUNKS, SIZE, lora=adapted, **fields)
    made = {
        "student": make(backbone, "student", "flow_map", 2),
        "teacher": make(backbone, "teacher", "velocity", 3),
        "critic": make(backbone, "critic", "velocity", 4),
    }
    made["teacher"].freeze()
    return backbone, made


def counted(made: dict[str, Role]) -> Counter[str]:
    """Counts the calls of all layers that read text."""
    calls: Counter[str] = Counter()

    def count(layer: nn.Module, name: str) -> None:
        layer.register_forward_hook(lambda *_: calls.update([name]))

    for role in {id(role.module): role for role in made.values()}.values():
        for name, layer in module(role).transformer.named_modules():
            if name.endswith(("attn2.to_k", "attn2.to_v", "attn2.norm_k", "text_embedder")):
                count(layer, name.removeprefix("condition_embedder."))
    return calls


def forgetful(cond: VideoCond) -> VideoCond:
    return VideoCond(cond.text, cond.view, memo=None)


def distil(backbone: ModuleBackbone, made: dict[str, Role], keep: bool, **fields: Any) -> dict[str, Tensor]:
    """The losses and gradients of the student's turn of a distillation."""
    for role in made.values():
        role.module.zero_grad(set_to_none=True)
    cond, null = text(2), text(2, seed=99)
    if not keep:
        cond, null = forgetful(cond), forgetful(null)
    batch = Batch(noise(2, FRAMES, CHANNELS, *SIZE), cond, null)
    scene = Scene(made, batch, draw(2), chunking(backbone), World())
    found = {}
    for loss in BackwardSimulationConfig(rollout_steps=(4,), **fields).build().turns()[0].losses(scene):
        loss.value.backward()
        found[loss.branch] = loss.value.detach()
    return found | gradients(made["student"])


EACH = {f"blocks.{i}.attn2.{layer}" for i in range(LAYERS) for layer in ("to_k", "to_v", "norm_k")} | {"text_embedder"}


@pytest.mark.parametrize("replay", [True, False])
@pytest.mark.parametrize("recomputed", [True, False])
def test_text_is_read_once_per_layer_and_prompt(recomputed: bool, replay: bool) -> None:
    backbone, made = three(lora(), gradient_checkpointing=recomputed)
    calls = counted(made)
    distil(backbone, made, keep=True, replay=replay)
    assert calls == dict.fromkeys(EACH, 1)
    distil(backbone, made, keep=True, replay=replay)
    assert calls == dict.fromkeys(EACH, 2)


@pytest.mark.parametrize("recomputed", [True, False])
@pytest.mark.parametrize("adapted", [lora(), None], ids=["lora", "full"])
def test_losses_and_gradients_are_exactly_those_without_a_memo(adapted: LoraConfig | None, recomputed: bool) -> None:
    backbone, made = three(adapted, gradient_checkpointing=recomputed)
    fields = {"cfg_scale": 2.0, "forward": {"type": "flow_map", "cfg_scale": 3.0, "rebalance": False}}
    kept, afresh = (distil(backbone, made, keep, **fields) for keep in (True, False))
    assert kept.keys() == afresh.keys()
    assert len(kept) > 10
    assert all(torch.equal(kept[name], afresh[name]) for name in kept)


def rolled(role: Role, backbone: ModuleBackbone, cond: VideoCond) -> None:
    grid = torch.tensor([1.0, 0.5, 0.0])
    start = noise(2, FRAMES, CHANNELS, *SIZE)
    rollout(FlowMapEuler(), as_flow_map(role.network), start, grid, cond, chunking(backbone), draw(2))


def test_models_that_are_trained_whole_reuse_nothing() -> None:
    backbone, made = three(None)
    made["student"].freeze()
    calls = counted(made)
    rolled(made["student"], backbone, text(2))
    assert set(calls) == EACH
    # Two calls for each of four chunks, and three to remember.
    assert set(calls.values()) == {2 * 4 + 3}


@pytest.mark.parametrize("layers", [("attn2.to_k",), ("attn2.to_v",)], ids=str)
def test_adapted_layers_are_not_remembered(layers: tuple[str, ...]) -> None:
    backbone, made = three(LoraConfig(rank=3, alpha=6.0, layers=layers))
    calls = counted(made)
    rolled(made["student"], backbone, text(2))
    for name, number in calls.items():
        assert number == (1 if name == "text_embedder" else 11), name
    # Those of frozen adapters neither: there are several.
    for role in made.values():
        role.freeze()
    cond, x, t = text(2), noise(2, FRAMES, CHANNELS, *SIZE), torch.tensor([0.5, 0.2])
    with torch.no_grad():
        for role in made.values():
            assert torch.equal(role.network.velocity(x, t, cond), role.network.velocity(x, t, forgetful(cond)))


def test_other_rows_are_another_prompt() -> None:
    _, made = three(lora())
    x, t = noise(2, FRAMES, CHANNELS, *SIZE), torch.tensor([0.5, 0.2])
    network = made["student"].network
    cond, other = text(2), text(2, seed=8)
    with torch.no_grad():
        network.velocity(x, t, cond)
        taken = network.velocity(x, t, cond.take(torch.tensor([1, 0])))
        assert torch.equal(taken, network.velocity(x, t, VideoCond(cond.text.flip(0))))
        joined = network.velocity(torch.cat([x, x]), torch.cat([t, t]), cond.join(other))
        apart = torch.cat([network.velocity(x, t, c) for c in (cond, other)])
    assert float((joined - apart).abs().max()) < 1e-6
    assert cond.join(other).memo is None
    assert cond.take(torch.tensor([0])).memo is not cond.memo


def test_two_models_share_no_memo() -> None:
    made = [make(causal(CHUNKS, SIZE, lora=lora()), "student", "flow_map", seed) for seed in (2, 3)]
    with torch.no_grad():
        # The bases differ: backbones with random weights have the same.
        for parameter in module(made[1]).transformer.blocks[0].attn2.to_k.parameters():
            parameter.add_(0.5)
    x, t, cond = noise(2, FRAMES, CHANNELS, *SIZE), torch.tensor([0.5, 0.2]), text(2)
    with torch.no_grad():
        ours = [role.network.velocity(x, t, cond) for role in made]
        theirs = [role.network.velocity(x, t, forgetful(cond)) for role in made]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(*ours)


def test_a_memo_is_of_one_precision() -> None:
    _, made = three(lora())
    x, t, cond = noise(2, FRAMES, CHANNELS, *SIZE), torch.tensor([0.5, 0.2]), text(2)
    network = made["student"].network
    with torch.no_grad():
        exact = network.velocity(x, t, cond)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = network.velocity(x, t, cond)
            assert torch.equal(mixed, network.velocity(x, t, text(2)))
        assert torch.equal(exact, network.velocity(x, t, cond))
    assert not torch.equal(exact, mixed)


def test_a_prompt_that_needs_a_gradient_is_read_afresh() -> None:
    _, made = three(lora())
    tokens = text(2).text.requires_grad_()
    cond = VideoCond(tokens)
    for _ in range(2):
        y = made["student"].network.velocity(noise(2, FRAMES, CHANNELS, *SIZE), torch.tensor([0.5, 0.2]), cond)
        assert bool(torch.autograd.grad(y.sum(), tokens)[0].any())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_forward_derivative_leaves_nothing_behind() -> None:
    _, made = three(lora())
    network, cond = as_flow_map(made["student"].network), text(2)
    x, t, r = noise(2, FRAMES, CHANNELS, *SIZE), torch.tensor([0.5, 0.2]), torch.tensor([0.1, 0.0])
    tangent(network, x, t, r, noise(*x.shape, seed=5), cond, TangentConfig(method="jvp"))
    y = network.mean_velocity(x, t, r, cond)
    y.sum().backward()
    assert torch.equal(y, network.mean_velocity(x, t, r, text(2)))


def test_adapters_that_read_text_are_seen_also_where_they_come_later() -> None:
    backbone, made = three(LoraConfig(rank=3, layers=("attn2.to_v",)))
    cond, x, t = text(2), noise(2, FRAMES, CHANNELS, *SIZE), torch.tensor([0.5, 0.2])
    with torch.no_grad():
        for name in ("teacher", "student", "teacher"):
            made[name].network.velocity(x, t, cond)
        made["late"] = make(backbone, "late", "velocity", 5)
        made["late"].freeze()
        said = {name: role.network.velocity(x, t, cond) for name, role in made.items()}
        for name, role in made.items():
            assert torch.equal(said[name], role.network.velocity(x, t, forgetful(cond)))
    assert len({float(value.sum()) for value in said.values()}) == len(made)


def test_a_memo_calls_once_for_each_layer_and_precision() -> None:
    memo, layer, made = TextMemo(), torch.nn.Linear(2, 2), []
    x = torch.ones(1, 2)
    for _ in range(2):
        memo.recall(layer, x, lambda: made.append(1))
    assert made == [1]
    memo.recall(layer, x.double(), lambda: made.append(1))
    memo.recall(torch.nn.Linear(2, 2), x, lambda: made.append(1))
    assert made == [1] * 3
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            memo.recall(layer, x, lambda: made.append(1))
    assert made == [1] * 4
