"""The files of a checkpoint's parts: which there have to be, and what is wrong with those that are. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flowmap.errors import FlowmapError
from flowmap.plugin import frozen
from flowmap.recipe.hub import header, read_json

# As diffusers and as transformers name them.
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")
_BESIDE = re.compile(r"[\w.-]+\.safetensors")
_FLOATS = ("F64", "F32", "BF16", "F16")  # whatever is quantised would be read as other numbers
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_MOST_VOCABULARY = 2**25  # bytes of tokenizer.json; UMT5's has 17 million
_SPIECE_START = b"\n"  # the first field of a SentencePiece model: a piece

CONFIG = "config.json"
VOCABULARY, PIECES, SETTINGS = "tokenizer.json", "spiece.model", "tokenizer_config.json"

F = TypeVar("F", bound=BaseModel)


def fields_of(part: Path, kind: type[F]) -> F:
    """The configuration of `part`; raises FlowmapError, naming file and field, if it cannot be one of this kind."""
    raw = read_json(part / CONFIG)
    try:
        return kind.model_validate({key: frozen(value) for key, value in raw.items()})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "it"
        given = (
            "is missing" if first["type"] == "missing" else f"is {str(first['input'])[:60]!r}: {first['msg'].lower()}"
        )
        raise FlowmapError(f"{part / CONFIG}: {field} {given}; fetch it again") from None


def absent(part: Path) -> Iterator[str]:
    """The files that `part` (transformer, text_encoder, vae) has to have and has not; nothing of a damaged index."""
    if not (part / CONFIG).is_file():
        yield f"{part.name}/{CONFIG}"
    try:
        files = weight_files(part)
    except FlowmapError:
        return
    if not files:
        pickles = sorted(f.name for f in part.glob("*") if f.suffix in _PICKLES)
        why = f" ({pickles[0]} can run code when it is read, so it is not)" if pickles else ""
        yield f"{part.name}/{_WEIGHTS[part.name == 'text_encoder']}{why}"
    yield from (f"{part.name}/{file.name}" for file in files if not file.is_file())


def absent_tokenizer(part: Path) -> Iterator[str]:
    """The files that a tokenizer has to have and has not."""
    if not part.is_dir() or not any(part.iterdir()):
        yield f"{part.name}/"
        return
    if not any((part / name).is_file() for name in (VOCABULARY, PIECES)):
        yield f"{part.name}/{VOCABULARY}"
    if not (part / SETTINGS).is_file():
        yield f"{part.name}/{SETTINGS}"


def weight_files(part: Path) -> list[Path]:
    """The weights of `part`, and no variant of them that may lie beside; raises FlowmapError for a damaged index."""
    index = _index(part)
    if index is not None:
        return [part / name for name in sorted(set(_map(index).values()))]
    return [part / name for name in _WEIGHTS if (part / name).is_file()][:1]


def shapes_of(part: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights of `part`, from headers alone.

    Raises FlowmapError for a damaged file, and where index and files say different things.
    """
    index = _index(part)
    told = {} if index is None else _map(index)
    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files(part):
        for name, tensor in header(file).items():
            if index is not None and told.get(name) != file.name:
                raise FlowmapError(f"{index} says that {name} is in {told.get(name)}, and it is in {file.name}")
            if tensor["dtype"] not in _FLOATS:
                raise FlowmapError(f"{file}: {name} is of {tensor['dtype']}; what is read here is {', '.join(_FLOATS)}")
            found[name] = tuple(tensor["shape"])
    if index is not None and (gone := sorted(told.keys() - found.keys())):
        raise FlowmapError(f"{part / told[gone[0]]} has no {gone[0]}, which {index.name} says it has")
    return found


def tokenizer_flaw(part: Path, vocabulary: int) -> str | None:
    """What is wrong with the files of a tokenizer for an encoder of `vocabulary` tokens; None if nothing is known."""
    try:
        read_json(part / SETTINGS)
        pieces, whole = part / PIECES, part / VOCABULARY
        if pieces.is_file():
            with pieces.open("rb") as opened:
                if opened.read(1) != _SPIECE_START:
                    return f"{pieces} is no SentencePiece model; it is damaged or was fetched in part"
        if not whole.is_file():
            return None
        about = whole.stat()
        last = _last_token(whole, about.st_mtime_ns, about.st_size)
    except FlowmapError as error:
        return str(error)
    except OSError as error:
        return f"{part}: cannot be read: {error.strerror}"
    if last >= vocabulary:
        return (
            f"{whole} has tokens up to {last}, and the text encoder {vocabulary} of them; they do not belong together"
        )
    return None


@lru_cache(maxsize=8)
def _last_token(file: Path, stamp: int, size: int) -> int:
    """The highest number of a token in `file`, of that time and size: it is large, and asked for again and again."""
    read = read_json(file, _MOST_VOCABULARY)
    model, added = read.get("model"), read.get("added_tokens", [])
    words: Any = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(words, dict | list) or len(words) < 2 or not isinstance(added, list):
        raise FlowmapError(f"{file} has no vocabulary; fetch it again")
    numbers = list(words.values()) if isinstance(words, dict) else [len(words) - 1]
    numbers += [token.get("id") if isinstance(token, dict) else None for token in added]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise FlowmapError(f"{file} numbers its tokens by what is no number; fetch it again")
    return int(max(numbers))


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
