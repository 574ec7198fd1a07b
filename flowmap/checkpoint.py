"""Checkpoints: safetensors and a manifest with sizes and checksums, written whole or not at all.

`<stage>/checkpoints/step-NNNNNN/` holds, for every trained role, `<role>.safetensors` (its own parameters),
`<role>.ema.safetensors` (their moving average, where one is kept) and `<role>.optimizer.safetensors`
(AdamW's moments, as `<parameter>/<moment>`), and `manifest.json`. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowmap import __version__
from flowmap.configs import Weights
from flowmap.errors import FlowmapError
from flowmap.folder import SKIP_PREFIX, StoppedError, remove_folder, write_whole_folder
from flowmap.interfaces import Role
from flowmap.sharding import like_sharded, local, whole

MANIFEST = "manifest.json"
_FORMAT = 1
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
    write: bool = True,
) -> Checkpoint:
    """Save the trained `roles` after `step` finished steps and drop all but the newest `keep` checkpoints.

    Where networks are sharded, all processes must call this and one of them must `write`; what it writes is whole,
    so that any number of processes can go on from it.
    """
    path = stage / "checkpoints" / f"step-{step:06d}"

    def fill(folder: Path) -> None:
        for name, tensors in _contents(optimizers, roles, write):
            save_file(tensors, folder / name)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(folder.iterdir())
        }
        manifest = {
            "format": _FORMAT,
            "step": step,
            "flowmap": __version__,
            "torch": torch.__version__,
            "files": files,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")

    if not write:
        for _ in _contents(optimizers, roles, write):
            pass
        return Checkpoint(path, step)
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
    """Raise StoppedError, naming the file, if anything in `checkpoint` is missing, truncated or altered.

    Its `first` is the command that moves the damaged checkpoints away, so that the one before them counts.
    """
    problem = next(_problems(checkpoint), None)
    if problem is None:
        return
    damaged = [checkpoint]
    advice = "No earlier one is whole: the stage will start over"
    for older in reversed(checkpoints(checkpoint.path.parents[1])):
        if older.step < checkpoint.step:
            if next(_problems(older), None) is None:
                advice = f"The one before it, {older.path}, is whole"
                break
            damaged.append(older)
    raise StoppedError(
        f"checkpoint {checkpoint.path} is damaged: {problem}. It is not used. {advice}.",
        first=" && ".join(shlex.join(["mv", str(c.path), str(aside(c.path, "damaged"))]) for c in damaged),
    )


def aside(path: Path, why: str) -> Path:
    """The first free name for a checkpoint that is not to be used, for it is what `why` says."""
    number = 1
    while (found := path.with_name(f"{why}-{number}-{path.name}")).exists():
        number += 1
    return found


def clean(stage: Path) -> None:
    """Delete what an interrupted write, save or deletion left behind."""
    for path in (*stage.glob(f"{SKIP_PREFIX}*"), *(stage / "checkpoints").glob(f"{SKIP_PREFIX}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _problems(checkpoint: Checkpoint) -> Iterator[str]:
    """What is wrong with `checkpoint`, the cheapest to find first."""
    try:
        manifest: dict[str, Any] = json.loads((checkpoint.path / MANIFEST).read_bytes())
        about = (manifest["format"], manifest["step"])
        wanted = {name: (int(f["bytes"]), str(f["sha256"])) for name, f in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"its {MANIFEST} cannot be read ({type(error).__name__})"
        return
    if about != (_FORMAT, checkpoint.step):
        yield f"its {MANIFEST} is of format {about[0]} and step {about[1]}, not {_FORMAT} and {checkpoint.step}"
    for name, (size, digest) in wanted.items():
        file = checkpoint.path / name
        try:
            if file.stat().st_size != size:
                yield f"{name} has {file.stat().st_size} bytes instead of {size}"
            elif _sha256(file) != digest:
                yield f"the contents of {name} do not match their checksum"
        except FileNotFoundError:
            yield f"{name} is missing"
        except OSError as error:
            yield f"{name} cannot be read: {error.strerror}"


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _contents(
    optimizers: Mapping[str, torch.optim.Optimizer], roles: Mapping[str, Role], wanted: bool
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """File after file of a checkpoint, each tensor whole and on the CPU; not kept unless `wanted`."""
    for name, optimizer in optimizers.items():
        role = roles[name]
        files: dict[str, Mapping[str, Tensor]] = {"": role.own, ".optimizer": _moments(role, optimizer)}
        if role.average:
            files[".ema"] = role.average
        for part, tensors in files.items():
            kept = {}
            for key, value in tensors.items():
                gathered = whole(value.detach())
                if wanted:
                    kept[key] = gathered.cpu().contiguous()
            yield f"{name}{part}.safetensors", kept


def _read(file: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except FileNotFoundError:
        raise FlowmapError(
            f"{file} does not exist; this checkpoint was written by a different recipe", code=1
        ) from None
    except SafetensorError as error:
        raise FlowmapError(f"{file} is no safetensors file: {error}", code=1) from None
    return tensors


@torch.no_grad()
def _copy(target: Mapping[str, Tensor], source: Mapping[str, Tensor], file: Path) -> None:
    here, there = ({name: tensor.shape for name, tensor in tensors.items()} for tensors in (target, source))
    odd = sorted({name for name, _ in here.items() ^ there.items()})
    if odd:
        raise FlowmapError(f"{file} does not fit this network: {len(odd)} parameters differ, first {odd[0]}", code=1)
    for name, tensor in target.items():
        local(tensor).copy_(local(like_sharded(source[name], tensor)))


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
        if moment != "step":
            optimizer.state[parameter][moment] = like_sharded(value, parameter)
        else:
            device = parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
            optimizer.state[parameter][moment] = value.to(device)
