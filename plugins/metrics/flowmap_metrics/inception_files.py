"""Where the weights of FID's Inception network are, and how to get them. Torch-free."""

from __future__ import annotations

import hashlib
import os
import shlex
from functools import lru_cache
from pathlib import Path

# One file under two names: torch-fidelity's (which torchmetrics uses too) and pytorch-fid's.
_NAMES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_NAMES[0]}"
_SHA256 = "6726825d"  # its first digits, which the name ends with


def find(weights: str | None) -> Path | None:
    """The file called `weights`, or the one that torch's hub has kept for other libraries; None if there is none."""
    places = [Path(os.path.expanduser(weights))] if weights else [_kept() / name for name in _NAMES]
    return next((place for place in places if place.is_file()), None)


def absence(weights: str | None) -> str:
    """Say that the weights are not here, where they were looked for, and the one line that gets them."""
    if weights:
        place, looked = Path(os.path.expanduser(weights)).absolute(), "there is no file"
    else:
        place, looked = _kept() / _NAMES[0], "there is no"
    return (
        f"the weights of FID's Inception network are not on this machine: {looked} {place}"
        + ("" if weights else f", nor {_NAMES[1]} beside it")
        + how_to_get(place)
    )


def how_to_get(place: Path) -> str:
    """The command that fetches the weights to `place`: the end of a sentence."""
    return f".\n  Get them: curl -L --create-dirs -o {shlex.quote(str(place))} {_URL}"


def is_published(file: Path) -> bool:
    """Whether `file` is the one that others use, by its contents."""
    about = file.stat()
    return _digest(file, about.st_mtime_ns, about.st_size).startswith(_SHA256)


@lru_cache(maxsize=4)
def _digest(file: Path, stamp: int, size: int) -> str:
    """The SHA-256 of a file of that time and size."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _kept() -> Path:
    """Where torch's hub keeps what libraries fetch through it, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    return Path(os.path.expanduser(home)) / "hub" / "checkpoints"
