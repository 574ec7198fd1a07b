"""Backbones of Wan2.1 video models (arXiv 2503.20314): `wan21` (bidirectional) and `far_wan21` (causal) with two times.

`causal_wan21` and `causal_wan22` are other projects' causal students, which have one.
"""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_wan.causal_configs import CausalWan21Config, CausalWan22Config
from flowmap_wan.configs import FarWan21Config, Wan21Config


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [Wan21Config, FarWan21Config, CausalWan21Config, CausalWan22Config]
