"""One training step of a Wan model, as flowmap takes it and as the published loop does, on the same weights and draws.

The published loop, written down straightforwardly: a copy of the model for every role, one network call after the
other, all of them for all samples, and diffusers' own forward pass (rotary positions in complex128, modulations per
token). With the corrections of flowmap's objectives (one-sided differences at the ends, branches by the batch), so
that the losses are the same and only the cost differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers.models.transformers.transformer_anyflow import AnyFlowTransformer3DModel
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowFARTransformer3DModel
from flowmap_distribution.backward_simulation import BackwardSimulation
from flowmap_distribution.configs import BackwardSimulationConfig
from flowmap_distribution.matching import dmd_gradient
from flowmap_flow.configs import FlowMapConfig
from flowmap_flow.forward import loss_weight
from flowmap_wan.backbone import adapters_of, blocks_of, transformer_of
from flowmap_wan.condition import VideoCond
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.module import WanModule
from flowmap_wan.settings import LoraConfig
from flowmap_wan.sight import AttentionKernel
from torch import Tensor, nn

from flowmap.interfaces import Batch, Role, Scene, World
from flowmap.maths.draw import Draw
from flowmap.maths.pairs import draw_pairs
from flowmap.maths.path import draw_times, like, noised, shifted
from flowmap.plugin import NetworkKind, Recomputation
from flowmap.schema.settings import BranchesConfig, TimesConfig, uniform_times
from flowmap.training.compiled import compile_units
from flowmap.workshop.adapters import Chosen, plain_state
from flowmap.workshop.backbone import Architecture, ModuleBackbone
from flowmap.workshop.codec import NoCodec

StageName = Literal["forward", "on_policy"]
KINDS: Mapping[StageName, Mapping[str, NetworkKind]] = {
    "forward": {"student": "flow_map"},
    "on_policy": {"student": "flow_map", "teacher": "velocity", "critic": "velocity"},
}
SHIFT, FUSED, REAL, STEP = 5.0, 3.0, 4.0, 0.005
FORWARD = FlowMapConfig(shift=SHIFT, weight="beta08", cfg_scale=FUSED)
ON_POLICY = BackwardSimulationConfig(
    rollout_steps=(2, 4, 8, 16, 50),
    shift=SHIFT,
    cfg_scale=REAL,
    critic_times=TimesConfig(distribution="logit_normal", shift=SHIFT),
    forward=FORWARD,
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, of its latent videos `[F, C, H, W]` and of its prompts (tokens)."""

    layers: int
    heads: int
    head_dim: int
    ffn_dim: int
    text_dim: int
    freq_dim: int
    latent: tuple[int, int, int, int]
    text: int
    rank: int
    chunks: tuple[int, ...]

    def diffusers(self) -> dict[str, Any]:
        return {
            "num_layers": self.layers,
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "ffn_dim": self.ffn_dim,
            "text_dim": self.text_dim,
            "freq_dim": self.freq_dim,
            "in_channels": self.latent[1],
            "out_channels": self.latent[1],
        }


_VIDEO = (21, 16, 60, 104)
_CHUNKS = (1, 3, 3, 3, 3, 3, 3, 2)
SHAPES = {
    "tiny": Shape(3, 4, 32, 512, 64, 64, (5, 16, 12, 20), 32, 16, (1, 1, 1, 2)),
    "1.3b": Shape(30, 12, 128, 8960, 4096, 256, _VIDEO, 512, 256, _CHUNKS),
    "14b": Shape(40, 40, 128, 13824, 4096, 256, _VIDEO, 512, 256, _CHUNKS),
}
_EXACT = ("time_embedder", "delta_embedder", "scale_shift_table", "norm1", "norm2", "norm3")


def transformer(shape: Shape, causal: bool, device: torch.device, precision: torch.dtype) -> Any:
    """diffusers' model with random weights, made where and in the precision in which it stays."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(precision)
    try:
        with torch.device(device):
            if causal:
                model = AnyFlowFARTransformer3DModel(**shape.diffusers(), chunk_partition=shape.chunks)
            else:
                model = AnyFlowTransformer3DModel(**shape.diffusers())
    finally:
        torch.set_default_dtype(before)
    for name, parameter in model.named_parameters():
        if any(exact in name for exact in _EXACT):
            parameter.data = parameter.data.float()
    embedder = model.condition_embedder
    embedder.delta_embedder.load_state_dict(embedder.time_embedder.state_dict())
    embedder.delta_emb_gate = torch.tensor([0.25], device=device)
    return model


@dataclass
class Trainer:
    """What both have: a batch, optimisers of the trained roles, the student's moving average."""

    stage: StageName
    batch: Batch
    own: Mapping[str, Sequence[nn.Parameter]]
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    average: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, parameters in self.own.items():
            if name != "teacher":
                self.optimizers[name] = torch.optim.AdamW(parameters, lr=2e-6, betas=(0.0, 0.999), fused=True)
        self.average = [parameter.detach().clone() for parameter in self.own["student"]]

    def modules(self) -> list[nn.Module]:
        """All networks."""
        raise NotImplementedError

    def step(self, number: int) -> dict[str, float]:
        """One step of training; its losses."""
        raise NotImplementedError

    def parameter_bytes(self) -> int:
        """Of all networks."""
        return sum(p.numel() * p.element_size() for module in self.modules() for p in module.parameters())

    def draw(self, step: int, turn: str) -> Draw:
        x0 = self.batch.x0
        return Draw.whole(0, self.stage, step, turn, len(x0), x0.device)

    def apply(self, role: str) -> None:
        """Clip, update, average."""
        parameters = list(self.own[role])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizers[role].step()
        self.optimizers[role].zero_grad(set_to_none=True)
        if role == "student":
            with torch.no_grad():
                torch._foreach_lerp_(self.average, parameters, 0.01)


def batch_of(shape: Shape, count: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    text, null = normal(count, shape.text, shape.text_dim), normal(shape.text, shape.text_dim)
    return Batch(normal(count, *shape.latent), VideoCond(text), VideoCond(null.expand_as(text)))


def our_backbone(
    shape: Shape,
    causal: bool,
    device: torch.device,
    precision: torch.dtype,
    recompute: Recomputation,
    attention: AttentionKernel,
) -> tuple[ModuleBackbone, WanModule]:
    """A backbone whose base is made on `device`: the usual way makes it on the CPU in float32."""
    fields: dict[str, Any] = {
        "weights": "/nowhere",
        "lora": LoraConfig(rank=shape.rank, alpha=float(shape.rank)),
        "gradient_checkpointing": recompute,
        "attention": attention,
    }
    if causal:
        config: Wan21Config | FarWan21Config = FarWan21Config(chunks=shape.chunks, **fields)
    else:
        config = Wan21Config(**fields)
    frames, _, height, width = shape.latent
    assert config.lora is not None

    def make(two_times: bool, chosen: Chosen) -> WanModule:
        return WanModule(transformer(shape, causal, device, precision), config.attention, recompute, chosen)

    adapters = adapters_of(config.lora, causal)
    architecture = Architecture(make, inner=transformer_of, units=blocks_of, adapters=adapters, times="either")
    codec = NoCodec((frames, 16, height, width))
    backbone = ModuleBackbone(config.type, architecture, codec, chunking=config.splitting())
    role = backbone.role("student", "flow_map", None, Draw.whole(0, "benchmark", 0, "weights", 1, device))
    assert isinstance(role.module, WanModule)
    return backbone, role.module


class Ours(Trainer):
    """flowmap's objectives on roles that share one base."""

    def __init__(
        self,
        stage: StageName,
        shape: Shape,
        count: int,
        *,
        causal: bool = False,
        device: torch.device | None = None,
        precision: torch.dtype = torch.float32,
        recompute: Recomputation = "selective",
        attention: AttentionKernel = "auto",
        compiled: bool = False,
        replay: bool = True,
    ) -> None:
        device = device or torch.device("cpu")
        self.shape, self.precision = shape, precision
        self.backbone, self.module = our_backbone(shape, causal, device, precision, recompute, attention)
        self.roles: dict[str, Role] = {}
        for seed, (name, kind) in enumerate(KINDS[stage].items()):
            role = self.roles[name] = self.backbone.role(name, kind, None, Draw.whole(seed, "base", 0, "", 1))
            generator = torch.Generator(device).manual_seed(seed)
            with torch.no_grad():
                # Adapters start at zero, where all roles are the same.
                for key, parameter in role.own.items():
                    if "lora_B" in key:
                        parameter.normal_(std=1e-2, generator=generator)
        if "teacher" in self.roles:
            self.roles["teacher"].freeze()
        compile_units(self.roles.values(), compiled)
        # A batch that has no sample with r = t has nothing to be balanced with.
        forward = FORWARD.model_copy(update={"rebalance": count * FORWARD.branches.diffusion >= 1})
        on_policy = ON_POLICY.model_copy(update={"replay": replay, "forward": forward})
        objective = forward if stage == "forward" else on_policy
        self.turns = objective.build().turns()
        own = {name: list(role.own.values()) for name, role in self.roles.items()}
        super().__init__(stage, batch_of(shape, count, device), own)

    def step(self, number: int) -> dict[str, float]:
        """One step; its losses."""
        losses: dict[str, float] = {}
        for turn in self.turns:
            # As at every step of a run: the batch is a new one.
            batch = Batch(self.batch.x0, _anew(self.batch.cond), _anew(self.batch.null))
            draw = self.draw(number, turn.role)
            scene = Scene(self.roles, batch, draw, self.backbone.chunking(), World())
            for loss in turn.losses(scene):
                loss.value.backward()
                losses[loss.branch] = loss.value.item()
            self.apply(turn.role)
        return losses

    def modules(self) -> list[nn.Module]:
        return [self.module]


def _anew(cond: Any) -> VideoCond:
    return VideoCond(cond.text)


class Published(Trainer):
    """The published loop (bidirectional)."""

    def __init__(self, ours: Ours) -> None:
        from peft import LoraConfig as PeftConfig

        self.models: dict[str, Any] = {}
        own: dict[str, list[nn.Parameter]] = {}
        plain = _plain_state(ours.module)
        for name, role in ours.roles.items():
            model = transformer(ours.shape, False, ours.batch.x0.device, ours.precision)
            model.load_state_dict(plain, strict=True)
            model.requires_grad_(False)
            targets = sorted({key.split(".lora_")[0] for key in role.own})
            rank = next(value.shape[0] for key, value in role.own.items() if "lora_A" in key)
            model.add_adapter(PeftConfig(r=rank, lora_alpha=rank, target_modules=targets), "only")
            mine = {key.replace(".only.", "."): p for key, p in model.named_parameters() if ".only." in key}
            assert mine.keys() == role.own.keys()
            with torch.no_grad():
                for key, parameter in mine.items():
                    parameter.data = role.own[key].detach().clone()
                    parameter.requires_grad_(name != "teacher")
            model.enable_gradient_checkpointing()
            self.models[name], own[name] = model.train(), list(mine.values())
        self.segments = ON_POLICY.build()
        super().__init__(ours.stage, ours.batch, own)

    def modules(self) -> list[nn.Module]:
        return list(self.models.values())

    def call(self, role: str, x: Tensor, t: Tensor, r: Tensor, cond: Any) -> Tensor:
        model = self.models[role]
        frames = x.shape[1]
        # Wherever the model's precision is not float32, mixed precision is what it runs in.
        times = (1000 * time[:, None].expand(-1, frames) for time in (t, r))
        text = cond.text.to(model.dtype)
        result: Tensor = model(x.to(model.dtype), *times, text, return_dict=False)[0]
        return result.float()

    def step(self, number: int) -> dict[str, float]:
        """One step; its losses."""
        losses: dict[str, float] = {}
        turns: dict[str, Callable[[Draw], Iterator[tuple[str, Tensor]]]] = {"student": self._forward}
        if self.stage == "on_policy":
            turns = {"student": self._student, "critic": self._critic}
        for role, turn in turns.items():
            for name, value in turn(self.draw(number, role)):
                value.backward()
                losses[name] = value.item()
            self.apply(role)
        return losses

    def _forward(self, draw: Draw) -> Iterator[tuple[str, Tensor]]:
        batch, w = self.batch, FUSED
        pairs = draw_pairs(draw, BranchesConfig(), uniform_times(SHIFT))
        t, r = pairs.t, pairs.r
        noise = draw.normal("noise", batch.x0.shape[1:])
        x_t, v = noised(batch.x0, noise, t), noise - batch.x0
        u = self.call("student", x_t, t, r, batch.cond)
        late, early = (t + STEP).clamp(max=1), (t - STEP).clamp(min=0)
        with torch.no_grad():
            null = self.call("student", x_t, t, r, batch.null)
            u_late = self.call("student", x_t + like(late - t, x_t) * v, late, r, batch.cond)
            u_early = self.call("student", x_t - like(t - early, x_t) * v, early, r, batch.cond)
            derivative = (u_late - u_early) / like(late - early, x_t) / w
            target = v - like(t - r, x_t) * derivative
        u_hat = (u - (1 - w) * null) / w
        losses = (u_hat - target).square().flatten(1).mean(1) * loss_weight("beta08", pairs.here.t, SHIFT).to(t)
        with torch.no_grad():
            diffusion = pairs.branch == 0
            mean = losses[diffusion].mean() if diffusion.any() else losses + 1e-5
            balance = torch.where(diffusion, 1.0, mean / (losses + 1e-5))
        yield "flow_map", (losses * balance).mean()

    def _rollout(self, draw: Draw) -> Tensor:
        assert isinstance(self.segments, BackwardSimulation)
        x = draw.normal("start noise", self.batch.x0.shape[1:])
        times = self.segments._times(draw).to(x.device)
        for t, r in itertools.pairwise(times):
            x = x - (t - r) * self.call("student", x, t.expand(len(x)), r.expand(len(x)), self.batch.cond)
        return x

    def _student(self, draw: Draw) -> Iterator[tuple[str, Tensor]]:
        batch = self.batch
        x = self._rollout(draw)
        tau = shifted(draw.uniform("score time"), SHIFT)
        with torch.no_grad():
            y = noised(x, draw.normal("score noise", x.shape[1:]), tau)
            fake = y - like(tau, y) * self.call("critic", y, tau, tau, batch.cond)
            with_cond, without = (self.call("teacher", y, tau, tau, c) for c in (batch.cond, batch.null))
            real = y - like(tau, y) * (without + REAL * (with_cond - without))
            target = x.double() - dmd_gradient(x, fake, real).double()
        yield "dmd", (x.double() - target).square().mean()
        del x
        yield from self._forward(draw.child("forward"))

    def _critic(self, draw: Draw) -> Iterator[tuple[str, Tensor]]:
        with torch.no_grad():
            x = self._rollout(draw)
        noise = draw.normal("critic noise", x.shape[1:])
        tau = draw_times(draw, ON_POLICY.critic_times, "critic time")
        predicted = self.call("critic", noised(x, noise, tau), tau, tau, self.batch.cond)
        yield "critic", (predicted - (noise - x)).square().mean()


def _plain_state(module: WanModule) -> dict[str, Tensor]:
    """The base's weights under their own names, not copied."""
    return dict(plain_state(module.transformer, None))
