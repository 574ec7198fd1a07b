"""What a Wan model takes, without weights: parameters and arithmetic by the layers of a model on the meta device,
memory by running one on fake tensors.

Blocks are alike, so models of one and of two blocks stand for those of any number.

Over 250 lines until footprints are measured from any module by the core.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from flowmap.interfaces import Batch, Cond, Velocity, Window
from flowmap.planning.fake import Taken, fake_tensors, measure
from flowmap.plugin import NetworkKind, Precision, SampleSpec
from flowmap.plugin.footprint import CallShape, Flops, Footprint, Weights
from flowmap_wan.adapters import add_adapter
from flowmap_wan.chunking import Bidirectional
from flowmap_wan.condition import VideoCond
from flowmap_wan.module import WanModule
from flowmap_wan.rotary import turn
from flowmap_wan.transformer import WanConfig, from_state, shapes

_KINDS: tuple[NetworkKind, ...] = ("velocity", "flow_map")
_BLOCK = "blocks.0."
_FAR, _PATCHES = "far_patch_embedding", "patch_embedding"


@final
@dataclass(frozen=True)
class _Tokens:
    """Tokens that stand together: whether they are compressed (`coarse`), noised, in which chunk, or only `past`."""

    count: int
    chunk: int
    noised: bool = False
    coarse: bool = False
    past: bool = False

    def sees(self, other: _Tokens) -> bool:
        """The rule of flowmap_wan.attention.Sight, for a mask."""
        if other.noised:
            return self.noised and self.chunk == other.chunk
        return other.chunk < self.chunk or (other.chunk == self.chunk and not self.noised)


@final
@dataclass(frozen=True)
class _Layout:
    """The tokens of one call, whether a mask rules who sees whom, and how many times are embedded."""

    tokens: tuple[_Tokens, ...]
    masked: bool
    times: int

    def count(self, coarse: bool | None = None, noised: bool | None = None) -> int:
        """New tokens, of one kind or of all."""
        return sum(
            t.count for t in self.tokens if not t.past and coarse in (None, t.coarse) and noised in (None, t.noised)
        )

    @property
    def table(self) -> tuple[int, int]:
        """Queries and keys."""
        return self.count(), sum(t.count for t in self.tokens)

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that it sees."""
        new = [t for t in self.tokens if not t.past]
        return sum(q.count * k.count for q in new for k in self.tokens if not self.masked or q.sees(k))

    @property
    def wanted(self) -> int:
        """Tokens whose velocity comes out: the noised ones; where none is, those of the last piece."""
        return self.count(noised=True) or self.count(coarse=False)


@final
class WanFootprint(Footprint):
    """The footprint of `config` on samples of `spec`, its sizes given by `architecture` (a diffusers configuration)."""

    def __init__(
        self, config: WanConfig, spec: SampleSpec, architecture: Mapping[str, Any], precision: Precision
    ) -> None:
        self._config = config
        self._architecture = architecture
        self._precision = precision
        self._layers = int(architecture["num_layers"])
        backbone = config.build(spec)
        self._latent = backbone.latent_shape()
        self._chunking = backbone.chunking()
        self._bidirectional = isinstance(self._chunking, Bidirectional)
        # Prompts are padded to their full length, and without any the text is one row of zeros.
        self._text = config.text_length if spec.text else 1
        self._rigs: dict[int, _Rig] = {}
        self._taken: dict[tuple[int, NetworkKind, CallShape, int, bool], Taken] = {}

    # --- parameters

    @cached_property
    def _meta(self) -> WanModule:
        """A model of one block on the meta device, with an adapter of either kind, called as the kind."""
        return _model(self._config, self._architecture, 1)

    def base(self) -> Weights:
        """See Footprint.base."""
        frozen = self._config.lora is not None
        return self._weights([p for p in self._named() if frozen and not _adapter(p[0])])

    def own(self, kind: NetworkKind) -> Weights:
        """See Footprint.own."""
        if self._config.lora is None:
            return self._weights(self._named())
        return self._weights([p for p in self._named() if _adapter(p[0]) == kind])

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._meta.transformer.named_parameters())

    def _weights(self, named: list[tuple[str, nn.Parameter]]) -> Weights:
        block = [p for name, p in named if name.startswith(_BLOCK)]
        rest = [p for name, p in named if not name.startswith(_BLOCK)]
        unit, root = (sum(p.numel() * p.element_size() for p in part) for part in (block, rest))
        count = self._layers * sum(p.numel() for p in block) + sum(p.numel() for p in rest)
        return Weights(count, self._layers * unit + root, unit, root)

    # --- arithmetic

    def flops(self, kind: NetworkKind, shape: CallShape) -> Flops:
        """See Footprint.flops.

        Matrix products and convolutions; of masked attention the pairs that see each other, which is what
        block-sparse attention computes. An input that needs a gradient itself would cost 1 / layers more. The text
        is counted at every call, though what frozen layers make of it is remembered: a few per cent of a short chunk.
        """
        layout = self._layout(shape)
        full = self._config.lora is None
        # Adapted patches of compressed frames are tokens that need a gradient from the first layer on.
        early = full or (layout.count(coarse=True) > 0)
        timed = full or kind == "flow_map"
        forward, backward, recomputed = 0, 0, 0
        for name, layer in self._meta.transformer.named_modules():
            if not isinstance(layer, nn.Linear | nn.Conv3d) or _adapter(f"{name}.") not in (None, kind):
                continue
            if f"{_FAR}.original_module" in name:
                continue
            cost = 2 * layer.weight.numel() * self._rows(name, layout)
            trained = full or _adapter(f"{name}.") is not None
            passes = self._passes(name, full, timed)
            block = name.startswith(_BLOCK)
            forward += cost * (self._layers if block else 1)
            backward += cost * (trained + passes) * (self._layers if block else 1)
            if block and passes and not (early or timed) and ".attn1.to_" in name and "to_out" not in name:
                # What the first block attends to needs no gradient.
                backward -= cost if "lora_B" not in name else 0
            recomputed += cost * self._layers if block else 0
        own = 4 * self._width * layout.pairs * self._layers
        text = 4 * self._width * layout.count() * self._text * self._layers
        # Keys and values of a text that needs no gradient need none either.
        backward += 2 * own + (2 if self._adapts_text else 1) * text
        recomputed += own + text
        return Flops(forward + own + text, backward + (recomputed if self._config.gradient_checkpointing else 0))

    def _rows(self, name: str, layout: _Layout) -> int:
        """How many rows go through the layer `name`."""
        if ".attn2.to_k" in name or ".attn2.to_v" in name or "text_embedder" in name:
            return self._text
        if name.startswith("blocks."):
            return layout.count()
        if "condition_embedder" in name:
            return layout.times
        if _FAR in name:
            return layout.count(coarse=True)
        return layout.count(coarse=False) if _PATCHES in name else layout.wanted

    def _passes(self, name: str, full: bool, timed: bool) -> bool:
        """Whether a gradient goes through the layer `name` to its input."""
        if "lora_B" in name:
            return True
        first = ("linear_1" in name and "condition_embedder" in name) or _PATCHES in name or _FAR in name
        if first:
            return False
        if ".attn2.to_k" in name or ".attn2.to_v" in name or "text_embedder" in name:
            return full
        return timed if "condition_embedder" in name else True

    def _layout(self, shape: CallShape) -> _Layout:
        start, stop = shape.start, shape.start + shape.frames
        if self._bidirectional or shape.view == "whole":
            given = (_Tokens(self._cells(start, False), 0),) if start else ()
            return _Layout((*given, _Tokens(self._cells(shape.frames, False), 0, noised=True)), False, 1 + bool(start))
        chunks = self._chunks()
        if shape.view == "forced":
            old = tuple(self._chunk(i, size, coarse=True) for i, first, size in chunks if first < start)
            own = [(i, size) for i, first, size in chunks if start <= first < stop]
            noised = tuple(_Tokens(self._cells(size, False), i, noised=True) for i, size in own)
            clean = tuple(self._chunk(i, size) for i, size in own)
            return _Layout((*old, *noised, *clean), True, 2 + bool(old))
        if shape.view == "following":
            last = sum(first < start for _, first, _ in chunks)
            new = _Tokens(self._cells(shape.frames, False), last, noised=True)
            return _Layout((*self._remembered(start), new), False, 1)
        return self._reading(start, stop)

    def _reading(self, start: int, stop: int) -> _Layout:
        """Finished chunks up to `stop` are read, after a memory of `start` frames: the compressed part of it stays."""
        memory = self._remembered(stop)
        kept = sum(t.coarse for t in self._remembered(start))
        return _Layout(
            (*memory[:kept], *(_fresh(t) for t in memory[kept:])), True, 1 + any(t.coarse for t in memory[kept:])
        )

    def _remembered(self, frames: int) -> tuple[_Tokens, ...]:
        """The memory of the first `frames`: the newest chunks at full resolution, older ones compressed."""
        done = [(i, size) for i, first, size in self._chunks() if first < frames]
        newest = len(done) - (self._full - 1)
        return tuple(_Tokens(self._cells(size, i < newest), i, coarse=i < newest, past=True) for i, size in done)

    @property
    def _full(self) -> int:
        return self._config.full_chunks  # type: ignore[union-attr]

    def _chunks(self) -> list[tuple[int, int, int]]:
        """Index, first frame and frames of every chunk."""
        sizes = self._chunking.sizes(self._latent[0])
        return [(i, sum(sizes[:i]), size) for i, size in enumerate(sizes)]

    def _chunk(self, index: int, size: int, coarse: bool = False) -> _Tokens:
        return _Tokens(self._cells(size, coarse), index, coarse=coarse)

    def _cells(self, frames: int, coarse: bool) -> int:
        """Tokens of so many frames."""
        fine = self._architecture["patch_size"]
        _, down, across = self._config.compressed_patch_size if coarse else fine  # type: ignore[union-attr]
        return frames * (self._latent[-2] // down) * (self._latent[-1] // across)

    # --- memory

    def held(self, kind: NetworkKind, shape: CallShape, samples: int) -> int:
        """See Footprint.held."""
        one, two = (self._take(layers, kind, shape, samples, True).held for layers in (1, 2))
        return one + (self._layers - 1) * (two - one)

    def workspace(self, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> int:
        """See Footprint.workspace; that of a model of one block, for one is computed at a time."""
        taken = self._take(1, kind, shape, samples, gradient)
        if shape.view == "reading":
            # What is written stays until all is: the other blocks' part comes on top.
            new = self.memory(shape.start + shape.frames) * samples
            return taken.peak + new - new // self._layers
        return taken.peak - taken.held

    def memory(self, frames: int) -> int:
        """See Footprint.memory: keys and values of every block."""
        if self._bidirectional:
            return 0
        return 2 * self._layers * sum(t.count for t in self._remembered(frames)) * self._width * self._size

    def prompt(self) -> int:
        """See Footprint.prompt: the embedded text, and its keys and values in every block, where those are frozen."""
        lora = self._config.lora
        if lora is None:
            return 0
        blocks = 0 if self._adapts_text else 2 * self._layers
        return (1 + blocks) * self._text * self._width * self._size

    @property
    def _adapts_text(self) -> bool:
        """Whether keys and values of the text are a role's own."""
        lora = self._config.lora
        return lora is None or not {"attn2.to_k", "attn2.to_v"}.isdisjoint(lora.layers)

    @property
    def _width(self) -> int:
        return int(self._architecture["num_attention_heads"] * self._architecture["attention_head_dim"])

    @property
    def _size(self) -> int:
        """Bytes of a number that a network computes."""
        return 2 if self._precision == "bf16" or self._config.base_precision == "bfloat16" else 4

    def _take(self, layers: int, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> Taken:
        key = (layers, kind, shape, samples, gradient)
        if key not in self._taken:
            self._taken[key] = self._measured(*key)
        return self._taken[key]

    def _measured(self, layers: int, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> Taken:
        if layers not in self._rigs:
            self._rigs[layers] = _Rig(_model(self._config, self._architecture, layers), self._config.lora is not None)
        rig = self._rigs[layers]
        frames, *rest = self._latent
        with rig.running():
            t = torch.zeros(samples)
            video = torch.zeros(samples, frames, *rest)
            text = VideoCond(torch.zeros(samples, self._text, self._architecture["text_dim"]))
            network = rig.network(kind)
            cond = self._cond(network, text, video, shape)
            x = video[:, shape.start : shape.start + shape.frames].clone()
            skipped = [self._layout(shape).table] if self._layout(shape).masked else []

            def call() -> Any:
                if shape.view == "reading":
                    return self._read(network, cond, x, shape.start)
                return network.velocity(x, t, cond)

            # Of two blocks only what they hold is asked for.
            return measure(call, gradient, self._precision, skipped, backward=layers == 1)

    def _cond(self, network: Velocity, text: Cond, video: Tensor, shape: CallShape) -> Cond:
        """What a call of `shape` is conditioned on."""
        if shape.view == "whole" or self._bidirectional:
            return self._chunking.given(network, text, video[:, : shape.start]) if shape.start else text
        if shape.view == "forced":
            window = Window(shape.start, shape.start + shape.frames)
            return self._chunking.forced(Batch(video, text, text), window).cond
        if not shape.start:
            return text
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._precision == "bf16"):
            return self._chunking.given(network, text, video[:, : shape.start])

    def _read(self, network: Velocity, cond: Cond, x: Tensor, start: int) -> Cond:
        return self._chunking.remember(network, cond, x) if start else self._chunking.given(network, cond, x)


@final
class _Rig:
    """A model of few blocks on fake tensors."""

    def __init__(self, module: WanModule, lora: bool) -> None:
        self._mode = FakeTensorMode()
        self._module, self._lora = module, lora
        fake_tensors(module, self._mode)
        module.switch.refresh()

    def network(self, kind: NetworkKind) -> Velocity:
        """The network of a role of `kind`."""
        return _Network(self._module, kind if self._lora else None)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within this context tensors are fake."""
        # It remembers what it has computed, and neither may meet the other's.
        turn.cache_clear()
        try:
            with self._mode:
                yield
        finally:
            turn.cache_clear()


@final
class _Network(Velocity):
    """What a role of either kind does: two equal times cost as much as two different ones."""

    def __init__(self, module: WanModule, adapter: str | None) -> None:
        self._module, self._adapter = module, adapter

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        assert isinstance(cond, VideoCond)
        # Without a memo: what is remembered of a prompt is counted once, not with every call.
        return cond.view.run(self._module, self._adapter, cond.text, x, t, t).float()


def _model(config: WanConfig, architecture: Mapping[str, Any], layers: int) -> WanModule:
    """A model of so many blocks on the meta device: with adapters, one for each kind of network, called as that."""
    few = {**architecture, "num_layers": layers}
    with torch.device("meta"):
        transformer = from_state(config, few, shapes(config, few).state_dict(), "a model without weights")
        module = WanModule(transformer, "dense", config.gradient_checkpointing)
        if config.lora is not None:
            module.requires_grad_(False)
            for kind in _KINDS:
                add_adapter(
                    transformer, kind, config.lora.rank, config.lora.alpha, kind == "flow_map", config.lora.layers
                )
    return module


def _fresh(tokens: _Tokens) -> _Tokens:
    """The same, read anew."""
    return _Tokens(tokens.count, tokens.chunk, coarse=tokens.coarse)


@cache
def _marks() -> Mapping[NetworkKind, str]:
    return {kind: f".role_{kind}." for kind in _KINDS}


def _adapter(name: str) -> NetworkKind | None:
    """Whose adapter the parameter `name` belongs to; None for the base."""
    return next((kind for kind, mark in _marks().items() if mark in f"{name}."), None)
