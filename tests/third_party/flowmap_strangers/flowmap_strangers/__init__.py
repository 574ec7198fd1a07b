"""Two backbones and a data source, from outside flowmap."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_strangers.configs import Sd3Config, UNet1dConfig, WavesConfig


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    return [UNet1dConfig, Sd3Config, WavesConfig]
