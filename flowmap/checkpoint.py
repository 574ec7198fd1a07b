"""Checkpoints: safetensors and a manifest with sizes and checksums, written whole or not at all.

`<stage>/checkpoints/step-NNNNNN/` holds, for every trained role, `<role>.safetensors` (its own parameters),
`<role>.ema.safetensors` (their moving average, where one is kept) and `<role>.optimizer.safetensors`
(AdamW's moments, as `<parameter>/<moment>`), and `manifest.json`. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowmap import __version__
from flowmap.configs import Weights
from flowmap.errors import FlowmapError
from flowmap.folder import SKIP_PREFIX, remove_folder, write_whole_folder
from flowmap.interfaces import Role

MANIFEST = "manifest.json"
_STEP = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """One folder of a stage's checkpoints; `step` is the number of finished steps."""

    path: Path
    step: int


def checkpoints(stage: Path) -> list[Checkpoint]:
    """The checkpoints of the stage folder, oldest first (not verified)."""
    folder = stage / "checkpoints"
    found = [(path, _STEP.fullmatch(path.name)) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((Checkpoint(path, int(m[1])) for path, m in found if m), key=lambda c: c.step)


def save(
    stage: Path,
    step: int,
    optimizers: Mapping[str, torch.optim.Optimizer],
    roles: Mapping[str, Role],
    keep: int,
) -> Checkpoint:
    """Save the trained `roles` after `step` finished steps and drop all but the newest `keep` checkpoints."""
    path = stage / "checkpoints" / f"step-{step:06d}"

    def fill(folder: Path) -> None:
        for name, optimizer in optimizers.items():
            role = roles[name]
            _save(folder / f"{name}.safetensors", {k: p.detach() for k, p in role.own.items()})
            _save(folder / f"{name}.optimizer.safetensors", _moments(role, optimizer))
            if role.average:
                _save(folder / f"{name}.ema.safetensors", role.average)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(folder.iterdir())
        }
        manifest = {
            "format": 1,
            "step": step,
            "flowmap": __version__,
            "torch": torch.__version__,
            "files": files,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")

    if path.exists():
        # Only a damaged folder can stand here: a good one would have been resumed from or refused.
        remove_folder(path)
    write_whole_folder(path, fill)
    for old in checkpoints(stage)[:-keep]:
        remove_folder(old.path)
    return Checkpoint(path, step)


def restore(checkpoint: Checkpoint, optimizers: Mapping[str, torch.optim.Optimizer], roles: Mapping[str, Role]) -> None:
    """Put a verified checkpoint back into the trained `roles` and their `optimizers`, completely or not at all."""
    loaded = {
        name: {
            part: _read(checkpoint.path / f"{name}{part}.safetensors")
            for part in ("", ".ema", ".optimizer")
            if part != ".ema" or roles[name].average
        }
        for name in optimizers
    }
    for name, optimizer in optimizers.items():
        role = roles[name]
        for target, part in ((role.own, ""), (role.average, ".ema")):
            if part in loaded[name]:
                _copy(target, loaded[name][part], checkpoint.path / f"{name}{part}.safetensors")
        _restore_moments(role, optimizer, loaded[name][".optimizer"])


def read_weights(checkpoint: Checkpoint, role: str, weights: Weights) -> dict[str, Tensor]:
    """The own parameters of `role` in a verified checkpoint."""
    file = checkpoint.path / f"{role}{'.ema' if weights == 'ema' else ''}.safetensors"
    return _read(file)


def verify(checkpoint: Checkpoint) -> None:
    """Raise FlowmapError, naming the file, if anything in `checkpoint` is missing, truncated or altered."""
    problem = _problem(checkpoint.path)
    if problem is None:
        return
    whole = [
        c for c in checkpoints(checkpoint.path.parents[1]) if c.step < checkpoint.step and _problem(c.path) is None
    ]
    if whole:
        aside = checkpoint.path.with_name(f"damaged-{checkpoint.path.name}")
        advice = f"{whole[-1].path} before it is whole; to go on from there: mv {checkpoint.path} {aside} and run again"
    else:
        advice = "no earlier checkpoint of this stage is whole; run with --fresh to train it again"
    raise FlowmapError(f"{problem}. It is not used. {advice}.", code=1)


def clean(stage: Path) -> None:
    """Delete what an interrupted save or deletion left behind."""
    for path in (stage / "checkpoints").glob(f"{SKIP_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def _problem(folder: Path) -> str | None:
    try:
        files: dict[str, Any] = json.loads((folder / MANIFEST).read_text())["files"]
        wanted = {name: (int(f["bytes"]), str(f["sha256"])) for name, f in files.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"checkpoint {folder} is damaged: its {MANIFEST} cannot be read ({type(error).__name__})"
    for name, (size, digest) in wanted.items():
        file = folder / name
        if not file.is_file():
            return f"checkpoint {folder} is damaged: {name} is missing"
        if file.stat().st_size != size:
            return f"checkpoint {folder} is damaged: {name} has {file.stat().st_size} bytes instead of {size}"
        if _sha256(file) != digest:
            return f"checkpoint {folder} is damaged: the contents of {name} do not match their checksum"
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _save(file: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, file)


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FlowmapError(f"{file} does not exist; this checkpoint was written by a different recipe", code=1)
    tensors: dict[str, Tensor] = load_file(file)
    return tensors


@torch.no_grad()
def _copy(target: Mapping[str, Tensor], source: Mapping[str, Tensor], file: Path) -> None:
    if target.keys() != source.keys():
        odd = sorted(target.keys() ^ source.keys())
        raise FlowmapError(f"{file} does not fit this network: {len(odd)} parameters differ, first {odd[0]}", code=1)
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _moments(role: Role, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{moment}": torch.as_tensor(value)
        for name, parameter in role.own.items()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_moments(role: Role, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        parameter = role.own[name]
        device = parameter.device if moment != "step" or optimizer.defaults.get("fused") else torch.device("cpu")
        optimizer.state[parameter][moment] = value.to(device)
