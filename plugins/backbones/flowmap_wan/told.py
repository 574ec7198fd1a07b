"""What a file that `flowmap export` wrote says of itself: who reads it, by which rules, and how it is sampled.

It stands in the file's metadata (flowmap_wan.telling writes it), and wins over what names of keys or of files would
tell. Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, final

from pydantic import ValidationError

from flowmap.errors import FlowmapError
from flowmap.plugin import BackboneConfig, Config, Finding, Fit, FrameChoice, Pretrained, SampleSpec
from flowmap.schema.bounds import Calls, Frames, Rate, Shift, Side
from flowmap.weights.headers import metadata
from flowmap.weights.runs import run_in
from flowmap_wan.foreign import transformer_in
from flowmap_wan.plain import velocity_of

if TYPE_CHECKING:
    from flowmap_wan.files_config import FilesConfig

BEGIN = "flowmap."
"""What the names of such metadata begin with."""
DECIDING = (
    "text_length",
    "chunk",
    "first_chunk",
    "window",
    "sink",
    "context",
    "context_frames",
    "keep_first_frame",
    "padded_attention",
)
"""The fields of a backbone that decide what its networks compute, beside their sizes."""

_MOST = 100_000  # characters of what is JSON

C = TypeVar("C", bound=BackboneConfig)
Network = Literal["jump", "list", "velocity"]
"""What is computed: a jump to data, a flow map on one list of times, or a velocity."""


class _Video(Config):
    frames: Frames
    height: Side
    width: Side
    fps: Rate
    fit: Fit
    frame_choice: FrameChoice


class _About(Config):
    network: Network
    shift: Shift
    steps: Calls | None = None
    sampler: str | None = None
    video: _Video


@final
@dataclass(frozen=True)
class Told:
    """Of the weights in `file`: the backbone `type`, its `fields` that decide what is computed, and the `network`.

    It was trained on samples of `spec`. If it is no velocity, it is sampled by `sampler` with `sampler_fields`, in
    `calls` network calls; else by a solver of many steps.
    """

    file: Path
    type: str
    fields: Mapping[str, Any]
    network: Network
    spec: SampleSpec
    shift: float
    calls: int | None
    sampler: str | None
    sampler_fields: Mapping[str, Any]

    def config(self, weights: str, kind: type[C]) -> C | None:
        """What reads `weights`, if that is a configuration of `kind`; raises FlowmapError for fields that cannot be."""
        if self.type != kind.type_name():
            return None
        try:
            return kind.model_validate({"weights": weights, **self.fields})
        except ValidationError:
            raise FlowmapError(_wrong(self.file)) from None

    def pretrained(self, files: tuple[Path, ...], causal: bool = False) -> Pretrained:
        """The same for whoever samples it, chunk by chunk if it is `causal`; `files` are all that decide it."""
        if self.sampler is None or self.calls is None:
            return velocity_of(files, self.spec, self.shift)
        told = files, self.spec, self.shift, self.sampler, self.calls
        if self.network == "list":
            # That grid and no other.
            return Pretrained("velocity", "whole", *told, one_list=True)
        view: Literal["forced", "whole"] = "forced" if causal else "whole"
        return Pretrained("flow_map", view, *told, diagonal=False, to_data=True, sampler_fields=self.sampler_fields)


def told_by(weights: str) -> Told | None:
    """What `weights` say of themselves, if `flowmap export` wrote them; None of anybody else's, and of a run.

    Raises FlowmapError if they say what cannot be, or not all that has to be known.
    """
    file, said = None, {}
    with suppress(FlowmapError):  # what is damaged, nobody claims
        found = None if run_in(weights) is not None else transformer_in(weights, "transformer")
        file = None if found is None else found.files[0]
        said = {} if file is None else metadata(file)
    told = {name.removeprefix(BEGIN): value for name, value in said.items() if name.startswith(BEGIN)}
    if file is None or "shift" not in told:
        return None
    if "backbone" not in told:
        raise FlowmapError(
            f"{file} was exported by a flowmap that did not write down which network it is, and by which rules it is "
            "sampled; export it again"
        )
    try:
        backbone, own, size = (_table(told.pop(name, "{}")) for name in ("backbone", "sampler_fields", "video"))
        numbers = {"shift": float(told["shift"]), "steps": int(told["steps"]) if "steps" in told else None}
        given = {name: told[name] for name in ("network", "sampler") if name in told}
        about = _About.model_validate({**given, **numbers, "video": size})
        kind = str(backbone.pop("type"))
    except (ValueError, KeyError, RecursionError):
        raise FlowmapError(_wrong(file)) from None
    if (about.network == "velocity") != (about.sampler is None) or (about.steps is None) != (about.sampler is None):
        raise FlowmapError(_wrong(file))
    video = about.video
    how: dict[str, Any] = {"fps": video.fps, "fit": video.fit, "frame_choice": video.frame_choice}
    spec = SampleSpec((video.frames, 3, video.height, video.width), text=True, **how)
    return Told(file, kind, backbone, about.network, spec, about.shift, about.steps, about.sampler, own)


def is_ours(weights: str) -> bool:
    """Whether `flowmap export` wrote `weights`, whatever they say of themselves."""
    try:
        return told_by(weights) is not None
    except FlowmapError:
        return True


def _table(text: str) -> dict[str, Any]:
    """The JSON table `text`; raises ValueError for anything else."""
    read = json.loads(text) if len(text) < _MOST else None
    if not isinstance(read, dict):
        raise ValueError("no table")
    return read


def _wrong(file: Path) -> str:
    return f"{file}: its metadata say what cannot be; export it again"


def told_findings(config: FilesConfig) -> Iterator[Finding]:
    """Where `config` is not what its weights say of themselves."""
    try:
        told = told_by(config.weights)
    except FlowmapError as error:
        yield Finding("error", ("weights",), str(error))
        return
    if told is None:
        return
    jumps, plain = told.network == "jump", config.type in ("wan21", "far_wan21")
    taken = getattr(config, "one_time_weights", "jump" if jumps else "velocity") == "jump"
    goes_on = plain and (told.type == "wan21" or (jumps and taken))
    # A causal student can begin as plain Wan does.
    goes_on = goes_on or (config.type == "causal_wan21" and told.network == "velocity" and told.type == "wan21")
    if told.type != config.type and not goes_on:
        why = f"{told.file} says of itself that it is a network of '{told.type}', as flowmap exported it"
        more = ", or one_time_weights = 'jump', to go on from it by a flow map" if plain and jumps else ""
        yield Finding("error", ("weights",), f"{why}; take type = '{told.type}'{more}")
        return
    if jumps != taken:
        what, take = ("jump to data, and are no velocity", "jump") if jumps else ("do not jump to data", "velocity")
        yield Finding("error", ("one_time_weights",), f"these weights, as flowmap exported them, {what}; take '{take}'")
    for name in DECIDING if told.type == config.type else ():
        own, value = getattr(config, name, None), told.fields.get(name)
        if own != value:
            level: Literal["error", "warning"] = "warning" if name in config.model_fields_set else "error"
            why = f"is {_word(own)}, and {told.file} was exported with {_word(value)}; the networks differ"
            yield Finding(level, (name,), why)


def _word(value: object) -> str:
    return "not set" if value is None else json.dumps(value)
