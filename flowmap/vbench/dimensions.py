"""The dimensions of VBench, for text and for images: how many prompts each has, its range and its weight in a total.

Constants of `scripts/constant.py`, `cal_final_score.py` and `cal_i2v_final_score.py` of Vchitect/VBench (45e79ec), and
counts of its two lists of prompts (2311.17982, 2411.13503).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, final

VERSION = "0.1.5"
"""Of the package that is installed and asked."""

VIDEOS = 5
"""Of each prompt: the package looks at no more, however many there are."""

Part = Literal["quality", "semantic", "i2v"]


@final
@dataclass(frozen=True)
class Dimension:
    """A dimension: `prompts` in the whole list, what lies between `low` and `high` becomes 0 to 1, `weight` in `part`.

    One of weight 0 is scored, and counts in no total.
    """

    prompts: int
    part: Part
    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0


@final
@dataclass(frozen=True)
class Suite:
    """One benchmark: its list of prompts, its dimensions in the order of the leaderboard, the weights of its parts."""

    name: str
    entries: int
    dimensions: Mapping[str, Dimension]
    parts: Mapping[Part, float]

    @property
    def counted(self) -> tuple[str, ...]:
        """The dimensions that a total is made of."""
        return tuple(name for name, dimension in self.dimensions.items() if dimension.weight)


_CONSISTENCY = {
    "subject_consistency": Dimension(72, "quality", 0.1462),
    "background_consistency": Dimension(86, "quality", 0.2615),
}
_MOTION = {
    "motion_smoothness": Dimension(72, "quality", 0.706, 0.9975),
    "dynamic_degree": Dimension(72, "quality", weight=0.5),
}
_LOOKS = {"aesthetic_quality": Dimension(93, "quality"), "imaging_quality": Dimension(93, "quality")}
_FLICKERING = {"temporal_flickering": Dimension(75, "quality", 0.6293)}

T2V = Suite(
    "VBench",
    946,
    {
        **_CONSISTENCY,
        **_FLICKERING,
        **_MOTION,
        **_LOOKS,
        "object_class": Dimension(79, "semantic"),
        "multiple_objects": Dimension(82, "semantic"),
        "human_action": Dimension(100, "semantic"),
        "color": Dimension(85, "semantic"),
        "spatial_relationship": Dimension(84, "semantic"),
        "scene": Dimension(86, "semantic", 0.0, 0.8222),
        "appearance_style": Dimension(90, "semantic", 0.0009, 0.2855),
        "temporal_style": Dimension(100, "semantic", 0.0, 0.364),
        "overall_consistency": Dimension(93, "semantic", 0.0, 0.364),
    },
    {"quality": 4.0, "semantic": 1.0},
)
"""Text to video: 16 dimensions; four parts quality, one part semantic."""

_SUBJECTS, _PLACES = 246, 109
"""Images of the benchmark for images: of something, and of a place."""

I2V = Suite(
    "VBench-I2V",
    1118,
    {
        "i2v_subject": Dimension(_SUBJECTS, "i2v", 0.1462),
        "i2v_background": Dimension(_PLACES, "i2v", 0.2615),
        "camera_motion": Dimension(763, "i2v", weight=0.1),
        "subject_consistency": replace(_CONSISTENCY["subject_consistency"], prompts=_SUBJECTS),
        "background_consistency": replace(_CONSISTENCY["background_consistency"], prompts=_PLACES),
        **{name: replace(each, prompts=_SUBJECTS) for name, each in _MOTION.items()},
        **{name: replace(each, prompts=_SUBJECTS + _PLACES) for name, each in _LOOKS.items()},
        **{name: replace(each, prompts=_SUBJECTS + _PLACES, weight=0.0) for name, each in _FLICKERING.items()},
    },
    {"quality": 1.0, "i2v": 1.0},
)
"""Image to video: quality and faithfulness to the image in equal parts; flickering counts in neither."""

GRIT = ("object_class", "multiple_objects", "color", "spatial_relationship")
"""The dimensions whose detector is built on detectron2."""

MAY_LACK = ("color",)
"""The dimensions whose package leaves out, by design, clips in which it finds nothing of the prompt's object."""

PERCENT = ("imaging_quality",)
"""The dimensions whose values of single clips are a hundred times as large as their score."""


def suite(i2v: bool) -> Suite:
    """The benchmark for images or for text."""
    return I2V if i2v else T2V
