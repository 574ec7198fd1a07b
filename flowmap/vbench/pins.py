"""What is installed for VBench's package, and why: pins that were seen to work together (Python 3.11, torch 2.13).

transformers 4.33.2, which the package pins, needs a tokenizers that has no wheel for Python 3.12; its `pkg_resources`
went out of setuptools 81; numpy 2 and newer timm, peft or dreamsim break its imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from flowmap.vbench.dimensions import GRIT, VERSION
from flowmap.vbench.protocol import FLICKERING

PYTHONS = ((3, 11), (3, 10))
"""The versions of Python that the pins have wheels for, the tried one first."""

_PACKAGE = f"vbench=={VERSION}"


@final
@dataclass(frozen=True)
class Kit:
    """What is installed: the arguments of each call of pip, in order, and what comes of it on the disk."""

    name: str
    steps: tuple[tuple[str, ...], ...]
    size: str


SMALL = Kit(
    "flickering",
    (("numpy<2", "opencv-python-headless==4.11.0.86", "tqdm", "pillow"), ("--no-deps", _PACKAGE)),
    "270 MB",
)
"""temporal_flickering alone, without torch: the score is the same to the last digit."""

FULL = Kit(
    "everything",
    (
        ("torch==2.13.0", "torchvision==0.28.0", _PACKAGE, "setuptools>=77.0.3,<81"),
        # Its own requirements would lift timm, peft and transformers above what the package takes.
        (
            "dreamsim==0.2.1",
            "peft==0.10.0",
            "timm==1.0.12",
            "transformers==4.33.2",
            "numpy<2",
            "setuptools>=77.0.3,<81",
        ),
    ),
    "2.3 GB, several more with CUDA",
)
"""All dimensions for text and for images but those on detectron2."""


def kit(dimensions: Sequence[str], detectron2: str | None) -> Kit:
    """What `dimensions` take; `detectron2` is where its source is, which is built against the torch of the kit."""
    if set(dimensions) <= {FLICKERING}:
        return SMALL
    if detectron2 is None:
        return FULL
    build = ("--no-build-isolation", "--no-deps", detectron2)
    return Kit("everything and detectron2", (*FULL.steps, build), FULL.size)


def serves(there: str, wanted: Kit) -> bool:
    """Whether the kit called `there` has all that `wanted` has."""
    return there.startswith(wanted.name) or (wanted is SMALL and there.startswith(FULL.name))


def beyond(dimensions: Sequence[str], detectron2: str | None) -> list[str]:
    """Those of `dimensions` that stay out of reach, for detectron2 is no package that pip could find."""
    return [] if detectron2 else [name for name in dimensions if name in GRIT]
