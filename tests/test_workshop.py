"""The workshop for backbones: conditions, loading, adapters and their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.interfaces import Cond, EncodedText, NoCond, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.workshop import Adapters, Architecture, Chosen, ModuleBackbone, NoCodec, TensorCond, conditions, labelled
from flowmap.workshop.adapter_files import merge_into, read_adapter, write_adapter
from flowmap.workshop.adapters import own_of, plain_state

CPU = torch.device("cpu")


class Small(nn.Module):
    """(x, t, r, cond) of [B, F, D]; two linear layers, and one that has whole copies."""

    def __init__(self, chosen: Chosen | None = None, recomputed: bool = False) -> None:
        super().__init__()
        self.chosen, self.recomputed = chosen, recomputed
        self.first, self.second, self.extra = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        gap = t if r is None else t - r
        h = torch.cat([x, t[..., None, None].expand(*x.shape[:2], 1), gap[..., None, None].expand(*x.shape[:2], 1)], 2)
        if self.recomputed and self.chosen is not None:
            return self.extra(self.chosen.checkpointed(self.block, h=h))
        return self.extra(self.block(h))

    def block(self, h: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(h)))


ADAPTERS = Adapters(rank=2, alpha=5.0, layers="first", timed="second", whole=("extra",))


def backbone(adapters: Adapters | None = ADAPTERS, recomputed: bool = False) -> ModuleBackbone:
    architecture = Architecture(lambda two_times, chosen: Small(chosen, recomputed), adapters=adapters)
    return ModuleBackbone("small", architecture, NoCodec((3, 4)))


def draw(count: int = 1) -> Draw:
    return Draw.whole(3, "workshop", 0, "test", count)


def disturb(own: dict[str, nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in own.values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_a_text_of_several_encoders_keeps_its_parts_together() -> None:
    text = EncodedText(
        torch.arange(12.0).reshape(3, 2, 2),
        torch.full((2, 2), -1.0),
        {"pooled": torch.arange(3.0)[:, None], "mask": torch.ones(3, 2)},
        {"pooled": torch.tensor([-5.0]), "mask": torch.zeros(2)},
    )
    cond, null = conditions(text, 3, CPU)
    assert isinstance(cond, TensorCond)
    assert isinstance(null, TensorCond)
    assert null.tensors.keys() == cond.tensors.keys() == {"text", "pooled", "mask"}
    assert null["pooled"].tolist() == [[-5.0]] * 3
    both = cond.join(null).take(torch.tensor([4, 1]))
    assert both["pooled"].tolist() == [[-5.0], [1.0]]
    assert both["mask"].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert torch.equal(both["text"], torch.stack([text.null, text.text[1]]))
    chosen = text.take(torch.tensor([2]))
    assert chosen.others["pooled"].tolist() == [[2.0]]
    assert chosen.null_others is text.null_others


@pytest.mark.parametrize(("others", "nulls"), [({"pooled": 1}, {}), ({}, {"pooled": 1}), ({"text": 1}, {"text": 1})])
def test_a_part_of_a_text_without_its_null_is_refused(others: dict[str, int], nulls: dict[str, int]) -> None:
    tensors = [{key: torch.zeros(1, 2) for key in group} for group in (others, nulls)]
    with pytest.raises(ValueError, match="what comes with a text is called"):
        EncodedText(torch.zeros(1, 2, 2), torch.zeros(2, 2), *tensors)


def test_labels_have_a_null_beyond_the_classes() -> None:
    cond, null = labelled(4)(torch.tensor([0, 3]), 2, CPU)
    assert isinstance(cond, TensorCond)
    assert isinstance(null, TensorCond)
    assert (cond["labels"].tolist(), null["labels"].tolist()) == ([0, 3], [4, 4])
    assert isinstance(labelled(4)(None, 2, CPU)[0], NoCond)


@pytest.mark.parametrize(
    ("prompts", "classes", "why"),
    [(torch.tensor([1]), 0, "made for data without classes"), ({"a": 1}, 3, "class labels or encoded texts")],
)
def test_prompts_that_no_network_could_take_are_refused(prompts: Any, classes: int, why: str) -> None:
    with pytest.raises(FlowmapError, match=why):
        labelled(classes)(prompts, 1, CPU)


def test_layers_with_running_statistics_are_refused() -> None:
    architecture = Architecture(lambda two_times, chosen: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    with pytest.raises(FlowmapError, match=r"layer '1' \(BatchNorm1d\) keeps running statistics"):
        ModuleBackbone("small", architecture, NoCodec((1, 2))).role("student", "velocity", None, draw())


class Tied(nn.Module):
    """Two layers with one weight, or one layer in two places."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2)
        self.two = self.one if whole else nn.Linear(2, 2)
        self.two.weight = self.one.weight


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("adapters", [None, Adapters(2, 2.0, "one|two")])
def test_tied_weights_are_refused(whole: bool, adapters: Adapters | None) -> None:
    """By name they would be set, averaged and saved once, and adapted in one place alone."""
    architecture = Architecture(lambda two_times, chosen: Tied(whole), adapters=adapters)
    made = ModuleBackbone("tied", architecture, NoCodec((1, 2)))
    with pytest.raises(FlowmapError, match=r"backbone 'tied': 'one.weight' and 'two.weight' are one \(tied weights"):
        made.role("student", "velocity", None, draw())


def test_what_is_trained_is_held_in_full_whatever_it_was_stored_in() -> None:
    stored = {key: p.detach().bfloat16() for key, p in Small().named_parameters()}
    for adapters, precision in ((None, torch.float32), (ADAPTERS, torch.bfloat16)):
        architecture = Architecture(lambda two_times, chosen: Small(chosen), adapters=adapters, base=lambda: stored)
        role = ModuleBackbone("small", architecture, NoCodec((3, 4))).role("student", "flow_map", None, draw())
        assert {p.dtype for p in role.own.values()} == {torch.float32}
        assert role.module.get_submodule("first").get_parameter("weight").dtype == precision


def test_weights_that_are_no_numbers_with_a_point_are_refused() -> None:
    stored = {key: p.detach() for key, p in Small().named_parameters()} | {"first.bias": torch.zeros(8).long()}
    architecture = Architecture(lambda two_times, chosen: Small(chosen), base=lambda: stored)
    with pytest.raises(FlowmapError, match=r"first.bias is of torch.int64, and weights are floating-point numbers"):
        ModuleBackbone("small", architecture, NoCodec((3, 4))).role("student", "velocity", None, draw())


class TwoTimed(Small):
    """With an embedder of r, or without."""

    def __init__(self, two_times: bool) -> None:
        super().__init__()
        self.r_embedder = nn.Linear(1, 1) if two_times else None


def test_weights_of_the_other_kind_are_refused_with_what_to_do() -> None:
    """An embedder of r that starts as nothing, and one for which a network of one time has no place."""
    architecture = Architecture(lambda two_times, chosen: TwoTimed(two_times))
    made = ModuleBackbone("small", architecture, NoCodec((3, 4)))
    single = dict(made.role("a", "velocity", None, draw()).own)
    with pytest.raises(FlowmapError, match=r"starts as a copy of others: see Architecture.copies"):
        made.role("b", "flow_map", single, draw())
    # What is missing besides is damage, and no copy mends it.
    damaged = {key: value for key, value in single.items() if key != "first.bias"}
    with pytest.raises(FlowmapError, match=r"is missing$"):
        made.role("b", "flow_map", damaged, draw())
    architecture = Architecture(lambda two_times, chosen: TwoTimed(two_times), copies={"r_embedder.": "none."})
    double = {**single, "r_embedder.weight": torch.zeros(1, 1), "r_embedder.bias": torch.zeros(1)}
    with pytest.raises(FlowmapError, match=r"of a network of two times, and this one has one: make both kinds"):
        ModuleBackbone("small", architecture, NoCodec((3, 4))).role("c", "velocity", double, draw())


def test_an_unknown_word_for_times_is_refused() -> None:
    with pytest.raises(ValueError, match="times is 'frames'; it is one of sample, frame, either"):
        Architecture(lambda two_times, chosen: Small(), times="frames")  # type: ignore[arg-type]


class Nested(Small):
    """With a module in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential()
        self.inner.add_module("extra", nn.Linear(2, 2))


def test_weights_are_those_given_and_drawn_by_nobody() -> None:
    made = backbone(None)
    weights = {key: p.detach().clone() for key, p in made.role("a", "velocity", None, draw()).own.items()}
    before = torch.random.get_rng_state()
    role = made.role("b", "flow_map", weights, draw())
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(role.own[key], value) and role.own[key] is not value for key, value in weights.items())
    assert all(p.requires_grad for p in role.own.values())


# Adapters


@pytest.mark.parametrize("recomputed", [False, True])
def test_adapters_are_those_of_peft(recomputed: bool, one_thread: None) -> None:
    """The same output and the same gradients as PEFT's own layers with the same numbers."""
    made = backbone(recomputed=recomputed)
    roles = [made.role(name, "flow_map", None, draw()) for name in ("student", "other")]
    for seed, role in enumerate(roles):
        disturb(role.own, seed)
    x, t, cond = draw(4).normal("x", (3, 4)), draw(4).uniform("t"), NoCond()
    outs = [as_flow_map(role.network).mean_velocity(x, t, 0.5 * t, cond) for role in roles]
    with torch.no_grad():
        roles[0].network.velocity(x, t, cond)
    (outs[0].square().sum() + 3 * outs[1].sum()).backward()
    for role, out, loss in zip(roles, outs, (lambda y: y.square().sum(), lambda y: 3 * y.sum()), strict=True):
        theirs = Small()
        theirs.load_state_dict(plain_state(role.module, None))
        config = LoraConfig(r=2, lora_alpha=5.0, target_modules=["first", "second"], modules_to_save=["extra"])
        wrapped = get_peft_model(theirs, config)  # type: ignore[arg-type]
        names = {
            key.replace("base_model.model.", "").replace(".default", ""): p for key, p in wrapped.named_parameters()
        }
        with torch.no_grad():
            for key, value in role.own.items():
                names[key].copy_(value)
        expected = wrapped(x, t, 0.5 * t, cond)
        assert float((out - expected).detach().abs().max()) < 1e-6
        loss(expected).backward()
        assert {key for key in role.own if role.own[key].grad is None} == set()
        for key, parameter in role.own.items():
            assert torch.allclose(parameter.grad, names[key].grad, rtol=1e-5, atol=1e-6), key


def test_merged_weights_compute_the_same() -> None:
    made = backbone()
    role = made.role("student", "flow_map", None, draw())
    disturb(role.own, 1)
    plain = Small()
    assert plain_state(role.module, "student").keys() == plain.state_dict().keys()
    plain.load_state_dict(plain_state(role.module, "student"))
    x, t = draw(4).normal("x", (3, 4)), draw(4).uniform("t")
    ours = as_flow_map(role.network).mean_velocity(x, t, 0.5 * t, NoCond())
    assert float((ours - plain(x, t, 0.5 * t, NoCond())).detach().abs().max()) < 1e-6
    base = made.role("fresh", "flow_map", None, draw())
    plain.load_state_dict(plain_state(role.module, None))
    begun = as_flow_map(base.network).mean_velocity(x, t, 0.5 * t, NoCond())
    assert torch.equal(begun, plain(x, t, 0.5 * t, NoCond()))


CANNOT = {
    "nothing": (Adapters(2, 2.0, "nothing"), "no layer of a Nested is called as adapters ask: nothing"),
    "nothing timed": (Adapters(2, 2.0, "first", timed="nobody"), "is called as adapters ask: nobody"),
    "no module": (Adapters(2, 2.0, "first", whole=("extras",)), "a Nested has no module 'extras', to be copied"),
    "one in another": (Adapters(2, 2.0, "first", whole=("inner", "inner.extra")), "'inner.extra' lies in another"),
    "no linear layer": (Adapters(2, 2.0, "first|inner"), "layer inner is a Sequential; adapters go on plain linear"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_a_layer_that_cannot_be_adapted_is_named(case: str) -> None:
    adapters, why = CANNOT[case]
    architecture = Architecture(lambda two_times, chosen: Nested(), adapters=adapters)
    with pytest.raises(FlowmapError, match=why):
        ModuleBackbone("small", architecture, NoCodec((3, 4))).role("student", "velocity", None, draw())


def test_compiled_layers_follow_the_role_without_a_break() -> None:
    """One graph for each role: nothing in an adapted layer makes the compiler give up."""
    made = backbone()
    roles = [made.role(name, "flow_map", None, draw()) for name in ("student", "teacher")]
    for seed, role in enumerate(roles):
        disturb(role.own, seed)
    module: Any = roles[0].module
    h = draw(2).normal("h", (3, 6))
    torch.compiler.reset()
    graphs: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(module.block, backend=count, fullgraph=True)
    for _ in range(2):
        for name in ("student", "teacher", None):
            with module.chosen.to(name):
                assert torch.equal(compiled(h), module.block(h))
    assert len(graphs) == 3
    torch.compiler.reset()


# Files


@pytest.fixture
def role_own() -> tuple[Any, dict[str, nn.Parameter]]:
    role = backbone(Adapters(2, 5.0, "first|second")).role("student", "flow_map", None, draw())
    disturb(role.own, 2)
    return role.module, own_of(role.module, "student")


def test_peft_reads_what_is_written(role_own: tuple[Any, dict[str, nn.Parameter]], tmp_path: Path) -> None:
    module, own = role_own
    write_adapter(own, 2, 5.0, tmp_path / "made")
    theirs = Small()
    theirs.load_state_dict(plain_state(module, None))
    wrapped = PeftModel.from_pretrained(theirs, str(tmp_path / "made"))  # type: ignore[arg-type]
    plain = Small()
    plain.load_state_dict(plain_state(module, "student"))
    x, t = draw(4).normal("x", (3, 4)), draw(4).uniform("t")
    assert float((wrapped(x, t, None, NoCond()) - plain(x, t, None, NoCond())).detach().abs().max()) < 1e-6


def test_what_peft_writes_is_read(tmp_path: Path) -> None:
    wrapped = get_peft_model(Small(), LoraConfig(r=3, lora_alpha=12, target_modules=["first"]))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter.add_(0.1)
    wrapped.save_pretrained(str(tmp_path))
    read = read_adapter(tmp_path)
    assert (read.rank, read.alpha) == (3, 12.0)
    assert set(read.weights) == {"first.lora_A.weight", "first.lora_B.weight"}
    base = {
        key.replace("base_model.model.", "").replace("base_layer.", ""): p for key, p in wrapped.state_dict().items()
    }
    merged = merge_into({key: p for key, p in base.items() if "lora" not in key}, read, "x")
    assert torch.allclose(merged["first.weight"], wrapped.merge_and_unload().first.weight)


@pytest.mark.parametrize("form", ["diffusers", "peft"])
def test_what_is_written_is_read(form: str, role_own: tuple[Any, dict[str, nn.Parameter]], tmp_path: Path) -> None:
    _, own = role_own
    file = write_adapter(own, 2, 5.0, tmp_path / "made")
    if form == "peft":
        file.unlink()
    read = read_adapter(tmp_path / "made")
    assert (read.rank, read.alpha) == (2, 5.0)
    assert read.weights.keys() == own.keys()
    assert all(torch.equal(read.weights[key], own[key]) for key in own)


def change(file: Path, edit: Callable[[dict[str, Tensor]], object], **metadata: str) -> None:
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata=metadata or None)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda f: f.unlink(), "has no adapter: there is neither"),
    "half": (lambda f: change(f, lambda t: t.pop("first.lora_B.weight")), "of layer first there is only lora_A"),
    "ranks": (
        lambda f: change(
            f, lambda t: t.update({"first.lora_A.weight": torch.zeros(3, 6), "first.lora_B.weight": torch.zeros(8, 3)})
        ),
        r"its layers have ranks \[2, 3\]",
    ),
    "empty": (lambda f: change(f, lambda t: t.clear()), "it is empty"),
    "another kind": (lambda f: change(f, lambda t: t.update(x=torch.zeros(2))), "x is no part of a low-rank adapter"),
    "not finite": (
        lambda f: change(f, lambda t: t["first.lora_A.weight"].fill_(torch.nan)),
        "has numbers that are not finite",
    ),
    "alpha": (
        lambda f: change(f, lambda t: None, lora_adapter_metadata=json.dumps({"lora_alpha": "much"})),
        "lora_alpha is 'much'; it is a number above 0",
    ),
    "patterns": (
        lambda f: change(f, lambda t: None, lora_adapter_metadata=json.dumps({"rank_pattern": {"first": 3}})),
        "its layers differ in rank or alpha",
    ),
    "cut": (lambda f: f.write_bytes(f.read_bytes()[:-9]), "cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_adapter_that_is_none_is_refused(
    case: str, role_own: tuple[Any, dict[str, nn.Parameter]], tmp_path: Path
) -> None:
    file = write_adapter(role_own[1], 2, 5.0, tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    breaking, why = BROKEN[case]
    breaking(file)
    with pytest.raises(FlowmapError, match=why):
        read_adapter(tmp_path)


def test_an_adapter_of_another_base_is_refused(role_own: tuple[Any, dict[str, nn.Parameter]], tmp_path: Path) -> None:
    module, own = role_own
    write_adapter(own, 2, 5.0, tmp_path)
    base, read = plain_state(module, None), read_adapter(tmp_path)
    with pytest.raises(FlowmapError, match=r"x: adapts a layer second of \[4, 8\], and the base has none of that name"):
        merge_into({key: value for key, value in base.items() if "second" not in key}, read, "x")
    with pytest.raises(FlowmapError, match=r"first of \[8, 6\], and the base has one of \[8, 7\]"):
        merge_into({**base, "first.weight": torch.zeros(8, 7)}, read, "x")
