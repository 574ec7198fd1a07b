"""The strangers' objective over sets of samples, as if their package were installed in this process."""

from __future__ import annotations

import sys
from pathlib import Path

from flowmap.plugin import catalogue as module
from flowmap.plugin.catalogue import Catalogue, Component

sys.path.insert(0, str(Path(__file__).parent / "third_party" / "flowmap_strangers"))

from flowmap_strangers.configs import EnergyConfig  # it lies where nobody has installed it

__all__ = ["EnergyConfig", "install"]


def install() -> None:
    """Make the objective an installed one, in this process."""
    real = module.catalogue()
    ours = Component("objective", "energy", EnergyConfig, "strange 0.1", "A stranger's.")
    grown = Catalogue([*real.components, ours], real.broken)
    module.catalogue = lambda: grown  # type: ignore[assignment]
