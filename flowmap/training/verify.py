"""Whether a checkpoint is what was saved: sizes and digests of its files."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from flowmap.files.folder import SKIP_PREFIX, StoppedError
from flowmap.files.manifest import MANIFEST, Checkpoint, checkpoints, read_manifest
from flowmap.files.texts import TextError
from flowmap.phases import Phase, phase

_HASHED_TOGETHER = 1 << 20  # bytes


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
        wanted = read_manifest(checkpoint).files
        there = sorted(file.name for file in checkpoint.path.glob("*.safetensors"))
    except TextError as error:
        yield str(error)
        return
    except OSError as error:
        yield f"it cannot be read: {error.strerror}"
        return
    # What the manifest does not name has no checksum, and would be read all the same.
    yield from (f"{name} is not in its {MANIFEST}" for name in there if name not in wanted)
    what = f"checking {checkpoint.path.parents[1].name}, step {checkpoint.step}"
    with phase(what, sum(facts.bytes for facts in wanted.values()), "bytes") as doing:
        for name, facts in wanted.items():
            file = checkpoint.path / name
            try:
                if file.stat().st_size != facts.bytes:
                    yield f"{name} has {file.stat().st_size} bytes instead of {facts.bytes}"
                elif sha256_of(file, doing) != facts.sha256:
                    yield f"the contents of {name} do not match their checksum"
            except FileNotFoundError:
                yield f"{name} is missing"
            except OSError as error:
                yield f"{name} cannot be read: {error.strerror}"


def sha256_of(file: Path, doing: Phase) -> str:
    """The digest of a file, read piece by piece; `doing` advances by its bytes."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_HASHED_TOGETHER))
    with file.open("rb", buffering=0) as opened:
        while size := opened.readinto(buffer):
            digest.update(buffer[:size])
            doing.advance(size)
    return digest.hexdigest()


def size_of(tensor: Tensor) -> int:
    """Bytes of all of it, sharded or not."""
    return tensor.numel() * tensor.element_size()
