"""Components of every kind but features, from outside flowmap. Torch is imported only when one of them is built."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_strangers.backbones import Sd3Config, UNet1dConfig
from flowmap_strangers.configs import EnergyConfig, LabelErrorConfig, MidpointConfig, SeaSurfaceConfig


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    return [UNet1dConfig, Sd3Config, SeaSurfaceConfig, EnergyConfig, MidpointConfig, LabelErrorConfig]
