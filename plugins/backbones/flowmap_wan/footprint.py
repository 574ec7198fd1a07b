"""What Wan networks take, measured on ones of few blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from flowmap.interfaces import EncodedText
from flowmap.plugin import Precision, SampleSpec
from flowmap.plugin.footprint import Footprint
from flowmap.workshop.footprint import MeasuredFootprint
from flowmap_wan.backbone import of_sizes
from flowmap_wan.codec import latent_shape
from flowmap_wan.rotary import turn
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
    # Prompts are padded to their full length, and without any the text is one row of zeros.
    tokens = config.text_length if spec.text else 1

    def texts(count: int) -> EncodedText:
        text = torch.zeros(count, tokens, sizes["text_dim"])
        return EncodedText(text, torch.zeros(tokens, sizes["text_dim"]))

    return MeasuredFootprint(
        lambda units: of_sizes(plain, latents, config.splitting(), {**sizes, "num_layers": units}),
        int(sizes["num_layers"]),
        precision,
        prompts=texts,
        within=_anew,
    )


@contextmanager
def _anew() -> Iterator[None]:
    """Rotations are remembered: fake ones and real ones may not meet."""
    turn.cache_clear()
    try:
        yield
    finally:
        turn.cache_clear()
