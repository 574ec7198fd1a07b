"""Backbones of Wan2.1 video models (arXiv 2503.20314).

`wan21` (bidirectional), `far_wan21` (causal) and `wan21_i2v` (from a picture) have two times; `causal_wan21` and
`causal_wan22` are other projects' causal students, which have one.
"""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_wan.causal_configs import CausalWan21Config, CausalWan22Config
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.image_config import Wan21I2VConfig


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [Wan21Config, FarWan21Config, Wan21I2VConfig, CausalWan21Config, CausalWan22Config]
