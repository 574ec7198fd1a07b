"""A second time for each family of diffusers' transformers: what holds at a tiny size holds at any."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from flowmap_diffusers.image_config import ImageConfig
from flowmap_diffusers.twin import make_twin
from flowmap_diffusers.two_times import DELTA
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowmap.errors import FlowmapError
from flowmap.interfaces import FlowMap, Velocity
from flowmap.plugin.footprint import CallShape
from flowmap.recipe.step_length import default_step
from flowmap.weights.names import RANDOM

from .support import KINDS, SIDE, call, conds, draw, pictures, spec_of

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),
]


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> type[ImageConfig]:
    return KINDS[request.param]


def disturbed(module: torch.nn.Module) -> None:
    """Make what some families begin with as zeros say something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))


def pair(kind: type[ImageConfig], **fields: Any) -> tuple[Any, Any, Any]:
    """A backbone, a teacher, and a student that is it."""
    backbone = kind(weights=RANDOM, **fields).build(spec_of(kind))
    teacher = backbone.role("teacher", "velocity", None, draw())
    disturbed(teacher.module)
    student = backbone.role("student", "flow_map", teacher.own, draw())
    return backbone, teacher, student


def test_a_student_begins_as_its_teacher_to_the_bit(kind: type[ImageConfig]) -> None:
    """At r = t; its weights have their names, r's embedder alone is new and learns; away from there it differs."""
    backbone, teacher, student = pair(kind)
    (x, t, r), cond = call(kind), conds(kind, backbone)
    velocity = teacher.network.velocity(x, t, cond)
    assert torch.equal(student.network.mean_velocity(x, t, t, cond), velocity)
    away = student.network.mean_velocity(x, t, r, cond)
    assert not torch.allclose(away, velocity, atol=1e-6)
    plain = getattr(diffusers, kind.family.model)(**kind.family.small)
    assert set(teacher.own) == {name for name, _ in plain.named_parameters()}
    new = set(student.own) - set(teacher.own)
    assert new == {name for name in student.own if DELTA in name} != set()
    away.square().sum().backward()
    assert all(student.own[name].grad is not None and student.own[name].grad.abs().sum() > 0 for name in new)


def test_the_teacher_is_the_model_of_diffusers(kind: type[ImageConfig]) -> None:
    """Called as the family calls it, without our hooks."""
    backbone, teacher, _ = pair(kind)
    (x, t, _), cond = call(kind), conds(kind, backbone)
    plain = getattr(diffusers, kind.family.model)(**kind.family.small)
    plain.eval().load_state_dict(teacher.module.transformer.state_dict())
    asked = dict(cond.tensors)
    theirs = kind.family.velocity(plain, x[:, 0], t, asked, kind(weights=RANDOM).told())
    assert (theirs - teacher.network.velocity(x, t, cond)[:, 0]).abs().max() < 1e-6


def test_r_takes_the_way_of_t(kind: type[ImageConfig]) -> None:
    """With the whole gate for r and a copied embedder, the network at (t, r) is the network at r."""
    backbone, _, student = pair(kind, gate=1.0)
    (x, t, r), cond = call(kind), conds(kind, backbone)
    if kind.family.is_velocity:
        there = student.network.mean_velocity(x, r, r, cond)
        assert torch.equal(student.network.mean_velocity(x, t, r, cond), there)


def test_differences_in_time_agree_with_the_derivative(kind: type[ImageConfig]) -> None:
    backbone, _, student = pair(kind)
    (x, t, r), cond = call(kind), conds(kind, backbone)
    network: FlowMap = student.network
    h = default_step(kind(weights=RANDOM).time_frequency(), "no")
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        network.mean_velocity(x, t, r, cond)

        def at(time: torch.Tensor) -> torch.Tensor:
            return network.mean_velocity(x, time, r, cond)

        _, exact = torch.func.jvp(at, (t,), (torch.ones_like(t),))
        difference = (at(t + h) - at(t - h)) / (2 * h)
    assert (difference - exact).norm() < 0.05 * exact.norm()
    assert exact.norm() > 1e-3


def test_copies_are_independent(kind: type[ImageConfig]) -> None:
    _, teacher, student = pair(kind)
    theirs = {value.data_ptr() for value in teacher.own.values()}
    assert theirs.isdisjoint(value.data_ptr() for value in student.own.values())
    backbone = kind(weights=RANDOM).build(spec_of(kind))
    (x, t, r), cond = call(kind), conds(kind, backbone)
    twin = copy.deepcopy(student.module)
    before = student.network.mean_velocity(x, t, r, cond)
    disturbed(twin)
    assert torch.equal(student.network.mean_velocity(x, t, r, cond), before)
    assert not torch.equal(twin(x, t, r, cond), before)


def test_what_is_recomputed_is_what_was_computed(kind: type[ImageConfig]) -> None:
    """Gradients at the times of the call, though the network was called at other times before backward."""
    found = []
    for how in ("none", "block", "offload"):
        backbone, _, student = pair(kind, gradient_checkpointing=how)
        (x, t, r), cond = call(kind), conds(kind, backbone)
        student.module.train()
        said = student.network.mean_velocity(x, t, r, cond)
        student.network.mean_velocity(x, 0.5 * t, 0.5 * r, cond)
        said.square().sum().backward()
        found.append({name: p.grad for name, p in student.own.items() if p.grad is not None} | {"said": said})
    kept, *others = found
    for again in others:
        assert kept.keys() == again.keys()
        for name, value in kept.items():
            assert torch.allclose(again[name], value, rtol=1e-5, atol=1e-6), name


def test_adapters_are_a_merged_copy(kind: type[ImageConfig]) -> None:
    """Roles on one base, each as a model of its own that has their merged weights; the base is the teacher."""
    from flowmap.workshop.adapters import plain_state

    config = kind(weights=RANDOM, lora={"rank": 2, "alpha": 4.0})  # type: ignore[arg-type]
    backbone, cond = config.build(spec_of(kind)), None
    teacher = backbone.role("teacher", "velocity", None, draw())
    student = backbone.role("student", "flow_map", None, draw())
    (x, t, r), cond = call(kind), conds(kind, backbone)
    velocity: Velocity = teacher.network
    before = velocity.velocity(x, t, cond)
    with torch.no_grad():
        for parameter in student.own.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(velocity.velocity(x, t, cond), before)
    assert any(DELTA in name for name in student.own)
    whole = kind(weights=RANDOM).build(spec_of(kind))
    own = whole.role("student", "flow_map", None, draw()).own
    weights = {k: v for k, v in plain_state(student.module.transformer, "student").items() if k in own}
    merged = whole.role("student", "flow_map", weights, draw())
    said, same = (role.network.mean_velocity(x, t, r, cond) for role in (student, merged))
    assert torch.allclose(said, same, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(said, before, atol=1e-4)


@pytest.mark.parametrize(
    "kind",
    [
        name if name in ("dit", "sd3", "z_image") else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(KINDS)
    ],
    indirect=True,
)
def test_the_plan_counts_what_there_is(kind: type[ImageConfig]) -> None:
    """Of more blocks than are measured."""
    few = {name: 2 * int(kind.family.small[name]) for name in kind.family.depth}
    config, spec = kind(weights=RANDOM, architecture=few), spec_of(kind)
    footprint = config.footprint(spec, "no")
    assert footprint is not None
    role = config.build(spec).role("student", "flow_map", None, draw())
    assert footprint.own("flow_map").count == sum(p.numel() for p in role.own.values())
    assert footprint.flops("flow_map", CallShape("whole", 1), True) > 2 * footprint.flops(
        "flow_map", CallShape("whole", 1), False
    )


@pytest.mark.parametrize("name", ["lumina2", "z_image"])
def test_a_text_has_as_many_tokens_as_there_are_places_for(name: str, tmp_path: Path) -> None:
    """So many the transformer takes, and not one more; a recipe that asks for more is refused."""
    kind = KINDS[name]
    most = kind.family.longest(kind.family.small)
    assert most is not None
    model = getattr(diffusers, kind.family.model)(**kind.family.small)
    (x, t, _), width = call(kind, 1), int(kind.family.small[kind.family.width])
    with torch.no_grad():
        kind.family.velocity(model, x[:, 0], t, {"text": torch.zeros(1, most, width)}, 1.0)
        with pytest.raises((IndexError, RuntimeError)):
            kind.family.velocity(model, x[:, 0], t, {"text": torch.zeros(1, most + 1, width)}, 1.0)
    config = kind(weights=str(make_twin(tmp_path / "twin", kind.family)), text_length=most + 1)
    (found,) = [one for one in config.findings(pictures(kind, 64)) if one.field == ("text_length",)]
    assert f"places for {most} tokens" in found.message


def test_a_consistency_model_is_no_velocity() -> None:
    """Sana-Sprint has the class of Sana."""
    sizes = KINDS["sana"].family.small
    assert KINDS["sana"].family.flaw(sizes) is None
    assert "Sana-Sprint" in (KINDS["sana"].family.flaw({**sizes, "guidance_embeds": True}) or "")


def test_a_size_that_nobody_knows_is_named(kind: type[ImageConfig]) -> None:
    (name, *_) = kind.family.small
    config = kind(weights=RANDOM, architecture={f"{name}s": 1})
    (finding, *_) = [found for found in config.findings(spec_of(kind)) if found.field[0] == "architecture"]
    assert f"'{name}s'" in finding.message
    assert name in finding.message


@pytest.mark.parametrize("odd", [{"attention_head_dim": 7}, {"qk_norm": "banana"}])
def test_sizes_that_do_not_go_together_are_one_sentence(odd: dict[str, Any]) -> None:
    config = KINDS["sd3"](weights=RANDOM, architecture=odd)
    with pytest.raises(FlowmapError, match=r"backbone\.architecture: no SD3Transformer2DModel can have these sizes"):
        config.build(spec_of(KINDS["sd3"])).role("teacher", "velocity", None, draw())


def test_random_weights_read_no_texts(kind: type[ImageConfig]) -> None:
    if kind.family.parts:
        spec = dataclasses.replace(spec_of(kind), text_dim=0)
        assert any("without text encoders" in found.message for found in kind(weights=RANDOM).findings(spec))


def test_a_model_whose_time_is_embedded_otherwise_is_refused(kind: type[ImageConfig]) -> None:
    from flowmap_diffusers.two_times import Times, add_second_time

    with pytest.raises(FlowmapError, match="has no embedder of its time at 'embed'"):
        add_second_time(torch.nn.Sequential(torch.nn.Linear(2, 2)), ["embed"], 0.25, Times(), True)


def test_a_configuration_is_json(kind: type[ImageConfig]) -> None:
    assert json.loads(kind(weights=RANDOM).model_dump_json())["type"] == kind.type_name()
    assert SIDE % kind.family.patch(kind.family.small) == 0


def test_a_layer_to_adapt_that_no_block_has_is_named(kind: type[ImageConfig]) -> None:
    """Among others that are there."""
    config = kind(weights=RANDOM, lora={"rank": 2, "layers": ("to_q", "to_qq")})  # type: ignore[arg-type]
    with pytest.raises(FlowmapError, match=r"backbone\.lora\.layers: unknown layer 'to_qq'; allowed: .*to_q"):
        config.build(spec_of(kind)).role("student", "flow_map", None, draw())
