"""Gradients: through recomputation, through chunks, against differences; and three adapters on one base."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flowmap_distribution import rollouts
from flowmap_distribution.configs import BackwardSimulationConfig
from flowmap_samplers.samplers import FlowMapEuler
from flowmap_wan.settings import LoraConfig
from torch import Tensor

from flowmap.interfaces import Batch, Cond, FlowMap, Loss, Role, Scene, Velocity, Window, World, as_flow_map
from flowmap.networks.rollout import rollout
from flowmap.plugin import NetworkKind
from flowmap.workshop.adapters import own_of, plain_state
from flowmap.workshop.backbone import ModuleBackbone

from .support import (
    CHANNELS,
    bidirectional,
    causal,
    chunking,
    draw,
    error,
    gradients,
    lora,
    make,
    module,
    noise,
    relative,
    student,
    text,
)

CHUNKS = (1, 2, 1, 1, 2, 1)
FRAMES = sum(CHUNKS)
SIZE = (4, 4)
KINDS: dict[str, NetworkKind] = {"student": "flow_map", "teacher": "velocity", "critic": "velocity"}
ADAPTED = pytest.mark.parametrize("adapted", [lora(), None], ids=["lora", "full"])


def rolled(role: Role, backbone: ModuleBackbone, **fields: Any) -> Tensor:
    grid = torch.tensor([1.0, 0.7, 0.3, 0.0])
    start = noise(2, FRAMES, CHANNELS, *SIZE)
    return rollout(
        FlowMapEuler(), as_flow_map(role.network), start, grid, text(2), chunking(backbone), draw(2), **fields
    )


# Recomputation


@ADAPTED
@pytest.mark.parametrize("full", [2, 3])
def test_recomputation_changes_no_gradient_of_a_rollout(full: int, adapted: LoraConfig | None) -> None:
    found = []
    for recomputed in (False, True):
        backbone = causal(CHUNKS, SIZE, lora=adapted, gradient_checkpointing=recomputed, full_chunks=full)
        role, _ = student(backbone)
        out = rolled(role, backbone)
        (out * noise(*out.shape, seed=6)).sum().backward()
        found.append(gradients(role))
    # far_patch_embedding only makes memories, which carry no gradient.
    assert {name for name in role.own if name not in found[0]} == {name for name in role.own if "far_patch" in name}
    assert relative(found[1], found[0]) < 1e-6


@ADAPTED
def test_recomputation_changes_no_gradient_of_training(adapted: LoraConfig | None) -> None:
    found = []
    for recomputed in (False, True):
        backbone = causal(CHUNKS, SIZE, lora=adapted, gradient_checkpointing=recomputed)
        role, network = student(backbone)
        x0 = noise(2, FRAMES, CHANNELS, *SIZE)
        forced = chunking(backbone).forced(Batch(x0, text(2), text(2)), Window(4, FRAMES))
        network.mean_velocity(
            forced.x0, torch.tensor([0.8, 0.3]), torch.zeros(2), forced.cond
        ).square().sum().backward()
        found.append(gradients(role))
    assert found[0].keys() == role.own.keys()
    assert relative(found[1], found[0]) < 1e-6


def test_recomputation_really_happens() -> None:
    calls = []
    backbone = causal(CHUNKS, SIZE, gradient_checkpointing=True)
    role, network = student(backbone)
    module(role).transformer.blocks[0].attn1.register_forward_pre_hook(lambda *_: calls.append(1))
    y = network.velocity(noise(1, FRAMES, CHANNELS, *SIZE), torch.tensor([0.5]), text(1))
    assert len(calls) == 1
    y.sum().backward()
    assert len(calls) == 2


# Differences


def scored(network: FlowMap, x: Tensor, cond: Cond, weight: Tensor) -> Tensor:
    return (network.mean_velocity(x, torch.tensor([0.8, 0.3]), torch.tensor([0.2, 0.0]), cond).double() * weight).mean()


CHECKED = ("blocks.0.attn1.to_k", "blocks.0.ffn.net.0", "delta_embedder.linear_1", "far_patch")


@ADAPTED
@pytest.mark.parametrize("view", ["whole", "forced", "following"])
def test_gradients_are_those_of_differences(view: str, adapted: LoraConfig | None) -> None:
    backbone = causal(CHUNKS, SIZE, lora=adapted, gradient_checkpointing=True)
    role, network = student(backbone, size=0.05)
    x0, cond = noise(2, FRAMES, CHANNELS, *SIZE), text(2)
    x = x0
    if view == "forced":
        forced = chunking(backbone).forced(Batch(x0, cond, cond), Window(4, FRAMES))
        x, cond = forced.x0, forced.cond  # type: ignore[assignment]
    elif view == "following":
        with torch.no_grad():
            cond = chunking(backbone).given(network, cond, x0[:, :5])  # type: ignore[assignment]
        x = x0[:, 5:7]
    weight = noise(*x.shape, seed=6).double()
    scored(network, x, cond, weight).backward()
    step = 2e-3
    checked = 0
    for name, parameter in role.own.items():
        if parameter.grad is None or not any(part in name for part in CHECKED):
            continue
        checked += 1
        direction = parameter.grad / parameter.grad.norm()
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                parameter.add_(sign * step * direction)
                values.append(float(scored(network, x, cond, weight)))
                parameter.sub_(sign * step * direction)
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(parameter.grad.norm()), rel=1e-2, abs=2e-5), name
    assert checked >= 5


# Chunks without gradient


def roles(adapted: LoraConfig | None, **fields: Any) -> tuple[ModuleBackbone, dict[str, Role]]:
    backbone = causal(CHUNKS, SIZE, lora=adapted, **fields)
    made = {name: make(backbone, name, kind, seed) for seed, (name, kind) in enumerate(KINDS.items(), 2)}
    made["teacher"].freeze()
    return backbone, made


def scene_of(backbone: ModuleBackbone, made: dict[str, Role], step: int) -> Scene:
    x0 = noise(2, FRAMES, CHANNELS, *SIZE, seed=step)
    batch = Batch(x0, text(2, seed=step), text(2, seed=99))
    return Scene(made, batch, draw(2, step=step), chunking(backbone), World())


def dmd(scene: Scene) -> Loss:
    objective = BackwardSimulationConfig(rollout_steps=(4,), cfg_scale=2.0, score="forced").build()
    return next(iter(objective.turns()[0].losses(scene)))


def long_step(backbone: ModuleBackbone) -> int:
    """A step whose window has compressed context."""
    chunks = chunking(backbone)
    return next(s for s in range(99) if chunks.window(FRAMES, draw(2, step=s).child("context")).start > 1)


@ADAPTED
@pytest.mark.parametrize("recomputed", [False, True])
def test_chunks_that_are_only_context_need_no_gradient(
    recomputed: bool, adapted: LoraConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, made = roles(adapted, gradient_checkpointing=recomputed)
    step = long_step(backbone)
    window = chunking(backbone).window(FRAMES, draw(2, step=step).child("context"))
    found, seen = [], []
    real = rollouts.rollout

    def spied(*args: Any, still: int = 0, **kwargs: Any) -> Tensor:
        network: Velocity = args[1]

        class Noted(FlowMap):
            def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
                result = as_flow_map(network).mean_velocity(x, t, r, cond)
                seen.append(result.requires_grad)
                return result

        assert still == window.start
        return real(args[0], Noted(), *args[2:], still=0 if found else still, **kwargs)

    monkeypatch.setattr(rollouts, "rollout", spied)
    for _ in range(2):
        seen.clear()
        loss = dmd(scene_of(backbone, made, step))
        loss.value.backward()
        found.append((gradients(made["student"]), float(loss.value.detach()), sum(seen)))
        made["student"].module.zero_grad(set_to_none=True)
    assert found[0][1] == found[1][1]
    assert relative(found[0][0], found[1][0]) < 1e-6
    assert 0 < found[0][2] < found[1][2]


@ADAPTED
def test_still_chunks_carry_no_gradient(adapted: LoraConfig | None) -> None:
    backbone, made = roles(adapted)
    out = rolled(made["student"], backbone, still=4, stop=7)
    assert out.shape[1] == 7
    grads = torch.autograd.grad(out[:, :4].sum(), list(made["student"].own.values()), allow_unused=True)
    assert not any(bool(grad.any()) for grad in grads if grad is not None)
    full = rolled(made["student"], backbone)
    assert torch.equal(full[:, :7], out)


@pytest.mark.parametrize("kind", ["wan21", "far_wan21"])
def test_clean_frames_carry_no_gradient(kind: str) -> None:
    backbone = bidirectional(FRAMES, SIZE) if kind == "wan21" else causal(CHUNKS, SIZE)
    _, network = student(backbone)
    made = noise(2, FRAMES, CHANNELS, *SIZE).requires_grad_()
    forced = backbone.chunking().forced(Batch(made, text(2), text(2)), Window(1, FRAMES))
    assert forced.x0.requires_grad
    v = network.velocity(forced.x0.detach(), torch.tensor([0.8, 0.3]), forced.cond)
    assert torch.autograd.grad(v.sum(), made, allow_unused=True)[0] is None


def test_no_gradient_crosses_chunks() -> None:
    backbone = causal(CHUNKS, SIZE)
    role, _ = student(backbone)
    start = noise(2, FRAMES, CHANNELS, *SIZE).requires_grad_()
    out = rollout(
        FlowMapEuler(), role.network, start, torch.tensor([1.0, 0.4, 0.0]), text(2), chunking(backbone), draw(2)
    )
    grads = torch.autograd.grad(out[:, 5:7].sum(), start)[0]
    assert not bool(grads[:, :5].any())
    assert not bool(grads[:, 7:].any())
    assert bool(grads[:, 5:7].any())


# Three roles on one base


def merged_model(role: Role, backbone: Callable[..., ModuleBackbone]) -> tuple[Role, Any]:
    """The same function as a whole model of its own, its adapter merged into its weights."""
    alone = backbone().role(role.name, KINDS[role.name], None, draw(seed=50))
    module(alone).transformer.load_state_dict(plain_state(module(role).transformer, role.name), strict=True)
    return alone, module(alone).transformer


def adapter_gradients(role: Role, whole: Any, scale: float) -> dict[str, Tensor]:
    """What the gradients of the adapter must be, by the chain rule from those of the merged weights."""
    weights = dict(whole.named_parameters())
    found: dict[str, Tensor] = {}
    for name in role.own:
        if "lora_A" in name:
            path = name.removesuffix(".lora_A.weight")
            grad = weights[f"{path}.weight"].grad
            found[name] = scale * role.own[f"{path}.lora_B.weight"].detach().T @ grad
            found[f"{path}.lora_B.weight"] = scale * grad @ role.own[name].detach().T
        elif "modules_to_save" in name:
            grad = weights[name.replace("modules_to_save.", "")].grad
            if grad is not None:
                found[name] = grad
    return found


@pytest.mark.parametrize("recomputed", [False, True])
def test_three_adapters_are_three_models(recomputed: bool) -> None:
    backbone, made = roles(lora(), gradient_checkpointing=recomputed)
    x0, t = noise(2, FRAMES, CHANNELS, *SIZE), torch.tensor([0.8, 0.3])
    forced = chunking(backbone).forced(Batch(x0, text(2), text(2)), Window(4, FRAMES))
    x, cond = forced.x0, forced.cond
    weight = noise(*x.shape, seed=6)
    apart = {name: merged_model(role, lambda: causal(CHUNKS, SIZE)) for name, role in made.items()}

    # Interleaved: whatever was called last, and is active at backward, is another one.
    outs = {name: made[name].network.velocity(x, t, cond) for name in ("student", "critic", "teacher")}
    through = outs["student"] + made["teacher"].network.velocity(outs["student"], t, cond)
    with torch.no_grad():
        made["teacher"].network.velocity(x, t, cond)
        made["critic"].network.velocity(x, t, cond)
    ((through * weight).sum() + (outs["critic"] * weight).sum()).backward()

    wholes = {name: role.network.velocity(x, t, cond) for name, (role, _) in apart.items()}
    assert all(error(out, wholes[name]) < 1e-5 for name, out in outs.items())
    assert error(outs["student"], outs["critic"]) > 1e-2
    expected = wholes["student"] + apart["teacher"][0].network.velocity(wholes["student"], t, cond)
    ((expected * weight).sum() + (wholes["critic"] * weight).sum()).backward()
    for name in ("student", "critic"):
        ours = gradients(made[name])
        theirs = adapter_gradients(made[name], apart[name][1], 2.0)
        assert ours.keys() == made[name].own.keys()
        assert relative(ours, theirs) < 2e-4
    owned = {id(p) for name in ("student", "critic") for p in made[name].own.values()}
    for name, parameter in made["student"].module.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in owned), name


def test_roles_stay_as_trainable_as_they_were() -> None:
    backbone, made = roles(lora())
    make(backbone, "fourth", "flow_map", 9)
    with torch.no_grad():
        made["teacher"].network.velocity(noise(1, FRAMES, CHANNELS, *SIZE), torch.tensor([0.5]), text(1))
    for name in KINDS:
        assert {p.requires_grad for p in made[name].own.values()} == {name != "teacher"}
    named = made["student"].module.named_parameters()
    assert not [name for name, p in named if p.requires_grad and ".roles." not in name]


def test_a_call_without_an_adapter_is_the_base() -> None:
    plain = bidirectional(3, SIZE)
    base = module(plain.role("student", "flow_map", None, draw(seed=0)))
    backbone = bidirectional(3, SIZE, lora=lora())
    role = make(backbone, "student", "flow_map", 2)
    shared = module(role)
    base.transformer.load_state_dict(plain_state(shared.transformer, None))
    student = as_flow_map(role.network)
    call = (noise(1, 3, CHANNELS, *SIZE), torch.ones(1), torch.zeros(1), text(1))
    expected = base(*call)
    assert error(shared(*call), expected) < 1e-6
    assert error(student.mean_velocity(*call), expected) > 1e-3
    assert error(shared(*call), expected) < 1e-6


@ADAPTED
def test_three_iterations_of_distillation_change_student_and_critic_only(adapted: LoraConfig | None) -> None:
    backbone, made = roles(adapted, gradient_checkpointing=True)
    before = {n: {k: p.detach().clone() for k, p in role.own.items()} for n, role in made.items()}
    all_owned = {id(p) for role in made.values() for p in role.own.values()}
    base = {
        name: (p, p.detach().clone()) for name, p in made["student"].module.named_parameters() if id(p) not in all_owned
    }
    assert bool(base) == (adapted is not None)
    optimizers = {name: torch.optim.AdamW(made[name].own.values(), lr=1e-3) for name in ("student", "critic")}
    objective = BackwardSimulationConfig(rollout_steps=(1, 4), cfg_scale=2.0, forward="flow_map").build()
    last: dict[str, dict[str, Tensor]] = copy.deepcopy(before)
    for step in range(3):
        for turn in objective.turns():
            for loss in turn.losses(scene_of(backbone, made, step)):
                loss.value.backward()
            idle = {"student": "critic", "critic": "student"}[turn.role]
            assert not gradients(made[idle])
            assert not gradients(made["teacher"])
            optimizers[turn.role].step()
            optimizers[turn.role].zero_grad()
            for name, role in made.items():
                moved = any(not torch.equal(last[name][k], p) for k, p in role.own.items())
                assert moved == (name == turn.role), f"{name} in the turn of {turn.role}"
                last[name] = {k: p.detach().clone() for k, p in role.own.items()}
    assert all(torch.equal(before["teacher"][k], p) for k, p in made["teacher"].own.items())
    assert all(torch.equal(p, value) for p, value in base.values())
    assert all(bool(p.isfinite().all()) for role in made.values() for p in role.own.values())


def test_an_adapter_can_be_replaced() -> None:
    backbone, made = roles(lora())
    x, t = noise(1, FRAMES, CHANNELS, *SIZE), torch.tensor([0.5])
    transformer = module(made["student"]).transformer

    def outs() -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: role.network.velocity(x, t, text(1)) for name, role in made.items()}

    before = outs()
    old = made["critic"].own
    made["critic"] = make(backbone, "critic", "velocity", 11)
    assert not {id(p) for p in old.values()} & {id(p) for p in made["critic"].own.values()}
    after = outs()
    assert {name for name in KINDS if torch.equal(before[name], after[name])} == {"student", "teacher"}
    # A role of the other kind has fewer adapters than the one it replaces.
    made["student"] = make(backbone, "student", "velocity", 12)
    assert not [name for name in made["student"].own if "condition_embedder" in name]
    assert not [name for name in own_of(transformer, "student") if "condition_embedder" in name]
    assert torch.equal(outs()["critic"], after["critic"])
    assert own_of(transformer, "nobody") == {}


@pytest.mark.parametrize("kind", ["wan21", "far_wan21"])
def test_merged_weights_are_the_adapter(kind: str) -> None:
    config = {"lora": lora(rank=3, alpha=4.5)}
    backbone = bidirectional(FRAMES, SIZE, **config) if kind == "wan21" else causal(CHUNKS, SIZE, **config)
    made = {name: make(backbone, name, k, seed) for seed, (name, k) in enumerate(KINDS.items(), 2)}
    x0, t = noise(2, FRAMES, CHANNELS, *SIZE), torch.tensor([0.8, 0.3])
    for role in made.values():
        plain = bidirectional(FRAMES, SIZE) if kind == "wan21" else causal(CHUNKS, SIZE)
        alone, _ = merged_model(role, lambda plain=plain: plain)  # type: ignore[misc]
        batch = Batch(x0, text(2), text(2))
        forced = backbone.chunking().forced(batch, Window(4 if kind == "far_wan21" else 0, FRAMES))
        with torch.no_grad():
            expected = alone.network.velocity(forced.x0, t, forced.cond)
            assert error(role.network.velocity(forced.x0, t, forced.cond), expected) < 1e-5
