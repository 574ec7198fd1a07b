"""Checkpoints: safetensors and a manifest with sizes and checksums, written whole or not at all.

`<stage>/checkpoints/step-NNNNNN/` holds, for every trained role, `<role>.safetensors` (its own parameters),
`<role>.ema.safetensors` (their moving average, where one is kept) and `<role>.optimizer.safetensors`
(AdamW's moments, as `<parameter>/<moment>`), and `manifest.json`. No pickle is written or read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.files.folder import remove_folder, writing
from flowmap.files.manifest import FORMAT, MANIFEST, Checkpoint, StepsSeal, checkpoints
from flowmap.files.whole import write_whole_folder
from flowmap.interfaces import Role
from flowmap.phases import each, phase
from flowmap.schema.words import Weights
from flowmap.training.sharding import copy_in, like_sharded, whole
from flowmap.training.verify import sha256_of, size_of
from flowmap.version import __version__

_MOMENTS = {"exp_avg", "exp_avg_sq", "step"}
"""What AdamW knows of a parameter that it has stepped."""


def save(
    stage: Path,
    step: int,
    optimizers: Mapping[str, torch.optim.Optimizer],
    roles: Mapping[str, Role],
    keep: int,
    write: bool = True,
    steps: StepsSeal | None = None,
) -> Checkpoint:
    """Save the trained `roles` after `step` finished steps and drop all but the newest `keep` checkpoints.

    `steps` seals what `steps.jsonl` says of them. The folder `stage` must be there. Where networks are sharded, all
    processes must call this and one of them must `write`; what it writes is whole, so that any number of processes can
    go on from it.
    """
    if not write:
        for _ in contents(optimizers, roles, False):
            pass
        return Checkpoint(_path(stage, step), step)
    return written(stage, step, contents(optimizers, roles, True), keep, steps, size_of_contents(optimizers, roles))


def written(
    stage: Path,
    step: int,
    files: Iterable[tuple[str, dict[str, Tensor]]],
    keep: int,
    steps: StepsSeal | None = None,
    size: int = 0,
) -> Checkpoint:
    """Write the `files` of a checkpoint (see `contents`), of so many bytes of tensors in all if that is known."""
    path = _path(stage, step)

    def fill(folder: Path) -> None:
        with phase("writing", size, "bytes") as doing:
            for name, tensors in files:
                save_file(tensors, folder / name)
                doing.advance(sum(map(size_of, tensors.values())))
        sizes = {file: file.stat().st_size for file in sorted(folder.iterdir())}
        with phase("hashing", sum(sizes.values()), "bytes") as doing:
            facts = {file.name: {"bytes": size, "sha256": sha256_of(file, doing)} for file, size in sizes.items()}
        manifest = {
            "format": FORMAT,
            "step": step,
            "flowmap": __version__,
            "torch": torch.__version__,
            "files": facts,
        }
        if steps is not None:
            manifest["steps"] = steps.model_dump()
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    with writing(path):
        path.parent.mkdir(exist_ok=True)
    write_whole_folder(path, fill)
    prune(stage, keep)
    return Checkpoint(path, step)


def _path(stage: Path, step: int) -> Path:
    return stage / "checkpoints" / f"step-{step:06d}"


def prune(stage: Path, keep: int) -> None:
    """Drop all but the newest `keep` checkpoints."""
    for old in checkpoints(stage)[:-keep]:
        remove_folder(old.path)


def restore(checkpoint: Checkpoint, optimizers: Mapping[str, torch.optim.Optimizer], roles: Mapping[str, Role]) -> None:
    """Put a verified checkpoint back into the trained `roles` and their `optimizers`, completely or not at all.

    Raises FlowmapError, before anything is changed, if a tensor is missing, too many, or of another shape or type.
    """
    loaded: list[tuple[Role, torch.optim.Optimizer, dict[str, dict[str, Tensor]]]] = []
    for name, optimizer in each(list(optimizers.items()), "reading weights and moments", "roles"):
        role = roles[name]
        files = {part: checkpoint.path / f"{name}{part}.safetensors" for part in ("", ".ema", ".optimizer")}
        if not role.average:
            del files[".ema"]
        read = {part: _read(file) for part, file in files.items()}
        _refuse_misfit(role.own, read[""], files[""])
        if role.average:
            _refuse_misfit(role.average, read[".ema"], files[".ema"])
        _refuse_odd_moments(role, read[".optimizer"], files[".optimizer"])
        loaded.append((role, optimizer, read))
    for role, optimizer, read in each(loaded, "putting them in place", "roles"):
        copy_in(role.own, read[""])
        if role.average:
            copy_in(role.average, read[".ema"])
        _restore_moments(role, optimizer, read[".optimizer"])


def read_weights(checkpoint: Checkpoint, role: str, weights: Weights) -> dict[str, Tensor]:
    """The own parameters of `role` in a verified checkpoint."""
    file = checkpoint.path / f"{role}{'.ema' if weights == 'ema' else ''}.safetensors"
    return _read(file)


def _files(
    optimizers: Mapping[str, torch.optim.Optimizer], roles: Mapping[str, Role]
) -> dict[str, Mapping[str, Tensor]]:
    """The files of a checkpoint and the tensors of each, as they are in this process."""
    files: dict[str, Mapping[str, Tensor]] = {}
    for name, optimizer in optimizers.items():
        role = roles[name]
        files[f"{name}.safetensors"] = role.own
        files[f"{name}.optimizer.safetensors"] = _moments(role, optimizer)
        if role.average:
            files[f"{name}.ema.safetensors"] = role.average
    return files


def contents(
    optimizers: Mapping[str, torch.optim.Optimizer], roles: Mapping[str, Role], wanted: bool, copied: bool = False
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """File after file of a checkpoint, each tensor whole and on the CPU; not kept unless `wanted`.

    With `copied` none shares memory with what is trained. Where networks are sharded, all processes must ask.
    """
    for name, tensors in _files(optimizers, roles).items():
        kept = {}
        for key, value in tensors.items():
            gathered = whole(value.detach())
            if wanted:
                kept[key] = gathered.to("cpu", copy=copied).contiguous()
        yield name, kept


def size_of_contents(optimizers: Mapping[str, torch.optim.Optimizer], roles: Mapping[str, Role]) -> int:
    """Bytes of all tensors of a checkpoint."""
    return sum(size_of(tensor) for tensors in _files(optimizers, roles).values() for tensor in tensors.values())


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


def _refuse_misfit(target: Mapping[str, Tensor], source: Mapping[str, Tensor], file: Path) -> None:
    here, there = ({name: (t.shape, t.dtype) for name, t in tensors.items()} for tensors in (target, source))
    odd = sorted({name for name, _ in here.items() ^ there.items()})
    if odd:
        raise FlowmapError(f"{file} does not fit this network: {len(odd)} parameters differ, first {odd[0]}", code=1)


def _refuse_odd_moments(role: Role, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Each parameter has all moments, or, if it was never stepped, none; each moment but the count has its shape."""
    found: dict[str, set[str]] = {}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        found.setdefault(name, set()).add(moment)
        shape = torch.Size(()) if moment == "step" else role.own[name].shape if name in role.own else None
        if name not in role.own or moment not in _MOMENTS or value.shape != shape or not value.is_floating_point():
            raise FlowmapError(f"{file} does not fit this optimizer: {key} is none of its moments", code=1)
    for name, moments in found.items():
        if moments != _MOMENTS:
            missing = min(_MOMENTS - moments)
            raise FlowmapError(f"{file} does not fit this optimizer: {name}/{missing} is missing", code=1)


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
