"""Files of others that are not read: each says what it is and what would work, in one line, from its header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_wan.configs import Wan21Config
from flowmap_wan.original import of_original
from flowmap_wan.twin import make_twin
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.plugin import SampleSpec

from .support import draw

SPEC = SampleSpec((9, 3, 32, 32), text=True, fps=16.0)
ONE = torch.zeros(2)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_twin(tmp_path_factory.mktemp("wan") / "twin")


@pytest.fixture(scope="module")
def plain(twin: Path) -> dict[str, Tensor]:
    """A whole transformer by its original names."""
    state = load_file(twin / "transformer" / "diffusion_pytorch_model.safetensors")
    return {name: value for key, value in state.items() if (name := of_original(key))}


def lora(width: int, blocks: int, rank: int) -> dict[str, Tensor]:
    name = "diffusion_model.blocks.{}.self_attn.q.lora_{}.weight"
    made = {name.format(i, "down"): torch.zeros(rank, width) for i in range(blocks)}
    return made | {name.format(i, "up"): torch.zeros(width, rank) for i in range(blocks)}


EXTRA: dict[str, tuple[dict[str, Tensor], str]] = {
    "SLA": (
        {"blocks.0.self_attn.proj_l.weight": ONE},
        "is TurboDiffusion's, with SLA layers (blocks.0.self_attn.proj_l.weight); take rCM's of that size",
    ),
    "int8": ({"blocks.0.self_attn.q.int8_weight": ONE.to(torch.int8)}, "is quantised to int8 (blocks.0.self_attn.q."),
    "scaled fp8": (
        {"scaled_fp8": ONE.to(torch.float8_e4m3fn)},
        "is quantised to fp8, with scales (scaled_fp8); take the file in bfloat16, float16 or float32",
    ),
    "plain fp8": (
        {"blocks.0.ffn.0.weight": torch.zeros(32, 24).to(torch.float8_e5m2)},
        "is quantised (blocks.0.ffn.0.weight); take the file in",
    ),
    "bitsandbytes": ({"blocks.0.ffn.0.weight.absmax": ONE}, "is quantised by bitsandbytes (blocks.0.ffn.0.weight.a"),
    "I2V": ({"img_emb.proj.0.weight": ONE, "blocks.0.cross_attn.k_img.weight": ONE}, "separate image-to-video model"),
    "FLF2V": (
        {"img_emb.emb_pos": ONE, "img_emb.proj.0.weight": ONE},
        "is a first-and-last-frame model (img_emb",
    ),
    "VACE": ({"vace_blocks.0.before_proj.weight": ONE}, "is VACE's, which is given control videos (vace_blocks.0."),
    "Wan2.2 I2V": (
        {"patch_embedding.weight": torch.zeros(24, 36, 1, 2, 2)},
        "its patches have 36 channels",
    ),
    "Wan2.2 5B": (
        {"patch_embedding.weight": torch.zeros(24, 48, 1, 2, 2)},
        "is Wan2.2's 5B model: its patches",
    ),
    "unknown key": ({"blocks.0.self_attn.odd.weight": ONE}, "first blocks.0.self_attn.odd.weight belongs to no such"),
}
WHOLE: dict[str, tuple[dict[str, Tensor], str]] = {
    "LoRA": (
        lora(5120, 40, 64),
        "is a LoRA of rank 64 for a network of 40 blocks and 5120 channels (Wan2.1's 14B, or Wan2.2's pair), and no",
    ),
    "training state": (
        {f"{part}.model.blocks.0.norm3.weight": ONE for part in ("generator", "generator_ema", "critic")},
        "is a training state saved whole (critic.model.blocks.0.norm3.weight); write one network of it",
    ),
    "optimizer": ({"blocks.0.norm3.weight.exp_avg": ONE}, "is a training state saved whole (blocks.0.norm3.weight.exp"),
    "HunyuanVideo": ({"double_blocks.0.img_attn.qkv.weight": ONE}, "is HunyuanVideo's, or another with double_blocks"),
    "LTX": ({"patchify_proj.weight": ONE, "transformer_blocks.0.attn1.to_q.weight": ONE}, "is LTX-Video's (patchify"),
    "CogVideoX": ({"transformer_blocks.0.attn1.to_q.weight": ONE}, "is an image or video model with transformer_block"),
    "text encoder": ({"encoder.block.0.layer.0.SelfAttention.q.weight": ONE}, "is a text encoder (encoder.block.0.lay"),
    "VAE": ({"decoder.conv1.weight": ONE, "encoder.conv1.weight": ONE}, "is a VAE (decoder.conv1.weight); name the"),
    "a tool that nobody knows": ({"model.trunk.7.kernel": ONE}, "(first: model.trunk.7.kernel); what is read has"),
}


def told(file: Path, twin: Path, **fields: Any) -> str:
    """The one thing that `check` says of the file; building says the same."""
    config = Wan21Config(weights=str(file), encoders_from=str(twin), head_dim=12, **fields)
    found = [f for f in (*config.missing(), *config.findings(SPEC)) if f.level == "error"]
    assert len(found) == 1, found
    assert "\n" not in found[0].message
    assert str(file.parent) in found[0].message
    with pytest.raises(FlowmapError) as caught:
        config.build(SPEC).role("student", "flow_map", None, draw())
    assert found[0].message in str(caught.value)
    return found[0].message


@pytest.mark.parametrize("case", EXTRA)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_more_than_a_wan_transformer(
    case: str, prefix: str, plain: dict[str, Tensor], twin: Path, tmp_path: Path
) -> None:
    more, words = EXTRA[case]
    save_file({prefix + name: value.clone() for name, value in (plain | more).items()}, tmp_path / "any.safetensors")
    said = told(tmp_path / "any.safetensors", twin)
    assert words in (said.replace(prefix, "") if prefix else said)


@pytest.mark.parametrize("case", WHOLE)
def test_another_thing(case: str, twin: Path, tmp_path: Path) -> None:
    state, words = WHOLE[case]
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "any.safetensors")
    assert words in told(tmp_path / "any.safetensors", twin)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.pt",
            b"PK\x03\x04",
            "a.pt is a pickle, which can run code when it is read, so it is not",
        ),
        ("a.ckpt", b"", "python -m flowmap_wan.convert"),
        ("a.safetensors", b"PK\x03\x04 more", "a.safetensors is a pickle"),
        ("a.gguf", b"GGUF", "is quantised for llama.cpp (GGUF); take the .safetensors in bfloat16"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer in the place of"),
        ("a.safetensors", b"\x10\x00", "it is damaged or was fetched in part"),
    ],
)
def test_no_safetensors(name: str, content: bytes, words: str, twin: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert words in told(tmp_path / name, twin)


def test_a_cut_file(plain: dict[str, Tensor], twin: Path, tmp_path: Path) -> None:
    file = tmp_path / "any.safetensors"
    save_file(plain, file)
    assert Wan21Config(weights=str(file), encoders_from=str(twin), head_dim=12).build(SPEC)
    file.write_bytes(file.read_bytes()[:-5])
    assert "it is damaged or was fetched in part" in told(file, twin)


@pytest.mark.parametrize("name", ["wan2.2_t2v_high_noise_14B_fp16", "Wan2.2-I2V-A14B-low-rCM4.0-merged", "t2v-low"])
def test_half_of_a_pair(name: str, plain: dict[str, Tensor], twin: Path, tmp_path: Path) -> None:
    save_file(plain, tmp_path / f"{name}.safetensors")
    said = told(tmp_path / f"{name}.safetensors", twin)
    assert "half of a pair of networks" in said
    assert "'causal_wan22'" in said


def test_a_whole_file_is_refused_by_nothing(plain: dict[str, Tensor], twin: Path, tmp_path: Path) -> None:
    save_file(plain, tmp_path / "wan2.1_t2v_1.3B_slow_highlights.safetensors")
    config = Wan21Config(weights=str(next(tmp_path.iterdir())), encoders_from=str(twin), head_dim=12)
    assert [f.message for f in (*config.missing(), *config.findings(SPEC))] == []
    missing = {key: value for key, value in plain.items() if key != "blocks.1.norm3.bias"}
    save_file(missing, tmp_path / "less.safetensors")
    assert "first blocks.1.norm3.bias is missing" in told(tmp_path / "less.safetensors", twin)
