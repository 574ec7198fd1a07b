"""What a Wan model is said to take is what real ones take: parameters, arithmetic, memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_wan import attention
from flowmap_wan.causal_backbone import of_sizes
from flowmap_wan.causal_configs import CausalWan21Config
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.footprint import _measured as wan_measured
from flowmap_wan.footprint import without_turns
from flowmap_wan.module import WanModule
from flowmap_wan.settings import LAYERS, LoraConfig
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from flowmap.interfaces import Batch, Cond, FlowMap, Role, Window
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap.plugin.footprint import CallShape, Footprint
from flowmap.recipe.read import read
from flowmap.workshop.backbone import ModuleBackbone
from flowmap.workshop.footprint import MeasuredFootprint
from tests.wan.support import CHANNELS, architecture, draw, lora, make, module, noise
from tests.wan.support import text as prompt

RECIPES = Path(__file__).parents[2] / "recipes"
CHUNKS, FULL = (1, 3, 2, 2), 3
FRAMES, SIDES = sum(CHUNKS), (8, 12)
TOKENS = 5
KINDS: tuple[NetworkKind, ...] = ("velocity", "flow_map")
BIDIRECTIONAL = [CallShape("whole", FRAMES), CallShape("forced", FRAMES), CallShape("forced", FRAMES - 1, 1)]
CAUSAL = [
    CallShape("whole", FRAMES),
    CallShape("whole", 1),
    CallShape("forced", 6, 0),
    CallShape("forced", 7, 1),
    CallShape("forced", 5, 1),
    CallShape("forced", 4, 4),
    CallShape("following", 3, 1),
    CallShape("following", 2, 4),
    CallShape("following", 2, 6),
    CallShape("reading", 1, 0),
    CallShape("reading", 3, 1),
    CallShape("reading", 2, 4),
    CallShape("reading", 2, 6),
    CallShape("reading", 6, 0),
]
SHAPES = [("wan21", shape) for shape in BIDIRECTIONAL] + [("far_wan21", shape) for shape in CAUSAL]
IDS = [f"{kind}-{shape.view}-{shape.start}-{shape.frames}" for kind, shape in SHAPES]
ROLES = [
    ("lora", "flow_map"),
    ("full", "velocity"),
    pytest.param("lora", "velocity", marks=pytest.mark.slow),
    pytest.param("full", "flow_map", marks=pytest.mark.slow),
]
"""What is trained, and the kind of network: each once, and the other pairs where there is time."""


def config_of(kind: str, **fields: Any) -> Wan21Config | FarWan21Config:
    fields = {"weights": "random", "architecture": architecture(), "text_length": TOKENS, **fields}
    if kind == "wan21":
        return Wan21Config(**fields)
    patch = (1, 4, 4)
    return FarWan21Config(chunks=CHUNKS, full_chunks=FULL, compressed_patch_size=patch, **fields)


def both(kind: str, **fields: Any) -> tuple[ModuleBackbone, Footprint]:
    config, spec = config_of(kind, **fields), SampleSpec((FRAMES, CHANNELS, *SIDES), text=True)
    backbone, footprint = config.build(spec), measured(config, spec)
    assert isinstance(backbone, ModuleBackbone)
    return backbone, footprint


@cache
def measured(config: Wan21Config | FarWan21Config, spec: SampleSpec) -> Footprint:
    """It remembers what it has measured, so the tests of one model share one."""
    footprint = config.footprint(spec, "no")
    assert footprint is not None
    return footprint


def role_of(backbone: ModuleBackbone, kind: NetworkKind) -> Role:
    return make(backbone, "student", kind, 1)


def calling(backbone: ModuleBackbone, role: Role, shape: CallShape, samples: int = 1) -> Callable[[], Any]:
    """A real call of `shape`."""
    chunks, network, text = backbone.chunking(), role.network, prompt(samples, TOKENS)
    x0 = noise(samples, FRAMES, CHANNELS, *SIDES)
    t = torch.full((samples,), 0.7)
    with torch.no_grad():
        # What is remembered of the prompt is no part of a call.
        network.velocity(x0, t, text)
    x = x0[:, shape.start : shape.start + shape.frames].clone()
    cond: Cond = text
    with torch.no_grad():
        if shape.view == "forced":
            window = Window(shape.start, shape.start + shape.frames)
            cond = chunks.forced(Batch(x0, text, text), window).cond
        elif shape.start and shape.view == "whole":
            cond = chunks.given(network, text, x0[:, : shape.start])
        elif shape.start:
            ends = [sum(CHUNKS[: i + 1]) for i in range(len(CHUNKS))]
            for first, end in zip([0, *ends], ends, strict=False):
                if end <= shape.start:
                    cond = chunks.remember(network, cond, x0[:, first:end])
    if shape.view == "reading" and shape.start == 0 and shape.frames > CHUNKS[0]:
        return lambda: chunks.given(network, cond, x)
    if shape.view == "reading":
        return lambda: chunks.remember(network, cond, x)
    if isinstance(network, FlowMap):
        return lambda: network.mean_velocity(x, t, t / 2, cond)
    return lambda: network.velocity(x, t, cond)


@contextmanager
def masks() -> Iterator[list[Tensor]]:
    """The masks of every attention that has one."""
    seen: list[Tensor] = []
    attend = attention.attend

    def watched(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            seen.append(mask)
        return attend(q, k, v, mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "attend", watched)
        yield seen


@pytest.mark.parametrize(("trained", "kind"), ROLES)
@pytest.mark.parametrize(("model", "shape"), SHAPES, ids=IDS)
def test_the_arithmetic_is_what_torch_counts(model: str, shape: CallShape, trained: str, kind: NetworkKind) -> None:
    """Matrix products and convolutions, exactly; of attention with a mask what the mask hides is not counted."""
    fields = {"lora": lora()} if trained == "lora" else {}
    backbone, footprint = both(model, attention="dense", **fields)
    role = role_of(backbone, kind)
    call = calling(backbone, role, shape)
    width, counted = 2 * 12, footprint.flops(kind, shape, False)
    with (
        masks() as seen,
        sdpa_kernel(SDPBackend.MATH),
        torch.set_grad_enabled(shape.view != "reading"),
    ):
        with FlopCounterMode(display=False) as forward:
            result = call()
        hidden = sum(int((~mask).sum()) for mask in seen)
        assert counted == forward.get_total_flops() - 4 * width * hidden
        if shape.view == "reading":
            return
        with FlopCounterMode(display=False) as backward:
            result.sum().backward()
    both_ways = footprint.flops(kind, shape, True)
    assert both_ways - counted == backward.get_total_flops() - 8 * width * hidden


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [("attn2.to_k", "ffn.net.2"), LAYERS], ids=["two", "all"])
def test_the_arithmetic_of_adapters_on_other_layers(layers: tuple[str, ...], kind: NetworkKind) -> None:
    """Exactly, though what the first block attends to needs no gradient."""
    backbone, footprint = both("wan21", lora=LoraConfig(rank=3, layers=layers), architecture=architecture(layers=8))
    role = role_of(backbone, kind)
    call = calling(backbone, role, BIDIRECTIONAL[0])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        result = call()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        result.sum().backward()
    real = forward.get_total_flops() + backward.get_total_flops()
    assert footprint.flops(kind, BIDIRECTIONAL[0], True) == real


@pytest.mark.parametrize("trained", ["lora", "full"])
@pytest.mark.parametrize("shape", [CAUSAL[0], CAUSAL[5], CAUSAL[8]], ids=lambda shape: shape.view)
def test_recomputation_adds_the_forward_of_the_blocks(shape: CallShape, trained: str) -> None:
    """At most: torch stops recomputing a block at the last thing that backward asks for (here 7 % of it all)."""
    fields = {"lora": lora()} if trained == "lora" else {}
    backbone, footprint = both("far_wan21", gradient_checkpointing=True, attention="dense", **fields)
    call = calling(backbone, role_of(backbone, "flow_map"), shape)
    with masks() as seen, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False):
        result = call()
    hidden = sum(int((~mask).sum()) for mask in seen)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        result.sum().backward()
    real = backward.get_total_flops() - (8 + 4) * 2 * 12 * hidden
    said = footprint.flops("flow_map", shape, True) - footprint.flops("flow_map", shape, False)
    assert real <= said <= 1.08 * real


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["wan21", "far_wan21"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"lora": lora()}, {"lora": lora(), "base_precision": "bfloat16"}],
    ids=["full", "lora", "bfloat16"],
)
def test_parameters_and_their_bytes_are_those_of_a_real_model(
    model: str, kind: NetworkKind, fields: dict[str, Any], wan: Path
) -> None:
    config = config_of(model, weights=str(wan), architecture=None, **fields)
    frames = 4 * (FRAMES - 1) + 1
    spec = SampleSpec((frames, 3, 64, 96), text=True)
    backbone, footprint = config.build(spec), config.footprint(spec, "no")
    assert footprint is not None
    role = backbone.role("student", kind, None, draw())
    parameters = dict(module(role).transformer.named_parameters())
    own = {id(p) for p in role.own.values()}
    shared = [p for p in parameters.values() if id(p) not in own]
    assert footprint.base().count == sum(p.numel() for p in shared)
    assert footprint.base().bytes == sum(p.numel() * p.element_size() for p in shared)
    assert footprint.own(kind).count == sum(p.numel() for p in role.own.values())
    assert footprint.own(kind).bytes == sum(p.numel() * p.element_size() for p in role.own.values())
    unit = [p for name, p in parameters.items() if name.startswith("blocks.0.")]
    said = footprint.base().unit + footprint.own(kind).unit
    assert said == sum(p.numel() * p.element_size() for p in unit)
    every = footprint.base(), footprint.own(kind)
    assert all(part.bytes == 2 * part.unit + part.root for part in every)


@pytest.mark.parametrize("layers", [("attn1.to_q",), ("attn2.to_k", "attn2.to_out.0", "ffn.net.2"), LAYERS])
def test_adapters_go_where_the_recipe_says(layers: tuple[str, ...]) -> None:
    backbone, footprint = both("wan21", lora=LoraConfig(rank=2, layers=layers))
    own = role_of(backbone, "velocity").own
    adapted = {name.split(".lora_")[0].split("blocks.")[1].split(".", 1)[1] for name in own}
    assert adapted == set(layers)
    assert footprint.own("velocity").count == sum(p.numel() for p in own.values())


def test_the_layers_of_a_block_are_all_there_are() -> None:
    block = module(role_of(both("wan21")[0], "velocity")).transformer.blocks[0]
    assert tuple(name for name, layer in block.named_modules() if isinstance(layer, torch.nn.Linear)) == LAYERS


@pytest.mark.parametrize(
    ("recipe", "base", "three_roles"),
    [
        ("anyflow_far_14b", 14.32, 16.75),
        ("anyflow_wan_14b", 14.32, 16.75),
        ("anyflow_wan_1.3b", 1.42, 2.19),
        ("anyflow_far_1.3b", 1.42, 2.19),
    ],
)
def test_the_published_sizes(recipe: str, base: float, three_roles: float) -> None:
    """Three roles on one base, adapters of rank 256: 16.75B and 2.19B parameters."""
    read_recipe, _ = read(RECIPES / f"{recipe}.toml")
    footprint = read_recipe.backbone.footprint(read_recipe.data.spec(), read_recipe.compute.precision)
    assert footprint is not None
    assert footprint.base().count / 1e9 == pytest.approx(base, abs=0.005)
    count = footprint.base().count + footprint.own("flow_map").count + 2 * footprint.own("velocity").count
    assert count / 1e9 == pytest.approx(three_roles, abs=0.005)


def test_a_model_of_unknown_size_has_no_footprint(here: Path) -> None:
    config = Wan21Config(weights="someone/a-model")
    assert config.footprint(SampleSpec((5, 3, 32, 32)), "no") is None


def kept_by(call: Callable[[], Tensor], module: WanModule) -> int:
    """Bytes that autograd keeps of a real call, without parameters."""
    before = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in before:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    assert result.requires_grad
    return sum(size for size, _ in kept.values())


HELD = [("wan21", CallShape("whole", FRAMES)), *(("far_wan21", CAUSAL[i]) for i in (0, 3, 5, 7, 8))]


@pytest.mark.parametrize(("trained", "kind"), ROLES)
@pytest.mark.parametrize(("model", "shape"), HELD, ids=[f"{m}-{s.view}-{s.start}" for m, s in HELD])
def test_what_is_held_is_what_autograd_keeps(model: str, shape: CallShape, trained: str, kind: NetworkKind) -> None:
    fields = {"lora": lora()} if trained == "lora" else {}
    backbone, footprint = both(model, **{**fields, "architecture": architecture(layers=3)})
    role = role_of(backbone, kind)
    real = kept_by(calling(backbone, role, shape, 2), module(role))
    said = footprint.held(kind, shape, 2)
    assert said == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("shape", [HELD[1][1], HELD[3][1]], ids=lambda shape: shape.view)
def test_with_checkpointing_the_inputs_of_blocks_are_held(shape: CallShape) -> None:
    """Each further block adds its input, and what a block has inside is needed once."""
    said = {}
    for layers in (2, 5):
        _, footprint = both(
            "far_wan21", lora=lora(), gradient_checkpointing=True, architecture=architecture(layers=layers)
        )
        said[layers] = (
            footprint.held("flow_map", shape, 2),
            footprint.workspace("flow_map", shape, 2, gradient=True),
        )
    _, plain = both("far_wan21", lora=lora(), architecture=architecture(layers=2))
    tokens = 2 * 4 * 24 + 4 * 6 if shape.view == "forced" else FRAMES * 24
    assert said[5][0] - said[2][0] == 3 * 2 * tokens * 24 * 4
    assert said[5][1] == said[2][1]
    assert said[2][0] < plain.held("flow_map", shape, 2) / 3


def most_allocated(call: Callable[[], Any], gradient: bool) -> int:
    """The most bytes that torch's allocator has given out at any moment of a real call (and its backward)."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        with torch.set_grad_enabled(gradient):
            result = call()
        if gradient:
            result.backward(torch.ones_like(result))
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(itertools.accumulate(sizes))


PEAKS = [("wan21", BIDIRECTIONAL[0]), ("far_wan21", CAUSAL[7]), ("far_wan21", CAUSAL[8])]


@pytest.mark.parametrize("how", ["without gradient", "with gradient", "block", "selective"])
@pytest.mark.parametrize("trained", ["lora", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("model", "shape"), PEAKS, ids=[f"{m}-{s.view}-{s.start}" for m, s in PEAKS])
def test_the_most_that_is_needed_is_what_torch_allocates(model: str, shape: CallShape, trained: str, how: str) -> None:
    """Within 7 %; without a mask, which would be a dense one here."""
    fields: dict[str, Any] = {"lora": lora()} if trained == "lora" else {}
    fields |= {
        "architecture": architecture(layers=4),
        "gradient_checkpointing": how if how in ("block", "selective") else "none",
    }
    backbone, footprint = both(model, **fields)
    role = role_of(backbone, "flow_map")
    for parameter in role.own.values():
        parameter.grad = torch.zeros_like(parameter)
    gradient = how != "without gradient"
    call = calling(backbone, role, shape, 3)
    call()  # what is remembered from now on
    real = most_allocated(call, gradient)
    said = footprint.workspace("flow_map", shape, 3, gradient)
    said += footprint.held("flow_map", shape, 3) if gradient else 0
    assert said == pytest.approx(real, rel=0.07)


def test_measuring_leaves_nothing_behind() -> None:
    """Fake tensors that were remembered would spoil real calls after it, and real ones those with fake tensors."""
    backbone, footprint = both("far_wan21", lora=lora())
    role = role_of(backbone, "flow_map")
    call = calling(backbone, role, CAUSAL[3])
    first = call()
    footprint.held("flow_map", CAUSAL[3], 1)
    assert torch.equal(first, call())


def test_the_memory_is_as_large_as_the_real_one() -> None:
    backbone, footprint = both("far_wan21")
    role = role_of(backbone, "velocity")
    for shape in (CAUSAL[6], CAUSAL[7], CAUSAL[8]):
        chunks, cond = backbone.chunking(), prompt(1, TOKENS)
        x0 = noise(1, FRAMES, CHANNELS, *SIDES)
        done = 0
        with torch.no_grad():
            seen: Any = cond
            for size in CHUNKS:
                if done + size <= shape.start:
                    seen = chunks.remember(role.network, seen, x0[:, done : done + size])
                    done += size
        real = sum(x.nbytes for layer in seen.view.memory.past.layers for x in layer.tensors())
        assert footprint.memory(shape.start) == real


@pytest.mark.parametrize("layers", [("attn1.to_q",), ("attn2.to_k",), None])
def test_what_is_remembered_of_a_prompt_is_as_large_as_the_real_thing(layers: tuple[str, ...] | None) -> None:
    backbone, footprint = both("wan21", **({"lora": LoraConfig(rank=2, layers=layers)} if layers else {}))
    role = backbone.role("student", "velocity", None, draw())
    cond = prompt(1, TOKENS)
    role.network.velocity(noise(1, FRAMES, CHANNELS, *SIDES), torch.ones(1), cond)
    assert cond.memo is not None
    kept = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for x in tree_leaves(cond.memo._made)
        if isinstance(x, Tensor)
    }
    assert footprint.prompt() == sum(kept.values())


def test_few_calls_are_run_to_know_the_arithmetic_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are constants: the tests above hold each of these calls to the real network."""
    run = list[tuple[int, str]]()
    count = MeasuredFootprint._counted_on

    def noted(self: MeasuredFootprint, device: str, units: int, *rest: Any) -> Any:
        run.append((units, rest[1].view))
        return count(self, device, units, *rest)

    monkeypatch.setattr(MeasuredFootprint, "_counted_on", noted)
    wan_measured.cache_clear()
    footprint = config_of("far_wan21", lora=lora()).footprint(SampleSpec((FRAMES, CHANNELS, *SIDES), text=True), "no")
    assert footprint is not None
    for shape, gradient in itertools.product(CAUSAL, (False, True)):
        if not (gradient and shape.view == "reading"):
            footprint.flops("flow_map", shape, gradient)
    # Constants of a first block: one each, pieces, answers, tokens, pairs; and four where compressed frames have a
    # gradient. Of a further one: one each, tokens, pairs.
    assert len([units for units, _ in run if units == 1]) <= 10 < len(CAUSAL)
    assert len([units for units, _ in run if units == 2]) <= 5


@pytest.mark.parametrize("start", [0, 3, 6])
def test_what_is_read_stays_and_what_it_takes_to_read_does_not(start: int) -> None:
    """Of blocks that are alike: measured on one and two of them, and on all five at once."""
    spec = SampleSpec((12, CHANNELS, 8, 8), text=True)
    sizes = {**architecture().diffusers(), "text_dim": 8}

    def make(units: int) -> ModuleBackbone:
        return of_sizes(CausalWan21Config(weights="random"), spec, {**sizes, "num_layers": units})

    found = MeasuredFootprint(make, 5, "bf16", within=without_turns)
    real = MeasuredFootprint(lambda _: make(5), 1, "bf16", within=without_turns)
    shape = CallShape("reading", 3, start)
    taken = found.workspace("flow_map", shape, 1, gradient=False)
    copies = sum(p.numel() for p in make(4).role("x", "velocity", None, draw()).own.values()) * 2
    # Where networks may be trained, autocast keeps a copy of each weight in bfloat16 as long as the call lasts.
    assert taken <= real.workspace("flow_map", shape, 1, gradient=False) <= taken + copies
    kept = found.memory(start + 3) - (found.memory(start) if start else 0)
    assert (
        kept <= taken <= kept + found.workspace("flow_map", CallShape("following", 3, start + 3), 1, gradient=False) * 2
    )
