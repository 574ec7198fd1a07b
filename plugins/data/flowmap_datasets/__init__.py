"""Data `digits` (real images shipped with scikit-learn) and `checkerboard` (points in the plane)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from flowmap.configs import ComponentConfig, DataConfig, SampleSpec
from flowmap.hookspecs import hookimpl

if TYPE_CHECKING:
    from flowmap.interfaces import Data


class DigitsConfig(DataConfig):
    """1797 handwritten digits of 8 x 8 pixels (UCI, shipped with scikit-learn), in [-1, 1]."""

    type: Literal["digits"] = "digits"
    conditional: bool = Field(False, description="condition on the digit's class")

    def spec(self) -> SampleSpec:
        """One frame of one channel of 8 x 8."""
        return SampleSpec((1, 1, 8, 8), classes=10 if self.conditional else 0, labelled=True)

    def build(self) -> Data:
        """Load the images."""
        from flowmap_datasets.digits import Digits

        return Digits(self.conditional)


class CheckerboardConfig(DataConfig):
    """Points on the dark squares of a 4 x 4 checkerboard on [-2, 2]^2."""

    type: Literal["checkerboard"] = "checkerboard"

    def spec(self) -> SampleSpec:
        """One frame of two coordinates."""
        return SampleSpec((1, 2), classes=0)

    def build(self) -> Data:
        """Make the source."""
        from flowmap_datasets.checkerboard import Checkerboard

        return Checkerboard()


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [DigitsConfig, CheckerboardConfig]
