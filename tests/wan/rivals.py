"""Golden numbers of other projects' samplers, their checkpoints in those projects' layouts, and draws that repeat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from flowmap_samplers.configs import LcmConfig
from flowmap_wan.causal_configs import CausalConfig, CausalWan21Config, CausalWan22Config
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowmap.interfaces import Chunking, Cond, EncodedText, FlowMap, Role, as_flow_map
from flowmap.networks.rollout import rollout
from flowmap.plugin import SampleSpec
from flowmap.workshop.backbone import ModuleBackbone

from .support import draw

FOLDER = Path(__file__).parents[1] / "golden" / "rivals"
EVEN = (1000, 750, 500, 250)
WAN22 = (1000, 850, 700, 550, 350, 275, 200, 125)
SELF_FORCING = LcmConfig(times=EVEN, shift=5, levels="nearest")
SAMPLERS: Mapping[str, LcmConfig] = {
    "self_forcing": SELF_FORCING,
    "self_forcing_window": SELF_FORCING,
    "self_forcing_sink": SELF_FORCING,
    "self_forcing_first": SELF_FORCING,
    "causvid": LcmConfig(times=(1000, 757, 522), shift=8, warped=False, levels="nearest"),
    "causvid_warp4": LcmConfig(times=EVEN, shift=8, levels="nearest"),
    "lightx2v_sf": LcmConfig(times=(999, 957, 899, 702), shift=5, warped=False, levels="whole"),
    "krea": LcmConfig(times=(1000, 666, 333, 0), shift=5, levels="nearest"),
    "krea_keep_first": LcmConfig(times=(*EVEN, 0), shift=5, levels="nearest"),
    "causal_wan22_i2v": LcmConfig(times=WAN22, shift=12, levels="nearest", boundary=875),
    "causal_wan22_t2v": LcmConfig(times=WAN22, shift=12, levels="nearest", boundary=875),
}
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "self_forcing_window": {"window": 9},
    "self_forcing_sink": {"window": 7, "sink": 2},
    "self_forcing_first": {"first_chunk": 1},
    "krea": {"context": "recomputed"},
    "krea_keep_first": {"context": "recomputed", "keep_first_frame": True},
}


@dataclass(frozen=True)
class Golden:
    """One file: what it holds beside weights, and the weights under the names of the checkpoint."""

    name: str
    held: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    told: Mapping[str, str]

    def write(self, folder: Path) -> Path:
        """The checkpoint in its project's layout; returns what a recipe calls it."""
        if not self.name.startswith("causal_wan22"):
            save_file(dict(self.weights), folder / "model.safetensors")
            return folder / "model.safetensors"
        for part in ("transformer", "transformer_2"):
            own = {key.removeprefix(f"{part}."): v for key, v in self.weights.items() if key.startswith(f"{part}.")}
            (folder / part).mkdir()
            save_file(own, folder / part / "diffusion_pytorch_model.safetensors")
            config = {"_class_name": "CausalWanTransformer3DModel", **json.loads(self.told["architecture"])}
            (folder / part / "config.json").write_text(json.dumps(config))
        return folder


@cache
def golden(name: str) -> Golden:
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping
        told = file.metadata()
    weights = {key.removeprefix("w."): held.pop(key) for key in list(held) if key.startswith("w.")}
    return Golden(name, held, weights, told)


def config_of(name: str, weights: Path, **fields: Any) -> CausalConfig:
    kind = CausalWan22Config if name.startswith("causal_wan22") else CausalWan21Config
    head_dim = None if kind is CausalWan22Config else 16
    return kind(weights=str(weights), **{"head_dim": head_dim, **FIELDS.get(name, {}), **fields})


def built(config: CausalConfig) -> ModuleBackbone:
    backbone = config.build(SampleSpec((9, 3, 32, 32), text=True))
    assert isinstance(backbone, ModuleBackbone)
    return backbone


def role_of(backbone: ModuleBackbone) -> Role:
    role = backbone.role("student", "flow_map", None, draw())
    role.freeze()
    return role


class Repeated:
    """A draw that gives the noise of a golden file: `chunk-c` / `renoise-s` is its `fresh.c.s`; c begins at `chunk`."""

    def __init__(self, held: Mapping[str, Tensor], chunk: int = 0) -> None:
        self._held, self._chunk = held, chunk

    def child(self, name: str) -> Repeated:
        return Repeated(self._held, self._chunk + int(name.removeprefix("chunk-")))

    def normal(self, name: str, shape: torch.Size) -> Tensor:
        noise = self._held[f"fresh.{self._chunk}.{name.removeprefix('renoise-')}"]
        assert noise.shape[1:] == shape
        return noise


class Watched(FlowMap):
    """Notes what a network is called with and what it answers."""

    def __init__(self, network: FlowMap) -> None:
        self.network, self.calls = network, []

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        found = self.network.mean_velocity(x, t, r, cond)
        self.calls.append((x, t, found))
        return found


def condition_of(of: Golden, backbone: ModuleBackbone) -> Cond:
    """That of the text of a golden file."""
    text = of.held["text"]
    return backbone.condition(EncodedText(text, text[0] * 0), len(text), text.device)[0]


def sampled(
    of: Golden,
    backbone: ModuleBackbone,
    network: FlowMap,
    chunking: Chunking | None = None,
    sampler: LcmConfig | None = None,
    given: int = 0,
) -> Tensor:
    """What `network` makes of the noise of a golden file by the sampler of its project, after `given` whole chunks."""
    config = sampler or SAMPLERS[of.name]
    first, size = of.held.get("first"), backbone.chunking().sizes(9, 3)[0] if given else 0
    context = of.held["latents"][:, : given * size] if given else first
    begin, end = 0 if context is None else context.shape[1], of.held["latents"].shape[1]
    times = torch.tensor(config.own_times().times, dtype=torch.float64)
    noise, cond = of.held["noise"][:, begin:end], condition_of(of, backbone)
    draws: Any = Repeated(of.held, given)
    with torch.no_grad():
        return rollout(
            config.build(), network, noise, times, cond, chunking or backbone.chunking(), draws, context=context
        )


def off(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def network_of(role: Role) -> FlowMap:
    return as_flow_map(role.network)
