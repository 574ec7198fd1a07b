"""What Wan networks take, measured on ones of few blocks; and who sees whom in causal attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, final

import torch

from flowmap.interfaces import EncodedText
from flowmap.plugin import Precision, SampleSpec
from flowmap.plugin.footprint import CallShape, Footprint
from flowmap.workshop.footprint import Extent, MeasuredFootprint
from flowmap_wan.architecture import image_encoder_of
from flowmap_wan.backbone import of_sizes
from flowmap_wan.codec import latent_shape
from flowmap_wan.common_config import CommonConfig
from flowmap_wan.configs import FarWan21Config
from flowmap_wan.pictures import with_pictures
from flowmap_wan.rotary import turn
from flowmap_wan.sight import Run
from flowmap_wan.transformer import WanConfig


def wan_footprint(config: WanConfig, spec: SampleSpec, sizes: Mapping[str, Any], precision: Precision) -> Footprint:
    """The footprint of `config` on samples of `spec`, of `sizes` (a diffusers configuration)."""
    return _measured(config, spec, tuple(sizes.items()), precision)


@lru_cache(maxsize=8)
def _measured(
    config: WanConfig, spec: SampleSpec, told: tuple[tuple[str, Any], ...], precision: Precision
) -> Footprint:
    """It remembers what it has measured: a plan asks twice, and who plans often asks often."""
    sizes = dict(told)
    latents = replace(spec, shape=spec.shape if config.random_base else latent_shape(config, spec))
    # Every way of masked attention computes what it computes in parts.
    plain = config.model_copy(update={"attention": "parts"})
    calls = (_Causal if isinstance(config, FarWan21Config) else _Calls)(config, latents, sizes)
    return MeasuredFootprint(
        lambda units: of_sizes(plain, latents, config.splitting(), {**sizes, "num_layers": units}),
        int(sizes["num_layers"]),
        precision,
        prompts=prompts_of(config, spec, sizes),
        within=without_turns,
        extent=calls.extent,
    )


def prompts_of(config: CommonConfig, spec: SampleSpec, sizes: Mapping[str, Any]) -> Callable[[int], EncodedText]:
    """Prompts for so many samples: padded to their full length; without any the text is one row of zeros."""
    tokens, width = config.text_length if spec.text else 1, int(sizes["text_dim"])
    if not config.pictures:
        return lambda count: EncodedText(torch.zeros(count, tokens, width), torch.zeros(tokens, width))
    seen, shape = image_encoder_of(config.weights).tokens, latent_shape(config, spec)

    def texts(count: int) -> EncodedText:
        found = EncodedText(torch.zeros(count, tokens, width), torch.zeros(tokens, width))
        return with_pictures(found, shape, seen, sizes["image_dim"])

    return texts


@contextmanager
def without_turns() -> Iterator[None]:
    """Rotations are remembered: fake ones and real ones may not meet."""
    turn.cache_clear()
    try:
        yield
    finally:
        turn.cache_clear()


@final
@dataclass(frozen=True)
class _Tokens:
    """A run of tokens, which may be `coarse`, or `past` (not asked about)."""

    run: Run
    coarse: bool = False
    past: bool = False


class _Calls:
    """Which tokens a call is of, and who sees whom: everything everything, unless a mask rules it."""

    def __init__(self, config: WanConfig, latents: SampleSpec, sizes: Mapping[str, Any]) -> None:
        _, _, height, width = latents.shape
        patches = (sizes["patch_size"], getattr(config, "compressed_patch_size", (1, 1, 1)))
        # Tokens of a frame, full and compressed.
        self._cells = [(height // down) * (width // across) for _, down, across in patches]

    def extent(self, shape: CallShape) -> Extent:
        """Tokens go through the same layers in every block, and attention by pairs.

        Outside of them every piece has its times, full and compressed tokens are embedded, and one piece is answered.
        """
        tokens = self._tokens(shape)
        new = [each for each in tokens if not each.past]
        pairs = _pairs(tokens, masked=self._masked(shape))
        fine, coarse = (sum(each.run.length for each in new if each.coarse == kind) for kind in (False, True))
        noised = sum(each.run.length for each in new if each.run.noised)
        pieces = len({(each.run.noised, each.coarse) for each in new})
        # The embedding of compressed frames is trained beside adapters: then the first block has a gradient to pass on.
        return Extent((pieces, noised or fine, coarse), (1, fine + coarse, pairs), "compressed" if coarse else "")

    def _masked(self, shape: CallShape) -> bool:
        return False

    def _tokens(self, shape: CallShape) -> list[_Tokens]:
        """The tokens of a call, in any order."""
        own, given = (frames * self._cells[0] for frames in (shape.frames, shape.start))
        return [_Tokens(Run(0, own, noised=True)), *([_Tokens(Run(0, given))] if given else [])]


@final
class _Causal(_Calls):
    """Of a causal model."""

    def __init__(self, config: FarWan21Config, latents: SampleSpec, sizes: Mapping[str, Any]) -> None:
        super().__init__(config, latents, sizes)
        self._sizes, self._newest = config.chunks, config.full_chunks - 1

    def _masked(self, shape: CallShape) -> bool:
        return shape.view in ("forced", "reading")

    def _tokens(self, shape: CallShape) -> list[_Tokens]:
        stop = shape.start + shape.frames
        if shape.view == "forced":
            own = [(i, size) for i, first, size in self._chunks() if shape.start <= first < stop]
            noised = [_Tokens(Run(i, size * self._cells[0], noised=True)) for i, size in own]
            clean = [_Tokens(Run(i, size * self._cells[0])) for i, size in own]
            old = [(i, size) for i, first, size in self._chunks() if first < shape.start]
            return [*(_Tokens(Run(i, size * self._cells[1]), coarse=True) for i, size in old), *noised, *clean]
        if shape.view == "reading":
            # The compressed part of what was remembered stays, and all else is read again.
            kept, memory = self._compressed(shape.start), self._memory(stop)
            return [replace(each, past=place < kept) for place, each in enumerate(memory)]
        before = [replace(each, past=True) for each in self._memory(shape.start)]
        return [*before, _Tokens(Run(len(before), shape.frames * self._cells[0], noised=True))]

    def _chunks(self) -> list[tuple[int, int, int]]:
        """Index, first frame and frames of every chunk."""
        return [(i, sum(self._sizes[:i]), size) for i, size in enumerate(self._sizes)]

    def _memory(self, frames: int) -> list[_Tokens]:
        """The first `frames`, read: the newest chunks at full resolution, older ones compressed."""
        old = self._compressed(frames)
        chunks = [(i, size) for i, first, size in self._chunks() if first < frames]
        return [_Tokens(Run(i, size * self._cells[i < old]), coarse=i < old) for i, size in chunks]

    def _compressed(self, frames: int) -> int:
        """How many of the chunks in the first `frames` are compressed."""
        return max(0, sum(first < frames for _, first, _ in self._chunks()) - self._newest)


def _pairs(tokens: Sequence[_Tokens], masked: bool) -> int:
    """How many pairs of tokens see each other."""
    new = [each for each in tokens if not each.past]
    return sum(q.run.length * k.run.length for q in new for k in tokens if not masked or q.run.sees(k.run))
