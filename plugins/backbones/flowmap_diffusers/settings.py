"""The table of adapters of an image backbone. Torch-free."""

from __future__ import annotations

from pydantic import Field

from flowmap.plugin import Config
from flowmap.schema.bounds import MOST_ROWS, Scale, Width


class ImageLoraConfig(Config):
    """Low-rank adapters (arXiv 2106.09685) on one frozen base that all roles share."""

    rank: Width = Field(64, description="rank of every adapter")
    alpha: Scale = Field(64.0, description="an adapter's output is scaled by alpha / rank")
    layers: tuple[str, ...] = Field(
        (),
        max_length=MOST_ROWS,
        description="linear layers of every block that get one, by the ends of their names (to_q, ff.net.2); those of "
        "attention, as diffusers' training scripts have it, if left out. A flow map's time embedders get one besides",
    )
