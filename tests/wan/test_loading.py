"""Weights from plain Wan and AnyFlow checkpoints: complete, and the same function, or one message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_anyflow import AnyFlowTransformer3DModel
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowFARTransformer3DModel
from flowmap_wan.checkpoint import PUBLISHED, Checkpoint
from flowmap_wan.condition import VideoCond
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.settings import ArchitectureConfig
from flowmap_wan.twin import make_twin
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Role, as_flow_map
from flowmap.plugin import SampleSpec
from flowmap.weights.pipeline import missing
from flowmap.workshop.backbone import ModuleBackbone

from .support import built, draw, error, lora, module, noise

SPEC = SampleSpec((9, 3, 48, 80))
KINDS = pytest.mark.parametrize("kind", ["wan21", "far_wan21"])


def configured(kind: str, weights: Path | str, **fields: Any) -> Wan21Config | FarWan21Config:
    if kind == "wan21":
        return Wan21Config(weights=str(weights), **fields)
    fields = {"chunks": (1, 2), "compressed_patch_size": (1, 6, 10), **fields}
    return FarWan21Config(weights=str(weights), **fields)


def backbone(kind: str, weights: Path | str, **fields: Any) -> ModuleBackbone:
    return built(configured(kind, weights, **fields), SPEC)


def inputs() -> tuple[Tensor, Tensor, Tensor, VideoCond]:
    cond = VideoCond(noise(2, 7, 16, seed=3))
    return noise(2, 3, 16, 6, 10), torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.0]), cond


def role(made: ModuleBackbone) -> Role:
    return made.role("student", "flow_map", None, draw())


@KINDS
@pytest.mark.parametrize("adapted", [False, True])
@torch.no_grad()
def test_a_fresh_student_is_wan_where_r_is_t(kind: str, adapted: bool, wan: Path) -> None:
    x, t, _, cond = inputs()
    reference = WanTransformer3DModel.from_pretrained(wan / "transformer")
    theirs = reference(x.transpose(1, 2), 1000 * t, cond.text, return_dict=False)[0].transpose(1, 2)
    made = backbone(kind, wan, lora=lora() if adapted else None)
    network = as_flow_map(role(made).network)
    assert error(network.velocity(x, t, cond), theirs) < 1e-5
    assert error(made.role("teacher", "velocity", None, draw()).network.velocity(x, t, cond), theirs) < 1e-5
    assert error(network.mean_velocity(x, t, 0.5 * t, cond), theirs) > 1e-3


def save(kind: type[Any], folder: Path, shard: str = "10GB", **fields: Any) -> Any:
    """Put a model of `kind` with weights of its own, in the sizes of the checkpoint there, in its place."""
    config = json.loads((folder / "transformer" / "config.json").read_text())
    kept = ("num_attention_heads", "attention_head_dim", "text_dim", "freq_dim", "ffn_dim", "num_layers")
    model = kind(**{key: config[key] for key in kept}, **fields)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    shutil.rmtree(folder / "transformer")
    model.save_pretrained(folder / "transformer", max_shard_size=shard)
    return model


@pytest.mark.parametrize("delta", ["r", "t-r"])
@pytest.mark.parametrize("shard", ["10GB", "50KB"])
@torch.no_grad()
def test_weights_of_anyflow(delta: str, shard: str, copy: Path) -> None:
    model = save(AnyFlowTransformer3DModel, copy, shard, gate_value=0.4, deltatime_type=delta)
    assert (len(list((copy / "transformer").glob("*.safetensors"))) > 1) == (shard == "50KB")
    x, t, r, cond = inputs()
    theirs = model(x, *(1000 * s[:, None].expand(-1, 3) for s in (t, r)), cond.text, return_dict=False)[0]
    for kind in ("wan21", "far_wan21"):
        made = role(backbone(kind, copy, gate=0.9))
        assert error(as_flow_map(made.network).mean_velocity(x, t, r, cond), theirs) < 1e-5


@torch.no_grad()
def test_weights_of_far(copy: Path) -> None:
    fields = {"compressed_patch_size": (1, 6, 10), "full_chunk_limit": 2, "chunk_partition": (1, 2), "gate_value": 0.4}
    model = save(AnyFlowFARTransformer3DModel, copy, **fields)
    made = backbone("far_wan21", copy, full_chunks=2)
    ours = module(role(made)).transformer
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert all(bool(torch.equal(v, model.state_dict()[k])) for k, v in ours.state_dict().items())
    assert float(ours.condition_embedder.delta_emb_gate) == pytest.approx(0.4)
    with pytest.raises(FlowmapError, match=r"copy is a causal checkpoint; use backbone type 'far_wan21'"):
        role(backbone("wan21", copy))
    with pytest.raises(FlowmapError, match=r"1 parameters differ.*far_patch_embedding\.weight"):
        role(backbone("far_wan21", copy, full_chunks=2, compressed_patch_size=(1, 2, 2)))
    with pytest.raises(FlowmapError, match=r"2 chunks at full resolution.* is 3; set it to 2"):
        role(backbone("far_wan21", copy, full_chunks=3))


@pytest.mark.parametrize("causal", [False, True])
def test_weights_of_anyflow_as_they_were_first_released(causal: bool, copy: Path) -> None:
    fields = {"compressed_patch_size": (1, 6, 10), "full_chunk_limit": 2} if causal else {}
    model = save(AnyFlowFARTransformer3DModel if causal else AnyFlowTransformer3DModel, copy, **fields)
    file = copy / "transformer" / "config.json"
    told = {"_class_name": "FAR_Wan_Transformer3DModel", "init_far_model": causal, "init_flowmap_model": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | told | {"qk_norm": "rms_norm_across_heads"}))
    ours = module(role(backbone("far_wan21" if causal else "wan21", copy, **({"full_chunks": 2} if causal else {}))))
    assert all(bool(torch.equal(v, model.state_dict()[k])) for k, v in ours.transformer.state_dict().items())


def released(folder: Path, causal: bool, **told: Any) -> None:
    """Put a model of the released class in the place of the checkpoint's, whose configuration says `told`."""
    fields = {"compressed_patch_size": (1, 6, 10), "full_chunk_limit": 2} if causal else {}
    save(AnyFlowFARTransformer3DModel if causal else AnyFlowTransformer3DModel, folder, **fields)
    reconfigure(folder, _class_name="FAR_Wan_Transformer3DModel", **told)


def without(folder: Path, start: str) -> None:
    edit(folder, lambda state: [state.pop(key) for key in list(state) if key.startswith(start)])


def forget(folder: Path, field: str) -> None:
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != field}))


DELTA, FAR = "condition_embedder.delta_embedder.", "far_patch_embedding."
BOTH = {"init_flowmap_model": True, "init_far_model": True}
CONTRADICTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "neither key, two times": (
        lambda f: released(f, causal=False),
        f"says init_flowmap_model = false, and the weights have {DELTA}*; set init_flowmap_model = true, with "
        "gate_value and deltatime_type as in training",
    ),
    "no second key, causal": (
        lambda f: released(f, causal=True, init_flowmap_model=True),
        f"says init_far_model = false, and the weights have {FAR}*; set init_far_model = true",
    ),
    "first key, no second time": (
        lambda f: [released(f, causal=False, init_flowmap_model=True), without(f, DELTA)],
        f"says init_flowmap_model = true, and the weights have no {DELTA}*; fetch or export them again",
    ),
    "second key, not causal": (
        lambda f: [released(f, causal=True, **BOTH), without(f, FAR)],
        f"says init_far_model = true, and the weights have no {FAR}*; fetch or export them again",
    ),
    "no gate": (
        lambda f: [released(f, causal=False, init_flowmap_model=True), forget(f, "gate_value")],
        ": gate_value is missing; set it as in training (AnyFlow has 0.25)",
    ),
    "causal with one time": (
        lambda f: [released(f, causal=True, init_far_model=True), without(f, DELTA)],
        "says init_far_model without init_flowmap_model: no backbone here is causal with one time",
    ),
    "diffusers' class, no second time": (
        lambda f: [save(AnyFlowTransformer3DModel, f), without(f, DELTA)],
        f"says _class_name = AnyFlowTransformer3DModel, and the weights have no {DELTA}*; fetch or export them again",
    ),
    "plain Wan, two times": (
        lambda f: [save(AnyFlowTransformer3DModel, f), reconfigure(f, _class_name="WanTransformer3DModel")],
        f"says _class_name = WanTransformer3DModel, and the weights have {DELTA}*; fetch or export them again",
    ),
}


@KINDS
@pytest.mark.parametrize(("change", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_configuration_that_its_weights_contradict(
    kind: str, change: Callable[[Path], object], message: str, copy: Path
) -> None:
    """The released class would drop what its configuration does not name, and warn at most."""
    change(copy)
    config = configured(kind, copy, **({"full_chunks": 2} if kind == "far_wan21" else {}))
    words = f"{copy}/transformer/config.json {message}".replace(" : ", ": ")
    assert [finding.message for finding in config.findings(SPEC) if finding.level == "error"] == [words]
    with pytest.raises(FlowmapError) as caught:
        role(config.build(SPEC))  # type: ignore[arg-type]
    assert str(caught.value) in (words, f"{copy} is a causal checkpoint; use backbone type 'far_wan21'")


def test_a_released_class_of_one_time_is_plain_wan(copy: Path, wan: Path) -> None:
    reconfigure(copy, _class_name="FAR_Wan_Transformer3DModel", init_flowmap_model=False, gate_value=0)
    told = configured("wan21", copy).pretrained()
    assert told is not None
    assert told.kind == "velocity"
    ours, plain = (role(backbone("wan21", folder)).own for folder in (copy, wan))
    assert all(torch.equal(value, plain[key]) for key, value in ours.items())


def test_a_variant_beside_the_weights_is_left_alone(copy: Path) -> None:
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights.with_name("zzz.safetensors"))
    own = role(backbone("wan21", copy)).own
    assert torch.equal(own["patch_embedding.weight"], load_file(weights)["patch_embedding.weight"])


def test_a_role_may_be_called_like_a_layer(wan: Path) -> None:
    made = backbone("wan21", wan, lora=lora())
    own = made.role("attn1", "flow_map", None, draw()).own
    assert own.keys() == made.role("student", "flow_map", None, draw()).own.keys()


@pytest.mark.parametrize(
    ("sizes", "compressed", "message"),
    [
        ({"patch": (2, 2, 2)}, (1, 4, 4), "a patch has one frame"),
        ({"head_dim": 13}, (1, 4, 4), "give an even number"),
        ({}, (1, 3, 4), "whole multiples of a full frame's patch 2 x 2"),
        ({}, (2, 4, 4), "must be one frame"),
    ],
)
def test_sizes_that_would_compute_wrongly_are_refused(
    sizes: dict[str, Any], compressed: tuple[int, int, int], message: str
) -> None:
    architecture = ArchitectureConfig(**{"channels": 1, **sizes})
    fields = {"architecture": architecture, "chunks": (2, 2), "compressed_patch_size": compressed}
    config = FarWan21Config(weights="random", **fields)
    found = [f.message for f in config.findings(SampleSpec((4, 1, 12, 12)))]
    assert any(message in text for text in found), found


@KINDS
def test_what_plain_wan_lacks_is_a_copy_of_its_own(kind: str, wan: Path) -> None:
    own = role(backbone(kind, wan)).own
    storages: dict[int, str] = {}
    for name, parameter in own.items():
        assert parameter.data_ptr() not in storages, f"{name} is {storages[parameter.data_ptr()]}"
        storages[parameter.data_ptr()] = name
    time, delta = (own[f"condition_embedder.{e}_embedder.linear_1.weight"] for e in ("time", "delta"))
    assert torch.equal(time, delta)
    if kind == "far_wan21":
        far, fine = own["far_patch_embedding.weight"], own["patch_embedding.weight"]
        larger = torch.nn.functional.interpolate(fine.flatten(0, 1)[:, None], size=far.shape[2:], mode="trilinear")
        assert torch.equal(far, larger.reshape(far.shape))
        assert torch.equal(own["far_patch_embedding.bias"], own["patch_embedding.bias"])


@KINDS
def test_a_base_in_bfloat16_keeps_times_tables_and_norms(kind: str, wan: Path) -> None:
    made = backbone(kind, wan, lora=lora(), base_precision="bfloat16")
    model = module(role(made)).transformer
    exact = ("time_embedder", "delta_embedder", "scale_shift_table", "norm2")
    for name, parameter in model.named_parameters():
        kept = any(part in name for part in (*exact, "lora_", ".roles."))
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16), name
    assert model.condition_embedder.delta_emb_gate.dtype == torch.float32


@KINDS
@pytest.mark.parametrize("mixed", [False, True])
def test_a_base_in_bfloat16_computes_about_the_same(kind: str, mixed: bool, wan: Path) -> None:
    x, t, r, cond = inputs()
    x, results = x[:, :1], []
    for precision in ("float32", "bfloat16"):
        chunks = {"chunks": (1, 1, 1), "full_chunks": 2} if kind == "far_wan21" else {}
        made = backbone(kind, wan, lora=lora(), base_precision=precision, **chunks)
        student = role(made)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed and precision == "bfloat16"):
            with torch.no_grad():
                cond = made.chunking().given(student.network, cond, noise(2, 2, 16, 6, 10, seed=8))  # type: ignore
            result = as_flow_map(student.network).mean_velocity(x, t, r, cond)
        assert result.dtype == torch.float32
        result.square().sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in student.own.values() if p.grad is not None)
        results.append(result.detach())
        cond = inputs()[3]
    assert 0 < error(results[1], results[0]) < 0.05 * float(results[0].abs().max())


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)


def reconfigure(folder: Path, **fields: Any) -> None:
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def cut(folder: Path) -> None:
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


NORM = "blocks.1.attn1.norm_k.weight"
MISFITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing key": (lambda f: edit(f, lambda s: s.pop(NORM)), rf"transformer.* 1 parameters differ, first {NORM}"),
    "missing times": (
        lambda f: edit(f, lambda s: s.pop("condition_embedder.time_embedder.linear_2.bias")),
        r"1 parameters differ, first condition_embedder\.time_embedder\.linear_2\.bias is missing",
    ),
    "extra key": (lambda f: edit(f, lambda s: s.update(odd=torch.zeros(1))), "1 parameters differ, first odd"),
    "wrong shape": (
        lambda f: edit(f, lambda s: s.update({NORM: torch.zeros(7)})),
        f"transformer.* 1 parameters differ, first {NORM}",
    ),
    "truncated": (cut, r"diffusion_pytorch_model\.safetensors cannot be read.*damaged"),
    "image encoder": (lambda f: reconfigure(f, image_dim=1280), "separate image-to-video model"),
    "image channels": (lambda f: reconfigure(f, in_channels=36), "separate image-to-video model"),
    "another model": (lambda f: reconfigure(f, _class_name="FluxTransformer2DModel"), "holds a FluxTransformer2DModel"),
    "no JSON": (lambda f: (f / "transformer" / "config.json").write_text("{"), r"config\.json is not JSON"),
}


@KINDS
@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_weights_that_do_not_fit(kind: str, change: Callable[[Path], object], message: str, copy: Path) -> None:
    change(copy)
    config = configured(kind, copy)
    with pytest.raises(FlowmapError, match=message) as caught:
        role(config.build(SPEC))  # type: ignore[arg-type]
    assert str(copy) in str(caught.value)
    # What the headers tell is said before anything is read.
    told = [finding.message for finding in config.findings(SPEC) if finding.level == "error"]
    assert told == [str(caught.value)]


def test_what_is_damaged_says_how_to_fetch_it_again(copy: Path) -> None:
    folder = copy.rename(copy.parent / "Wan2.1-T2V-1.3B-Diffusers")
    cut(folder)
    command = f"hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --local-dir {folder}"
    config = configured("wan21", folder)
    with pytest.raises(FlowmapError, match=command):
        role(config.build(SPEC))  # type: ignore[arg-type]
    assert [command in finding.message for finding in config.findings(SPEC)] == [True]


def shard(folder: Path) -> None:
    save(AnyFlowTransformer3DModel, folder, "50KB")
    next(iter(sorted((folder / "transformer").glob("*-00002-of-*.safetensors")))).unlink()


GONE: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard": (shard, "transformer/diffusion_pytorch_model-00002-of-"),
    "transformer": (lambda f: shutil.rmtree(f / "transformer"), "transformer/config.json, transformer/diffusion_pyt"),
    "weights": (
        lambda f: (f / "transformer" / "diffusion_pytorch_model.safetensors").unlink(),
        "transformer/diffusion_pytorch_model.safetensors",
    ),
    "tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "missing: tokenizer/"),
    "vae": (lambda f: shutil.rmtree(f / "vae"), "missing: vae/config.json"),
    "text encoder": (lambda f: shutil.rmtree(f / "text_encoder"), "missing: text_encoder/config.json"),
    "everything": (lambda f: [shutil.rmtree(p) for p in f.iterdir() if p.is_dir()], "vae/config.json"),
}


@pytest.mark.parametrize(("change", "what"), GONE.values(), ids=GONE.keys())
def test_files_that_are_missing(change: Callable[[Path], object], what: str, copy: Path) -> None:
    folder = copy.rename(copy.parent / "Wan2.1-T2V-14B-Diffusers")
    change(folder)
    config = Wan21Config(weights=str(folder))
    (finding,) = config.missing()
    assert (finding.level, finding.field) == ("error", ("weights",))
    command = f"hf download Wan-AI/Wan2.1-T2V-14B-Diffusers --local-dir {folder}"
    for part in (what, str(folder), command):
        assert part in finding.message
    with pytest.raises(FlowmapError) as caught:
        role(config.build(SPEC))  # type: ignore[arg-type]
    assert str(caught.value) == finding.message


def test_a_complete_folder_misses_nothing(wan: Path) -> None:
    assert list(missing(str(wan), PUBLISHED)) == []


def test_no_folder_at_all(tmp_path: Path) -> None:
    (problem,) = missing(str(tmp_path / "nowhere"), PUBLISHED)
    for part in (f"no folder {tmp_path / 'nowhere'}", "hf download ID", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"):
        assert part in problem


@pytest.mark.parametrize("name", ["Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "someone/their-wan"])
def test_a_hub_id_that_is_not_here(name: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "hub"))
    (problem,) = missing(name, PUBLISHED)
    for part in (f"no folder {here / name}", f"no {name} in the hub's cache {here / 'hub'}", f"hf download {name}"):
        assert part in problem


def test_a_hub_id_that_is_in_the_cache(wan: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "hub"))
    cached = here / "hub" / "models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc\n")
    shutil.copytree(wan, cached / "snapshots" / "abc")
    assert list(missing(name, PUBLISHED)) == []
    assert role(backbone("wan21", name)).own
    shutil.rmtree(cached / "snapshots" / "abc" / "vae")
    (problem,) = missing(name, PUBLISHED)
    assert "missing: vae/config.json" in problem
    assert f"hf download {name}" in problem


@pytest.mark.parametrize("shift", [0, -1, "a", None, True])
def test_a_shift_that_is_none_is_refused(shift: object, tmp_path: Path) -> None:
    folder = make_twin(tmp_path / "twin")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"shift": shift}))
    if shift is None:
        assert Checkpoint(folder).pipeline.shift() is None
        return
    with pytest.raises(FlowmapError) as caught:
        Checkpoint(folder).pipeline.shift()
    assert str(caught.value) == f"{file}: its shift is {shift!r}; it must be a number above 0"


def test_a_second_time_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = make_twin(tmp_path / "twin")
    file = folder / "transformer" / "config.json"
    config = {**json.loads(file.read_text()), "_class_name": "AnyFlowTransformer3DModel", "deltatime_type": "foo"}
    file.write_text(json.dumps(config))
    checkpoint = Checkpoint(folder)
    keys = checkpoint.pipeline.shapes("transformer")
    assert checkpoint.contradiction(keys) == f"{file}: deltatime_type is 'foo'; it is 'r' or 't-r'"
    file.write_text("[]")
    with pytest.raises(FlowmapError, match="is no table of settings; fetch it again"):
        checkpoint.pipeline.config("transformer")
