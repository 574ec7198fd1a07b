"""The Wan backbone: roles as adapters on one base or as whole copies, text and video, chunks, export."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.interfaces import (
    Backbone,
    Batch,
    Chunking,
    Cond,
    EncodedText,
    FlowMap,
    Role,
    Samples,
    Velocity,
)
from flowmap.maths.draw import Draw
from flowmap.phases import phase
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap.recipe.hub import RUN_LOCK, find
from flowmap_wan.adapters import add_adapter
from flowmap_wan.checkpoint import Checkpoint
from flowmap_wan.chunking import Bidirectional, Causal
from flowmap_wan.codec import Codec
from flowmap_wan.condition import VideoCond
from flowmap_wan.export import write_pipeline
from flowmap_wan.module import WanModule
from flowmap_wan.opening import open_checkpoint
from flowmap_wan.transformer import WanConfig, from_checkpoint, random

_VAE_TIME, _VAE_SPACE, _VAE_CHANNELS = 4, 8, 16
_BASE_SEED = 0


@final
class WanBackbone(Backbone):
    """Wan2.1 as `config` describes it, for videos of `spec`."""

    def __init__(self, config: WanConfig, spec: SampleSpec, chunking: Bidirectional | Causal) -> None:
        self._config = config
        self._spec = spec
        self._chunking = chunking

    @cached_property
    def _source(self) -> Checkpoint:
        """The checkpoint of the encoders: the base's own, whatever runs were trained on it."""
        return base_of(self._config)

    @cached_property
    def _codec(self) -> Codec:
        config = self._config
        return Codec(self._source, config.text_length, config.negative_prompt, config.null_embedding)

    @cached_property
    def _base(self) -> WanModule:
        """The frozen base that adapters share."""
        module = self._module(_BASE_SEED)
        module.requires_grad_(False)
        return module

    def _module(self, seed: int) -> WanModule:
        config = self._config
        if config.random_base:
            assert config.architecture is not None, "findings ask for it"
            transformer = random(config, config.architecture, seed)
        else:
            folder = find(config.weights)
            if folder is not None and (folder / RUN_LOCK).is_file():
                from flowmap_wan.lineage import from_run

                transformer = from_run(config, folder)
            else:
                transformer = from_checkpoint(config, open_checkpoint(config.weights))
        return WanModule(transformer, config.attention, config.gradient_checkpointing)

    def role(self, name: str, kind: NetworkKind, weights: Mapping[str, Tensor] | None, draw: Draw) -> Role:
        """See Backbone.role."""
        seed = int(draw.shared("initialisation").integers(2**62))
        lora = self._config.lora
        if lora is None:
            module, adapter = self._module(seed), None
            own = dict(module.transformer.named_parameters())
            _fill(name, own, weights, may_lack=())
        else:
            module, adapter = self._base, name

            def added(drawn: bool) -> dict[str, nn.Parameter]:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    two_times = kind == "flow_map"
                    with phase(f"adding the adapter of the {name}"):
                        return add_adapter(
                            module.transformer, name, lora.rank, lora.alpha, two_times, lora.layers, drawn=drawn
                        )

            own = added(drawn=weights is None)
            if weights is not None and own.keys() - weights.keys():
                # Some are set, and the others, which a teacher has none of, begin as any.
                own = added(drawn=True)
            module.switch.refresh()
            _fill(name, own, weights, may_lack=("condition_embedder.",))
        network = _WanFlowMap(module, adapter) if kind == "flow_map" else _WanVelocity(module, adapter)
        return Role(name, network, module, own, units=list(module.transformer.blocks))

    def precompute(self, samples: Samples) -> Samples:
        """Latents and text embeddings; the null condition is the negative prompt's."""
        if samples.encoded:
            return samples
        if self._config.random_base:
            return Samples(samples.x, samples.labels, samples.prompts, encoded=True)
        latents = self._codec.encode(samples.x).to(samples.x.device)
        prompts = samples.prompts
        if prompts and not isinstance(prompts, EncodedText):
            prompts = EncodedText(self._codec.text(prompts), self._codec.null)
        return Samples(latents, samples.labels, prompts, encoded=True)

    def encode(self, samples: Samples) -> Batch:
        """See Backbone.encode."""
        ready = self.precompute(samples)
        cond, null = (_on(c, ready.x.device) for c in self.condition(ready.prompts, len(ready.x)))
        return Batch(ready.x, cond, null)

    def decode(self, x: Tensor) -> Tensor:
        """Pixels; latents as they are where there is no VAE."""
        return x if self._config.random_base else self._codec.decode(x)

    def condition(self, prompts: Any, count: int) -> tuple[Cond, Cond]:
        """`prompts` are texts, EncodedText, or None (unconditional)."""
        if prompts is None:
            empty = torch.zeros(count, 1, self._text_dim())
            return VideoCond(empty), VideoCond(empty)
        if not isinstance(prompts, EncodedText):
            if self._config.random_base:
                raise FlowmapError("a network with random weights has no text encoder; its data must bring embeddings")
            prompts = EncodedText(self._codec.text(prompts), self._codec.null)
        null = self._null_of(prompts).expand(count, *prompts.null.shape)
        return VideoCond(prompts.text), VideoCond(null)

    def _null_of(self, prompts: EncodedText) -> Tensor:
        """The null condition beside `prompts`, `[L, D]`: that of the recipe's file, if it names one."""
        if self._config.null_embedding is None:
            return prompts.null
        null = self._codec.null.to(prompts.null)
        if null.shape != prompts.null.shape:
            raise FlowmapError(
                f"{self._config.null_embedding}: makes a null condition of {list(null.shape)}, and the prompts were "
                f"encoded to {list(prompts.null.shape)}; set backbone.text_length to {len(prompts.null)}",
                code=1,
            )
        return null

    def _text_dim(self) -> int:
        if self._config.architecture is not None:
            return self._config.architecture.text_dim
        return int(self._source.config("transformer")["text_dim"])

    def latent_shape(self) -> tuple[int, ...]:
        """`(F, C, h, w)`: a quarter of the frames (after the first), an eighth of the sides, 16 channels."""
        _, channels, height, width = self._spec.shape
        frames = self._config.latent_frames(self._spec)
        if self._config.random_base:
            return (frames, channels, height, width)
        return (frames, _VAE_CHANNELS, height // _VAE_SPACE, width // _VAE_SPACE)

    def chunking(self) -> Chunking:
        """See Backbone.chunking."""
        return self._chunking

    def export(self, role: Role, folder: Path, form: str, merged: bool, shift: float) -> str:
        """A folder that AnyFlow's pipelines load, diffusers' or NVIDIA's; of a velocity one that Wan's pipeline loads.

        Of random weights there is the transformer alone.
        """
        module = role.module
        assert isinstance(module, WanModule)
        adapter = role.name if self._config.lora else None
        source = None if self._config.random_base else self._source
        kind: NetworkKind = "flow_map" if isinstance(role.network, FlowMap) else "velocity"
        return write_pipeline(self._config, module.transformer, adapter, source, folder, form, merged, shift, kind)


def base_of(config: WanConfig) -> Checkpoint:
    """The checkpoint with the encoders: that of `config`, or of the runs it goes back to."""
    folder = find(config.weights)
    if folder is not None and (folder / RUN_LOCK).is_file():
        from flowmap_wan.lineage import config_of

        return base_of(config_of(folder))
    return open_checkpoint(config.weights)


def _fill(
    name: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None, may_lack: tuple[str, ...]
) -> None:
    """Set `own` to `weights`, all of them: only the adapters of times that a teacher has none of may be lacking."""
    if weights is None:
        return
    optional = {key for key in own if may_lack and key.startswith(may_lack)}
    if optional & weights.keys():
        optional = set()
    odd = sorted((own.keys() - optional) ^ weights.keys())
    odd += [key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape]
    if odd:
        differ = ", ".join(odd[:3])
        raise FlowmapError(f"role '{name}': these weights are not of this backbone: {differ} differ", code=1)
    size = sum(value.nbytes for value in weights.values())
    with torch.no_grad(), phase(f"reading the weights of the {name}", size, "bytes") as doing:
        for key, value in weights.items():
            own[key].copy_(value)
            doing.advance(value.nbytes)


def _on(cond: Cond, device: torch.device) -> VideoCond:
    assert isinstance(cond, VideoCond)
    return VideoCond(cond.text.to(device), cond.view)


def _video(cond: Cond) -> VideoCond:
    if not isinstance(cond, VideoCond):
        raise TypeError(f"a Wan model takes conditions of its own backbone, not {type(cond).__name__}")
    return cond


@final
class _WanVelocity(Velocity):
    def __init__(self, module: WanModule, adapter: str | None) -> None:
        self._module, self._adapter = module, adapter

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        video = _video(cond)
        return video.view.run(self._module, self._adapter, video.text.to(x.device), x, t, t, video.memo).float()


@final
class _WanFlowMap(FlowMap):
    def __init__(self, module: WanModule, adapter: str | None) -> None:
        self._module, self._adapter = module, adapter

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        video = _video(cond)
        return video.view.run(self._module, self._adapter, video.text.to(x.device), x, t, r, video.memo).float()
