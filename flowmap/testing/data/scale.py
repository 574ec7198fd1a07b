"""On which scale the samples of a data source are."""

from __future__ import annotations

from flowmap.maths.scale import LEAST_RMS, MOST_RMS, off_scale
from flowmap.testing.check import Laws
from flowmap.testing.contract import require
from flowmap.testing.data.subject import DataSubject

LAWS = Laws("data")


@LAWS.proven(
    f"Samples are on the scale of noise, N(0, 1): their root mean square is {LEAST_RMS:g} to {MOST_RMS:g}, on both "
    "sides of 0.",
    "Samples.x",
    after=("samples_are_as_specified", "building_repeats"),
)
def samples_are_on_the_scale_of_noise(subject: DataSubject) -> None:
    """Not 0 to 255, and not 0 to 1."""
    x = subject.many.x
    must = (
        f"samples of {subject.who} must be on the scale of noise, which has a mean of 0 and a standard deviation of 1"
    )
    found = off_scale(x)
    require(not found, f"{must}; they have {found}: scale them, images to [-1, 1]")
    least, most = float(x.min()), float(x.max())
    around = least < 0 < most
    require(
        around, f"{must}; all are from {least:.3g} to {most:.3g}: take their mean from them, or map them to [-1, 1]"
    )
