"""The files of a part of a pipeline (a transformer): which there have to be, and the shapes in them. Torch-free."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flowmap.errors import FlowmapError
from flowmap.weights.fields import CONFIG
from flowmap.weights.headers import header, read_json
from flowmap.weights.names import OF_TORCH

# As diffusers and as transformers name them.
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")
_BESIDE = re.compile(r"[\w.-]+\.safetensors")
# Whatever is quantised would be read as other numbers.
_FLOATS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def absent(part: Path) -> Iterator[str]:
    """The files that `part` has to have and has not; nothing of a damaged index."""
    if not (part / CONFIG).is_file():
        yield f"{part.name}/{CONFIG}"
    try:
        files = weight_files(part)
    except FlowmapError:
        return
    if not files:
        pickles = sorted(f.name for f in part.glob("*") if f.suffix in OF_TORCH)
        why = f" ({pickles[0]} can run code when it is read, so it is not)" if pickles else ""
        yield f"{part.name}/{_WEIGHTS['encoder' in part.name]}{why}"
    yield from (f"{part.name}/{file.name}" for file in files if not file.is_file())


def weight_files(part: Path) -> list[Path]:
    """The weights of `part`, and no variant of them that may lie beside; raises FlowmapError for a damaged index."""
    index = _index(part)
    if index is not None:
        return listed_in(index)
    return [part / name for name in _WEIGHTS if (part / name).is_file()][:1]


def shapes_of(part: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights of `part`, from headers alone.

    Raises FlowmapError for a damaged file, and where index and files say different things.
    """
    return shapes_in(weight_files(part), _index(part))


def shapes_in(files: Iterable[Path], index: Path | None) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights in `files`, from headers alone, which an `index` may list.

    Raises FlowmapError for a damaged file, and where index and files say different things.
    """
    told = {} if index is None else _map(index)
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        for name, tensor in header(file).items():
            if index is not None and told.get(name) != file.name:
                raise FlowmapError(f"{index} says that {name} is in {told.get(name)}, and it is in {file.name}")
            if tensor["dtype"] not in _FLOATS:
                raise FlowmapError(f"{file}: {name} is of {tensor['dtype']}; what is read here is {', '.join(_FLOATS)}")
            found[name] = tuple(tensor["shape"])
    if index is not None and (gone := sorted(told.keys() - found.keys())):
        raise FlowmapError(f"{index.parent / told[gone[0]]} has no {gone[0]}, which {index.name} says it has")
    return found


def listed_in(index: Path) -> list[Path]:
    """The files that an `index` lists, which lie beside it; raises FlowmapError for a damaged one."""
    return [index.parent / name for name in sorted(set(_map(index).values()))]


def precision_of(part: Path) -> str:
    """The precision in which the most parameters of `part` are stored, as torch calls it."""
    sizes: Counter[str] = Counter()
    for file in weight_files(part):
        for tensor in header(file).values():
            sizes[tensor["dtype"]] += tensor["data_offsets"][1] - tensor["data_offsets"][0]
    return _FLOATS[sizes.most_common(1)[0][0]]


def _index(part: Path) -> Path | None:
    found = (part / f"{name}.index.json" for name in _WEIGHTS)
    return next((path for path in found if path.is_file()), None)


def _map(index: Path) -> Mapping[str, str]:
    """In which file each parameter is."""
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise FlowmapError(f"{index} has no weight_map, which says where each parameter is; fetch it again")
    for name in table.values():
        if not isinstance(name, str) or _BESIDE.fullmatch(name) is None:
            raise FlowmapError(f"{index} names {name!r}, which is no safetensors file beside it; fetch it again")
    return table
