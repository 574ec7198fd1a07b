"""Backbones `wan21` (bidirectional), `far_wan21` (causal) and `wan21_i2v` (from a picture), all with two times.

They are the video models of Wan2.1 (arXiv 2503.20314).
"""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.image_config import Wan21I2VConfig


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [Wan21Config, FarWan21Config, Wan21I2VConfig]
