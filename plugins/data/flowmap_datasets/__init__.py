"""Data `digits` (real images shipped with scikit-learn), `moving_digits` (videos of them) and `checkerboard`."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_datasets.configs import CheckerboardConfig, DigitsConfig, MnistConfig, MovingDigitsConfig


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [DigitsConfig, MnistConfig, MovingDigitsConfig, CheckerboardConfig]
