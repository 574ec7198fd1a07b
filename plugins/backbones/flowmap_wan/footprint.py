"""What Wan networks take, measured on ones of few blocks; and who sees whom where a mask rules it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, final

import torch

from flowmap.interfaces import EncodedText
from flowmap.plugin import Precision, SampleSpec
from flowmap.plugin.footprint import CallShape, Footprint
from flowmap.workshop.footprint import MeasuredFootprint
from flowmap_wan.backbone import of_sizes
from flowmap_wan.codec import latent_shape
from flowmap_wan.configs import FarWan21Config
from flowmap_wan.rotary import turn
from flowmap_wan.sight import Run, Runs, table
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
    dense = config.model_copy(update={"attention": "dense"})
    # Prompts are padded to their full length, and without any the text is one row of zeros.
    tokens = config.text_length if spec.text else 1

    def texts(count: int) -> EncodedText:
        text = torch.zeros(count, tokens, sizes["text_dim"])
        return EncodedText(text, torch.zeros(tokens, sizes["text_dim"]))

    return MeasuredFootprint(
        lambda units: of_sizes(dense, latents, config.splitting(), {**sizes, "num_layers": units}),
        int(sizes["num_layers"]),
        precision,
        prompts=texts,
        masks=_Masks(config, latents, sizes) if isinstance(config, FarWan21Config) else lambda shape: {},
        within=_anew,
    )


@contextmanager
def _anew() -> Iterator[None]:
    """Rotations and masks are remembered: fake ones and real ones may not meet."""
    _forget()
    try:
        yield
    finally:
        _forget()


def _forget() -> None:
    turn.cache_clear()
    table.cache_clear()


@final
class _Masks:
    """Who sees whom in the calls of a causal model: how many of the pairs in a table of queries and keys."""

    def __init__(self, config: FarWan21Config, latents: SampleSpec, sizes: Mapping[str, Any]) -> None:
        self._sizes, self._newest = config.chunks, config.full_chunks - 1
        _, _, height, width = latents.shape
        # Tokens of a frame, full and compressed.
        self._cells = [
            (height // down) * (width // across)
            for _, down, across in (sizes["patch_size"], config.compressed_patch_size)
        ]

    def __call__(self, shape: CallShape) -> Mapping[tuple[int, int], int]:
        """See flowmap.workshop.fake.Masks."""
        stop = shape.start + shape.frames
        if shape.view == "forced":
            own = [(i, size) for i, first, size in self._chunks() if shape.start <= first < stop]
            noised = [Run(i, size * self._cells[0], noised=True) for i, size in own]
            clean = [Run(i, size * self._cells[0]) for i, size in own]
            old = [Run(i, size * self._cells[1]) for i, first, size in self._chunks() if first < shape.start]
            tokens = (*old, *noised, *clean)
            return _table(tokens, tokens)
        if shape.view == "reading":
            # The compressed part of what was remembered stays, and all else is read again.
            memory = self._memory(stop)
            return _table(memory[self._compressed(shape.start) :], memory)
        return {}

    def _chunks(self) -> list[tuple[int, int, int]]:
        """Index, first frame and frames of every chunk."""
        return [(i, sum(self._sizes[:i]), size) for i, size in enumerate(self._sizes)]

    def _memory(self, frames: int) -> Runs:
        """The first `frames`, read: the newest chunks at full resolution, older ones compressed."""
        compressed = self._compressed(frames)
        found = [Run(i, size * self._cells[i < compressed]) for i, first, size in self._chunks() if first < frames]
        return tuple(found)

    def _compressed(self, frames: int) -> int:
        """How many of the chunks in the first `frames` are compressed."""
        return max(0, sum(first < frames for _, first, _ in self._chunks()) - self._newest)


def _table(queries: Runs, keys: Runs) -> Mapping[tuple[int, int], int]:
    """How many queries and keys there are, and how many pairs see each other."""
    pairs = sum(query.length * key.length for query in queries for key in keys if query.sees(key))
    return {(sum(run.length for run in queries), sum(run.length for run in keys)): pairs}
