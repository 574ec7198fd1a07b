"""flowmap's conformance kit on every component of this package."""

from __future__ import annotations

import pytest
from flowmap_strangers.backbones import Sd3Config, UNet1dConfig
from flowmap_strangers.configs import EnergyConfig, LabelErrorConfig, MidpointConfig, SeaSurfaceConfig

from flowmap.plugin import SampleSpec
from flowmap.testing.suite import *  # noqa: F403
from flowmap.testing.suite import Requirements

# What torch loads for its first forward-mode derivative uses torch.jit, which it deprecates itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class UNet1d(Requirements):
    config = UNet1dConfig(width=8)
    spec = SampleSpec((1, 1, 16), classes=3)


class Sd3(Requirements):
    config = Sd3Config()
    spec = SampleSpec((1, 1, 8, 8), classes=10)


class SeaSurface(Requirements):
    config = SeaSurfaceConfig()


class Energy(Requirements):
    config = EnergyConfig()


class Midpoint(Requirements):
    config = MidpointConfig()


class LabelError(Requirements):
    config = LabelErrorConfig()
