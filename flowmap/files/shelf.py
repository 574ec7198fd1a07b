"""Tensors that are costly to make, kept on disk by all that they depend on, for whoever needs the same ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import final

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowmap.files.folder import make_folder, writing
from flowmap.files.whole import readable, write_whole_file
from flowmap.phases import phase

SHELF = ".shelf"
"""The shelf of a run, in its folder; of the runs of a comparison it is one and the same. No stage is called so."""

_DIGEST = "digest"


@final
class Shelf:
    """Keeps named tensors in `folder`, shared by all processes that use the folder; without one, in memory.

    The folder may be deleted at any time when nobody uses it: what is missing is made again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._in_memory: dict[str, dict[str, Tensor]] = {}

    def kept(
        self, name: str, key: Mapping[str, object], make: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """The tensors that `make` makes, on the CPU: those that were made before for the same `name` and `key`, if any.

        `key` has all that they depend on but the code: anything that JSON has, and tensors, which count by their
        values. The number of CPU threads and torch's version belong to every key. Of several processes that want the
        same, one makes it and the others wait. A file that is damaged is made again. Raises StoppedError if the folder
        cannot be written.
        """
        label = f"{name}-{_digest_of({**key, 'threads': torch.get_num_threads(), 'torch': torch.__version__})}"
        if self._folder is None:
            if label not in self._in_memory:
                self._in_memory[label] = _plain(make())
            # Copies, as those that are read from a file: who changes them in place changes no other's.
            return {name: tensor.clone() for name, tensor in self._in_memory[label].items()}
        path = self._folder / f"{label}.safetensors"
        with phase(f"reading what was kept ({name})"):
            known = _read(path)
        if known is not None:
            return known
        with writing(path):
            make_folder(path.parent)
            lock = FileLock(path.with_name(f".{label}.lock"))
            with phase(f"waiting for another process, which makes the same ({name})"):
                lock.acquire()
        try:
            found = _read(path)
            if found is None:
                with phase(f"making what is kept for later ({name})"):
                    found = _plain(make())
                write_whole_file(path, lambda part: _write(part, found))
            return found
        finally:
            lock.release()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write(part: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, part, metadata={_DIGEST: _digest_of(tensors)})
    readable(part)


def _read(path: Path) -> dict[str, Tensor] | None:
    """What is in a file, or None if there is none or it is damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            # Memory of their own: results of some operations depend on the alignment of what they are given.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            written = (file.metadata() or {}).get(_DIGEST)
    except (OSError, SafetensorError):
        return None
    return tensors if written == _digest_of(tensors) else None


def _digest_of(value: Mapping[str, object]) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=_in_json).encode(), digest_size=8).hexdigest()


def _in_json(value: object) -> object:
    if not isinstance(value, Tensor):
        raise TypeError(f"a key is made of what JSON has and of tensors, not of {type(value).__name__}")
    bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return [str(value.dtype), list(value.shape), hashlib.blake2b(bits.data).hexdigest()]
