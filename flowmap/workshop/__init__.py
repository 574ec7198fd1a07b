"""The workshop: what every backbone needs and none should write again. It imports torch: use it within `build()`.

A backbone is an `Architecture` (how its module is made and called) in a `ModuleBackbone`. Backbones of plugins import
from here; of the core only the plan does, to measure them.
"""

from __future__ import annotations

from flowmap.workshop.adapters import Adapters, Chosen, merged
from flowmap.workshop.backbone import Architecture, ModuleBackbone
from flowmap.workshop.codec import Codec, NoCodec
from flowmap.workshop.conditions import LABELS, TensorCond, conditions, labelled
from flowmap.workshop.footprint import MeasuredFootprint, labels_of

__all__ = [
    "LABELS",
    "Adapters",
    "Architecture",
    "Chosen",
    "Codec",
    "MeasuredFootprint",
    "ModuleBackbone",
    "NoCodec",
    "TensorCond",
    "conditions",
    "labelled",
    "labels_of",
    "merged",
]
