"""Causal Wan students of others, as they were published: what their files are called, and how they are sampled.

From the projects' loaders and configurations; tests/golden/rivals/README.md says which numbers hold each to them, and
docs/rivals.md where each file is. Torch-free.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from flowmap.plugin import Finding
from flowmap.weights.names import find
from flowmap_wan.checkpoint import PUBLISHED
from flowmap_wan.told import is_ours

_EVEN = (1000, 750, 500, 250)
_AS_IS: Mapping[str, object] = {"warped": False}
_APACHE, _NONCOMMERCIAL = "apache-2.0", "cc-by-nc-sa-4.0"


@final
@dataclass(frozen=True)
class Release:
    """Weights as published: fields of the backbone `type`, of its sampler `lcm`, and what their authors make.

    `size` is that of the network, `shape` latent frames, height and width in pixels. `repository` is on the hub, and
    its licence that of the weights. The sampler's list of `times` takes a call each; `shift` is that of its levels.
    `also` are the fields of other schedules that are published for it.
    """

    repository: str
    licence: str
    size: Literal["1.3B", "14B"]
    times: tuple[float, ...]
    shift: float
    more: Mapping[str, object] = field(default_factory=dict)
    type: Literal["causal_wan21", "causal_wan22", "wan21"] = "causal_wan21"
    fields: Mapping[str, object] = field(default_factory=dict)
    shape: tuple[int, int, int] = (21, 480, 832)
    also: tuple[Mapping[str, object], ...] = ()

    @property
    def sampler(self) -> Mapping[str, object]:
        """The fields of `lcm`."""
        return {"times": self.times, "shift": self.shift, "levels": "nearest", **self.more}

    @property
    def told(self) -> Mapping[str, Any]:
        """How the authors sample, in the words of `Pretrained`."""
        known = {"published": self.repository, "also": self.also}
        return {"calls": len(self.times), "sampler_fields": self.sampler, **known}


_KREA = Release(
    "krea/krea-realtime-video",
    _NONCOMMERCIAL,
    "14B",
    (*_EVEN, 0),
    5.0,
    fields={"context": "recomputed"},
    # For speed.
    also=({"times": (1000, 666, 333, 0), "shift": 5.0, "levels": "nearest"},),
)
_OF_LIGHTX2V: Mapping[str, object] = {"times": (999, 957, 899, 702), "shift": 5.0, "warped": False, "levels": "whole"}
_CAUSAL_WAN22 = Release(
    "FastVideo/CausalWan2.2-I2V-A14B-Preview-Diffusers",
    _APACHE,
    "14B",
    (1000, 850, 700, 550, 350, 275, 200, 125),
    12.0,
    {"boundary": 875},
    "causal_wan22",
    # Asked for 81 frames the release makes 73.
    shape=(19, 448, 832),
)
# TrigFlow's angles are tan(a) = t / (1 - t), and begin at noise of 80 times the data.
_RCM_ANGLES = (math.atan(80), 1.5, 1.4, 1.0)
_RCM = tuple(1000 * math.tan(a) / (1 + math.tan(a)) for a in _RCM_ANGLES)
_RCM_MORE: Mapping[str, object] = {"levels": "exact", "start": "scaled", "time_input": "bfloat16"}


def _rcm(size: Literal["1.3B", "14B"], height: int, width: int) -> Release:
    fields = {"one_time_weights": "jump"}
    # 77 frames; time inputs are rounded, for the released code computes in bfloat16.
    return Release("worstcoder/rcm-Wan", _APACHE, size, _RCM, 1.0, _RCM_MORE, "wan21", fields, (20, height, width))


RELEASES: Mapping[str, Release] = {
    "self_forcing_dmd": Release("gdhe17/Self-Forcing", _APACHE, "1.3B", _EVEN, 5.0, also=(_OF_LIGHTX2V,)),
    "SFWan2.1-T2V-1.3B-Diffusers": Release("wlsaidhi/SFWan2.1-T2V-1.3B-Diffusers", _APACHE, "1.3B", _EVEN, 5.0),
    "autoregressive_checkpoint": Release("tianweiy/CausVid", _NONCOMMERCIAL, "1.3B", (1000, 757, 522), 8.0, _AS_IS),
    "autoregressive_checkpoint_warp_4step_cfg2": Release("tianweiy/CausVid", _NONCOMMERCIAL, "1.3B", _EVEN, 8.0),
    "Wan2.1-T2V-14B-CausVid": Release(
        "lightx2v/Wan2.1-T2V-14B-CausVid",
        _APACHE,
        "14B",
        (999, 934, 862, 756, 603, 410, 250, 140, 74),
        8.0,
        _AS_IS,
    ),
    "rCM_Wan2.1_T2V_1.3B_480p": _rcm("1.3B", 480, 832),
    "rCM_Wan2.1_T2V_14B_480p": _rcm("14B", 480, 832),
    "rCM_Wan2.1_T2V_14B_720p": _rcm("14B", 720, 1280),
    "krea-realtime-video": _KREA,
    "krea-realtime-video-14b": _KREA,
    "CausalWan2.2-I2V-A14B-Preview-Diffusers": _CAUSAL_WAN22,
    "SFWan2.2-I2V-A14B-Preview-Diffusers": _CAUSAL_WAN22,
}
"""By the name of the folder, or of the file without its ending."""


def release_of(weights: str) -> Release | None:
    """What `weights` were published as, by the name of their file, their folder or their repository; None if unknown.

    Of a folder with one file of any name that file's name counts too. What `flowmap export` wrote is none of them,
    whatever it is called: it says itself what it is (flowmap_wan.told).
    """
    names = [Path(weights).name.removesuffix(".safetensors")]
    folder = find(weights)
    if folder is not None:
        names += [file.stem for file in folder.glob("*.safetensors")]
    elif os.path.isfile(os.path.expanduser(weights)):
        # CausVid's files are all called model: folders tell them apart.
        names = [Path(weights).stem, Path(weights).resolve().parent.name]
    found = [RELEASES[name] for name in names if name in RELEASES]
    return found[0] if found and not is_ours(weights) else None


def other_boundary(weights: str, boundary: float) -> str | None:
    """Why networks of published `weights` do not change at `boundary`, in thousandths; None if they do, or may."""
    release = release_of(weights)
    own = None if release is None else release.more.get("boundary")
    if release is None or own in (None, boundary):
        return None
    return f"{boundary:g}: these weights ({release.repository}) are published with {own:g}; leave this out"


def one_time_findings(weights: str, taken: Literal["velocity", "jump"]) -> Iterator[Finding]:
    """Where `weights` of one time are `taken` for what they are not, as far as names tell."""
    release, plain = release_of(weights), PUBLISHED.owners.get(Path(weights).name) == "Wan-AI"
    if release is not None and taken == "velocity":
        why = f"these weights ({release.repository}) jump to data, and are no velocity; take 'jump'"
        yield Finding("error", ("one_time_weights",), why)
    elif plain and taken == "jump":
        why = "plain Wan2.1 is a velocity, and does not jump to data; take 'velocity'"
        yield Finding("error", ("one_time_weights",), why)
