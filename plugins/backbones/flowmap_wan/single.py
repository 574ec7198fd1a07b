"""Weights of `wan21` and `far_wan21` that are a file of another project, and no checkpoint in diffusers' layout.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flowmap.plugin import Finding, Pretrained
from flowmap.weights.runs import run_in
from flowmap_wan.plain import OF_WAN, clip, velocity_of
from flowmap_wan.released import one_time_findings as named_otherwise
from flowmap_wan.released import release_of
from flowmap_wan.told import told_by

if TYPE_CHECKING:
    from flowmap_wan.two_times import TwoTimesConfig


def one_time_findings(config: TwoTimesConfig) -> Iterable[Finding]:
    """What `one_time_weights` does not go with, and what a start that jumps has lost."""
    from flowmap_wan.pretrained import complete

    yield from named_otherwise(config.weights, config.one_time_weights)
    if config.one_time_weights == "velocity":
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
    files, ours = tuple(files_of(config)), told_by(config.weights)
    if ours is not None:
        return ours.pretrained(files)
    release = release_of(config.weights)
    if release is not None and config.one_time_weights == "jump":
        told = clip(*release.shape), release.shift
        return Pretrained("flow_map", "whole", files, *told, "lcm", diagonal=False, to_data=True, **release.told)
    return velocity_of(files, OF_WAN, None)
