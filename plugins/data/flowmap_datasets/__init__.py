"""Data `digits` (real images shipped with scikit-learn), `moving_digits` (videos of them) and `checkerboard`."""

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
    quarter_turns: int = Field(0, ge=0, le=3, description="turn every image to the left, so many times by 90 degrees")

    def spec(self) -> SampleSpec:
        """One frame of one channel of 8 x 8."""
        return SampleSpec((1, 1, 8, 8), classes=10 if self.conditional else 0, labelled=True)

    def build(self) -> Data:
        """Load the images."""
        from flowmap_datasets.digits import Digits

        return Digits(self)


class MovingDigitsConfig(DataConfig):
    """Videos of one handwritten digit that sets out from the middle and bounces off the sides, in [-1, 1]."""

    type: Literal["moving_digits"] = "moving_digits"
    frames: int = Field(9, ge=1, description="frames of a video")
    size: int = Field(16, ge=8, description="side of a frame, in pixels; a digit has 8")
    speed: float = Field(2.0, ge=0, description="pixels that a digit moves per frame, at most, in each direction")
    text_dim: int = Field(16, ge=10, description="dimensions of the text embedding, which names the digit's class")

    def spec(self) -> SampleSpec:
        """Frames of one channel, with a caption (the class) and a label."""
        return SampleSpec(
            (self.frames, 1, self.size, self.size), labelled=True, text=True, text_dim=self.text_dim, fps=8.0
        )

    def build(self) -> Data:
        """Load the digits."""
        from flowmap_datasets.moving_digits import MovingDigits

        return MovingDigits(self)


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
    return [DigitsConfig, MovingDigitsConfig, CheckerboardConfig]
