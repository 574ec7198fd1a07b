"""Weights of `wan21` and `far_wan21` that are a file of another project, and no checkpoint in diffusers' layout.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flowmap.errors import FlowmapError
from flowmap.plugin import Finding, Pretrained, SampleSpec
from flowmap.weights.headers import metadata
from flowmap.weights.runs import run_in
from flowmap_wan.places import is_single
from flowmap_wan.released import release_of

if TYPE_CHECKING:
    from flowmap_wan.two_times import TwoTimesConfig

_FPS = 16.0
_FRAMES, _HEIGHT, _WIDTH = 81, 480, 832
_MOST_SHIFT, _MOST_STEPS = 1e4, 10_000


def is_ours(weights: str) -> bool:
    """Whether `weights` are one file that `flowmap export` wrote under the original names."""
    from flowmap_wan.causal_files import transformer_in

    if not is_single(weights):
        return False
    with suppress(FlowmapError):  # what is damaged, nobody claims
        found = transformer_in(weights, "transformer")
        return found is not None and exported_for(found.files[0]) is not None
    return False


def one_time_findings(config: TwoTimesConfig) -> Iterable[Finding]:
    """What `one_time_weights` does not go with, and what a start that jumps has lost."""
    from flowmap_wan.pretrained import complete

    if config.one_time_weights == "velocity":
        release = release_of(config.weights)
        if release is not None:
            why = f"these weights ({release.repository}) jump to data, and are no velocity; take 'jump'"
            yield Finding("error", ("one_time_weights",), why)
        return
    checkpoint = None if run_in(config.weights) is not None else complete(config.weights)
    if run_in(config.weights) is not None or (checkpoint is not None and checkpoint.kind != "wan"):
        yield Finding("warning", ("one_time_weights",), "has no effect: these weights have two times")
        return
    if config.gate in (0, 1):
        why = f"with gate = {config.gate:g} the network sees one of its times alone; use 0.25"
        yield Finding("error", ("gate",), why)
    if config.type == "far_wan21":
        why = (
            "weights that jump begin a network of compressed memory here: of a causal student its chunks, its memory "
            "at full resolution and what it had learned to make of both are lost, of any its velocity u(x, t, t); "
            "train more than from plain Wan's, or take backbone 'causal_wan21'"
        )
        yield Finding("warning", ("one_time_weights",), why)


def pretrained(config: TwoTimesConfig) -> Pretrained | None:
    """What the file of `config` is as it stands; None if it is not here whole.

    A file of ours says on what grid it is sampled, others by their names (flowmap_wan.released).
    """
    from flowmap_wan.causal_files import absences, files_of

    if any(absences(config)):
        return None
    files = tuple(files_of(config))
    spec = SampleSpec((_FRAMES, 3, _HEIGHT, _WIDTH), text=True, fps=_FPS)
    release = release_of(config.weights)
    if release is not None and config.one_time_weights == "jump":
        frames, height, width = release.shape
        spec = SampleSpec((4 * (frames - 1) + 1, 3, height, width), text=True, fps=_FPS)
        told = release.told
        return Pretrained("flow_map", "whole", files, spec, release.shift, "lcm", diagonal=False, to_data=True, **told)
    exported = exported_for(files[0])
    if exported is not None and exported.calls is not None:
        # That grid and no other.
        return Pretrained("velocity", "whole", files, spec, exported.shift, "euler", exported.calls, one_list=True)
    shift = None if exported is None else exported.shift
    return Pretrained("velocity", "whole", files, spec, shift, "unipc", calls=50, cfg_scale=5.0)


class Exported(NamedTuple):
    """What a file of `flowmap export` is for: the shift of its grid; the number of steps, if it is for no other."""

    shift: float
    calls: int | None


def exported_for(file: Path) -> Exported | None:
    """What metadata say of a file that `flowmap export` wrote; None of a file of anybody else's.

    Raises FlowmapError for what cannot be.
    """
    told = metadata(file)
    if "flowmap.shift" not in told:
        return None
    try:
        shift, steps = float(told["flowmap.shift"]), told.get("flowmap.steps")
        found = Exported(shift, None if steps is None else int(steps))
        if 0 < shift <= _MOST_SHIFT and (found.calls is None or 0 < found.calls <= _MOST_STEPS):
            return found
    except ValueError:
        pass
    raise FlowmapError(f"{file}: its metadata say a shift or a number of steps that cannot be; export it again")
