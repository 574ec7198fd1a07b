"""Weights that no stage of a recipe makes: the base's own, a folder's, those of another run. Torch-free.

An evaluation names them where it could name a stage: `base`, or anything with a '/' in it (no stage's name has one).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from flowmap.errors import FlowmapError
from flowmap.plugin.kinds import BackboneConfig
from flowmap.recipe.claims import asked_for, claims_of
from flowmap.recipe.near import runs_in
from flowmap.recipe.run_weights import as_weights, run_stage
from flowmap.schema.specs import Pretrained, SampleSpec
from flowmap.weights.names import OF_TORCH, absence, find, is_file, is_hub_id
from flowmap.weights.runs import RUN_LOCK, is_run

BASE = "base"
"""The backbone's own weights, by name."""

_SHOWN = 8


class AbsentError(FlowmapError):
    """Weights that are not on this machine."""


@final
@dataclass(frozen=True)
class Outside:
    """Weights from outside: what they are, the backbone that makes their network, and of a run of ours its folder.

    `stage` is the stage of that run whose student it is.
    """

    name: str
    backbone: BackboneConfig
    pretrained: Pretrained
    run: Path | None = None
    stage: str | None = None

    def sized(self, spec: SampleSpec) -> Outside:
        """The same, for samples of `spec`; a run's stays as it was trained."""
        return self if self.run else replace(self, backbone=self.backbone.sized(spec))

    def misfits(self, spec: SampleSpec) -> Iterator[str]:
        """Why these weights cannot make samples of `spec`."""
        if self.run is not None:
            if self.pretrained.spec != spec:
                yield f"the samples of the run {self.name} are not of the same kind as the recipe's data"
            return
        for finding in self.sized(spec).backbone.findings(spec):
            if finding.level == "error":
                yield f"{self.name}: {finding.message}"


def is_weights(name: str) -> bool:
    """Whether `name` is that of weights, and not of a stage."""
    return name == BASE or "/" in name


def file_name(name: str) -> str:
    """The name of a stage or of weights as a part of file names; weights of the same last name differ."""
    if "/" not in name:
        return name
    last = re.sub(r"[^A-Za-z0-9_-]", "_", Path(name).name) or "weights"
    return f"{last}-{hashlib.blake2b(name.encode(), digest_size=3).hexdigest()}"


def look_up(name: str) -> Outside:
    """What the weights in the folder or the file, or of the hub id, `name` are.

    Raises AbsentError if they are not on this machine, and FlowmapError if nothing installed can read them.
    """
    folder = find(name)
    if folder is not None and is_run(folder):
        return _of_run(name, folder)
    claims = claims_of(name)
    if len(claims) > 1:
        owners = " and ".join(f"'{config.type}'" for config in claims)
        raise FlowmapError(f"{name}: the backbones {owners} both say that they can read it; uninstall one of them")
    if folder is None and not (claims and is_file(name)):
        problems = [finding.message for config in claims for finding in config.missing()]
        how = f".\n  Get them, if that is a hub id: hf download {name}" if is_hub_id(name) else ""
        raise AbsentError("\n".join(problems) or f"{absence(name)}{how}")
    if not claims:
        assert folder is not None, "a file that nobody claims is said to be one"
        raise FlowmapError(_unreadable(name, folder))
    problems = [finding.message for finding in claims[0].missing()]
    if problems:
        raise AbsentError("\n".join(problems))
    pretrained = claims[0].pretrained()
    assert pretrained is not None, f"{claims[0].type} claims weights and does not say what they are"
    return Outside(name, claims[0], pretrained)


def is_nowhere(name: str) -> bool:
    """Whether `name` is no folder or file, and no hub id of weights either, as far as that can be told."""
    return (
        find(name) is None
        and not is_file(name)
        and not (is_hub_id(name) and (claims_of(name) or not Path(name).parent.is_dir()))
    )


def of_base(backbone: BackboneConfig) -> Outside:
    """The base weights of `backbone`; raises AbsentError if they are not here, FlowmapError if there are none."""
    pretrained = backbone.pretrained()
    if pretrained is not None:
        return Outside(BASE, backbone, pretrained)
    problems = [finding.message for finding in backbone.missing()]
    if problems:
        raise AbsentError("\n".join(problems))
    if backbone.random_base:
        raise FlowmapError("the base weights of this backbone are random; name a stage, or weights, with a '/' in them")
    raise FlowmapError(f"backbone '{backbone.type}' does not say what its base weights are; name a stage")


def find_weights(name: str, backbone: BackboneConfig) -> Outside:
    """The weights `name`, `base` being those of `backbone`; raises as look_up and of_base do.

    Texts are read as `backbone` reads them, but by a run of ours, which reads them as in its training.
    """
    if name == BASE:
        return of_base(backbone)
    found = look_up(name)
    return found if found.run else replace(found, backbone=found.backbone.reading_as(backbone))


def _of_run(name: str, folder: Path) -> Outside:
    lock, stage = run_stage(folder)
    steps = folder if len(lock.seeds) == 1 else folder / f"seed-{lock.seeds[0]}"
    # No checkpoint is opened here: that needs torch. Whoever uses it will verify it.
    if not (steps / stage.name / "checkpoints" / f"step-{stage.steps:06d}").is_dir():
        from flowmap.console.commands import command_line

        home = folder.resolve()
        command = command_line(home / RUN_LOCK, [f"name={home.name}"], (), home.parent)
        raise AbsentError(
            f"the run {name} is not finished: there is no stage '{stage.name}' of {stage.steps} steps in "
            f"{steps / stage.name}.\n  Go on with it: {command}"
        )
    return Outside(name, lock.backbone, as_weights(lock, stage), folder, stage.name)


def _unreadable(name: str, folder: Path) -> str:
    """Say that nothing installed reads `folder`, what it holds, and what would work."""
    if runs := runs_in(folder):
        return f"{name} is no run{runs}"
    there = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    held = ", ".join([*there[:_SHOWN], *(["..."] if len(there) > _SHOWN else [])]) or "nothing"
    pickled = any(each.endswith(OF_TORCH) for each in there)
    how = ". No pickle is read, for one can run code: `flowmap docs rivals` has what makes it safetensors"
    return (
        f"{name} is no run, and no weights that an installed backbone reads: it holds {held}{how if pickled else ''}. "
        f"Weights are a folder in diffusers' layout, with transformer/config.json; asked: {', '.join(asked_for(name))}"
    )
