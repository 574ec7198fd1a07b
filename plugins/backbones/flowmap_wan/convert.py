"""Turn a .pt or .pth of others into safetensors: `python -m flowmap_wan.convert FILE TO [--key NAME]`.

The pickle in FILE is read by another process, which has no rights but to read (`flowmap_wan.rights`); names, dtypes,
shapes and bytes come back through a pipe, and are checked and written here. Nothing here opens FILE. Torch-free.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from flowmap.errors import FlowmapError
from flowmap.files.whole import write_whole_file, write_whole_folder
from flowmap.weights.headers import header

_STEM, _END = "model", ".safetensors"
_MOST_BYTES = 5_000_000_000
_MOST_LINE = 10**8  # as safetensors has it for its own headers
_PIECE = 2**24
_BITS = re.compile(r"(?:F|BF|I|U)(8|16|32|64)|BOOL")


class _Told(NamedTuple):
    """What the other process says of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        bits = _BITS.match(self.dtype)
        assert bits is not None
        return math.prod(self.shape) * int(bits[1] or 8) // 8


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; a mistake is one line."""
    parser = argparse.ArgumentParser("python -m flowmap_wan.convert", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="a .pt, .pth, .ckpt or .bin of torch.save")
    parser.add_argument("to", type=Path, help=f"one file, if it ends in {_END}; otherwise a new folder, in parts")
    parser.add_argument(
        "--key",
        default="",
        help="the table in the file, if it has several: generator_ema, say, or . for the file itself",
    )
    asked = parser.parse_args(arguments)
    try:
        number, files = convert(asked.file, asked.to, asked.key)
    except FlowmapError as error:
        print(error, file=sys.stderr)
        return error.code
    print(f"{number} tensors, {files} {'file' if files == 1 else 'files'}: {asked.to}")
    return 0


def convert(file: Path, to: Path, key: str = "", most: int = _MOST_BYTES) -> tuple[int, int]:
    """Write the tensors of `file` to `to`, whole or not at all; returns how many tensors and files.

    `to` is one file if it is called so, or a folder with files of at most `most` bytes and their index. Raises
    FlowmapError for a file with more in it than tensors, for a `key` that it has not, and where `to` is there.
    """
    if not file.is_file():
        raise FlowmapError(f"{file}: there is no such file")
    if file.suffix == _END:
        raise FlowmapError(f"{file}: is called a safetensors file already; name it as weights as it is")
    if os.path.lexists(to):
        raise FlowmapError(f"{to}: is there already; name a new one, or move it away")
    # What it imports is what this process would.
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "flowmap_wan.unpickle", str(file.absolute()), key]
    with subprocess.Popen(
        command,
        env={"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1", **paths},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as reader:
        assert reader.stdout is not None
        try:
            tensors = _told(file, reader)
            parts = [tensors] if to.suffix == _END else list(_parts(tensors, most))
            if to.suffix == _END:
                write_whole_file(to, lambda part: _write(part, tensors, reader.stdout))
            else:
                write_whole_folder(to, lambda folder: _write_parts(folder, parts, reader.stdout))
        finally:
            reader.kill()
    return len(tensors), len(parts)


def _told(file: Path, reader: subprocess.Popen[bytes]) -> list[_Told]:
    """What tensors there will be; raises FlowmapError with what the other process says is wrong."""
    assert reader.stdout is not None
    assert reader.stderr is not None
    line = reader.stdout.readline(_MOST_LINE)
    if not line.endswith(b"\n"):
        last = reader.stderr.read(_PIECE).decode(errors="replace").strip().splitlines()
        raise FlowmapError(f"{file}: the process that reads it ended ({last[-1] if last else 'it says nothing'})")
    told: dict[str, Any] = json.loads(line)
    if "refused" in told:
        raise FlowmapError(f"{file}: {told['refused']}")
    # It comes from a process that has read what anybody may have written.
    found = [_Told(str(name), str(dtype), tuple(map(int, shape))) for name, dtype, shape in told["tensors"]]
    if not found or any(_BITS.match(each.dtype) is None or min(each.shape, default=0) < 0 for each in found):
        raise FlowmapError(f"{file}: the process that reads it tells of no tensors")
    return found


def _parts(tensors: Sequence[_Told], most: int) -> Iterator[list[_Told]]:
    part: list[_Told] = []
    for each in tensors:
        if part and sum(other.size for other in part) + each.size > most:
            yield part
            part = []
        part.append(each)
    yield part


def _write_parts(folder: Path, parts: Sequence[Sequence[_Told]], source: IO[bytes] | None) -> None:
    places: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        name = f"{_STEM}-{number:05d}-of-{len(parts):05d}{_END}" if len(parts) > 1 else _STEM + _END
        _write(folder / name, part, source)
        places |= {each.name: name for each in part}
    if len(parts) > 1:
        total = sum(each.size for part in parts for each in part)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / f"{_STEM}{_END}.index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _write(file: Path, tensors: Sequence[_Told], source: IO[bytes] | None) -> None:
    """A safetensors file of the bytes that come from `source`, read back by its header."""
    assert source is not None
    about: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for each in tensors:
        about[each.name] = {"dtype": each.dtype, "shape": each.shape, "data_offsets": (end, end + each.size)}
        end += each.size
    text = json.dumps(about).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        while end:
            piece = source.read(min(end, _PIECE))
            if not piece:
                raise FlowmapError(f"the process that reads the pickle ended {end} bytes before the end", code=1)
            opened.write(piece)
            end -= len(piece)
    header(file)


if __name__ == "__main__":
    raise SystemExit(main())
