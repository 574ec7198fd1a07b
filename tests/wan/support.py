"""Small Wan models, their twins in diffusers, and conditions for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.transformers.transformer_anyflow import AnyFlowTransformer3DModel
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowFARTransformer3DModel
from flowmap_wan.chunking import Causal
from flowmap_wan.condition import VideoCond
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.module import WanModule
from flowmap_wan.settings import ArchitectureConfig, LoraConfig
from torch import Tensor

from flowmap.interfaces import FlowMap, Role, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap.workshop.backbone import ModuleBackbone

CHANNELS, TEXT = 3, 8
SIZES: Mapping[tuple[int, int], tuple[int, int, int]] = {(4, 4): (1, 4, 4), (6, 10): (1, 6, 10), (8, 12): (1, 4, 4)}
"""Sides of latent frames, and a patch of compressed frames that divides them."""


def architecture(heads: int = 2, head_dim: int = 12, layers: int = 2) -> ArchitectureConfig:
    return ArchitectureConfig(
        layers=layers, heads=heads, head_dim=head_dim, ffn_dim=32, channels=CHANNELS, text_dim=TEXT, freq_dim=16
    )


def bidirectional(frames: int = 3, size: tuple[int, int] = (6, 10), **fields: Any) -> ModuleBackbone:
    config = Wan21Config(weights="random", **{"architecture": architecture(), **fields})
    return built(config, SampleSpec((frames, CHANNELS, *size)))


def causal(chunks: Sequence[int], size: tuple[int, int] = (6, 10), **fields: Any) -> ModuleBackbone:
    patch = SIZES.get(size)
    fields = {"architecture": architecture(), "compressed_patch_size": patch, **fields}
    config = FarWan21Config(weights="random", chunks=tuple(chunks), **fields)
    return built(config, SampleSpec((sum(chunks), CHANNELS, *size)))


def built(config: Wan21Config | FarWan21Config, spec: SampleSpec) -> ModuleBackbone:
    assert not [finding for finding in config.findings(spec) if finding.level == "error"]
    backbone = config.build(spec)
    assert isinstance(backbone, ModuleBackbone)
    return backbone


def lora(rank: int = 3, alpha: float = 6.0) -> LoraConfig:
    return LoraConfig(rank=rank, alpha=alpha)


def draw(count: int = 1, seed: int = 0, step: int = 0) -> Draw:
    return Draw.whole(seed, "wan", step, "test", count)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def perturb(role: Role, size: float = 0.1, seed: int = 1) -> Role:
    """Move all weights of a role, and of the base that it stands on, from their special initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in role.module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator).to(parameter))
    return role


def student(backbone: ModuleBackbone, name: str = "student", size: float = 0.1, seed: int = 1) -> tuple[Role, FlowMap]:
    role = perturb(backbone.role(name, "flow_map", None, draw(seed=seed)), size, seed)
    return role, as_flow_map(role.network)


def make(backbone: ModuleBackbone, name: str, kind: NetworkKind, seed: int) -> Role:
    """A role whose own weights are not special; its base is left alone."""
    role = backbone.role(name, kind, None, draw(seed=seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in role.own.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return role


def text(batch: int, tokens: int = 5, seed: int = 3) -> VideoCond:
    return VideoCond(noise(batch, tokens, TEXT, seed=seed))


def module(role: Role) -> WanModule:
    assert isinstance(role.module, WanModule)
    return role.module


def chunking(backbone: ModuleBackbone) -> Causal:
    made = backbone.chunking()
    assert isinstance(made, Causal)
    return made


def diffusers_twin(role: Role) -> Any:
    """diffusers' own model with the weights of `role` (without adapters)."""
    ours = module(role).transformer
    kinds = {kind.__name__: kind for kind in (AnyFlowTransformer3DModel, AnyFlowFARTransformer3DModel)}
    theirs = kinds[type(ours).__name__].from_config(ours.config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs.eval()


def error(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach(), theirs.detach()
    assert ours.shape == theirs.shape
    assert bool(theirs.isfinite().all())
    assert float(theirs.abs().max()) > 1e-2
    return float((ours - theirs).abs().max())


def gradients(role: Role) -> dict[str, Tensor]:
    return {key: p.grad.clone() for key, p in role.own.items() if p.grad is not None}


def relative(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The largest difference of any gradient, relative to the largest value of that gradient."""
    assert a.keys() == b.keys()
    assert a
    return max(float((a[key] - b[key]).abs().max() / b[key].abs().max().clamp(min=1e-12)) for key in b)
