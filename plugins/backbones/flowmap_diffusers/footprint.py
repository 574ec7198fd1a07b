"""What image networks take, measured on ones of few blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from flowmap.interfaces import EncodedText
from flowmap.plugin import Precision, SampleSpec
from flowmap.plugin.footprint import Footprint
from flowmap.weights.names import RANDOM
from flowmap.workshop.footprint import MeasuredFootprint, labels_of
from flowmap_diffusers.backbone import of_sizes
from flowmap_diffusers.family import Family, Sizes

if TYPE_CHECKING:
    from flowmap_diffusers.image_config import ImageConfig


def image_footprint(config: ImageConfig, spec: SampleSpec, sizes: Sizes, precision: Precision) -> Footprint:
    """The footprint of `config` on samples of `spec`, of a transformer of `sizes`."""
    latents = replace(spec, shape=config.latent_shape(spec, sizes))
    random = config.model_copy(update={"weights": RANDOM, "architecture": None})
    return _measured(type(config), random.model_dump_json(), latents, tuple(sizes.items()), precision)


@lru_cache(maxsize=8)
def _measured(
    kind: type[ImageConfig],
    told: str,
    latents: SampleSpec,
    sizes: Sequence[tuple[str, Any]],
    precision: Precision,
) -> Footprint:
    """It remembers what it has measured: a plan asks twice, and who plans often asks often."""
    config, family, whole = kind.model_validate_json(told), kind.family, dict(sizes)
    depth = _alike(family, whole)

    def texts(count: int) -> EncodedText:
        return _stand_ins(family, whole, family.tokens(config.text_length), count)

    return MeasuredFootprint(
        lambda units: of_sizes(config, latents, _few(family, whole, units, depth)),
        depth,
        precision,
        prompts=texts if latents.text else labels_of(latents),
    )


def _alike(family: Family, sizes: Sizes) -> int:
    """How many parts that are alike a transformer is made of; 1 if its blocks are not."""
    differ = any(sizes.get(name) for name in family.uneven)
    return 1 if differ else math.gcd(*(int(sizes[name]) for name in family.depth))


def _few(family: Family, sizes: Sizes, units: int, depth: int) -> Sizes:
    """The sizes of a transformer of so many of the parts that are alike."""
    return {**sizes, **{name: int(sizes[name]) // depth * units for name in family.depth}}


def _stand_ins(family: Family, sizes: Sizes, tokens: int, count: int) -> EncodedText:
    """Encoded texts of the shapes that the family's encoders make."""
    null, others = torch.zeros(tokens, int(sizes[family.width])), {}
    if family.pooled is not None:
        others["pooled"] = torch.zeros(int(sizes[family.pooled]))
    if family.masked:
        others["mask"] = torch.ones(tokens, dtype=torch.int64)
    return EncodedText(
        null.expand(count, -1, -1), null, {k: x.expand(count, *x.shape).clone() for k, x in others.items()}, others
    )
