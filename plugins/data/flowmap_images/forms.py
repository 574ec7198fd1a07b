"""What lies at a path: tars, pictures in folders, or a dataset that the `datasets` library saved. Torch-free."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from flowmap.errors import FlowmapError
from flowmap.files.names import expanded
from flowmap.shards.places import named

Form = Literal["tars", "folder", "dataset"]

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
TEXT, CLASS = ".txt", ".cls"
_TAR = ".tar"
METADATA = ("metadata.jsonl", "metadata.csv")
_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_MOST = 50_000  # files and folders that are looked at for a first picture: a second, and hidden ones are not counted
_LARGEST = 2**26  # bytes of a dataset's description, which names all of its classes


def form_of(path: str) -> Form | None:
    """The form of what `path` names; None if there is nothing that could be read."""
    place = expanded(path)
    try:
        if not path or not place.is_dir():
            return "tars" if named(path) else None
        if (place / _STATE).is_file() and (place / _INFO).is_file():
            return "dataset"
        if any(name.lower().endswith(_TAR) and not name.startswith(".") for name in os.listdir(place)):
            return "tars"
        return "folder" if _some_picture(place) else None
    except (OSError, ValueError):
        return None


def problem_of(path: str) -> str | None:
    """What is wrong with the form of what `path` names, in a sentence without its full stop; None if nothing is."""
    place = expanded(path)
    try:
        if (place / _SPLITS).is_file():
            splits = sorted(inner.name for inner in place.iterdir() if (inner / _STATE).is_file())
            one = splits[0] if splits else "train"
            return f"{path} has a dataset's splits ({', '.join(splits)}); name one of them: {path.rstrip('/')}/{one}"
        loose = next(filter(is_picture, sorted(os.listdir(place))), None) if form_of(path) == "tars" else None
    except (OSError, ValueError):
        return None  # of a pattern, too
    if loose:
        return f"{path} has tars, and pictures beside them ({loose}); move either to a folder of its own"
    return None


def is_picture(name: str) -> bool:
    """Whether a file is called a picture, and no hidden one."""
    return not name.startswith(".") and name.lower().endswith(PICTURES)


def walked(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """The folders in `folder`, itself first, with the names of their folders and files; hidden ones are left out."""
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(root), folders, sorted(name for name in files if not name.startswith("."))


def _some_picture(folder: Path) -> bool:
    names = (name for _, folders, files in walked(folder) for name in (*files, *folders))
    return any(is_picture(name) for name in itertools.islice(names, _MOST))


def class_folders(path: str) -> list[str]:
    """The names of the classes of a folder of pictures, sorted; none if a file in it says what is in which class."""
    place = expanded(path)
    try:
        if any((place / name).exists() for name in METADATA):
            return []
        return sorted(p.name for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
    except (OSError, ValueError):
        return []


def description(path: str) -> dict[str, Any]:
    """What a saved dataset says of its columns, by name. Raises FlowmapError if that cannot be read."""
    file = expanded(path) / _INFO
    columns = read_object(file).get("features")
    if not isinstance(columns, dict) or not all(isinstance(column, dict) for column in columns.values()):
        raise FlowmapError(f"{file}: is damaged (it says nothing of its 'features'); save the dataset again")
    return columns


def data_files(path: str) -> list[Path]:
    """The files of a saved dataset. Raises FlowmapError if it does not say which."""
    folder = expanded(path)
    state = read_object(folder / _STATE)
    if state.get("_indices_data_files"):
        raise FlowmapError(f"{path}: is saved as a choice of the rows of another dataset; save it again, flattened")
    files = state.get("_data_files")
    names = [file.get("filename") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise FlowmapError(f"{folder / _STATE}: is damaged (it names no files beside it); save the dataset again")
    return [folder / str(name) for name in names]


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises FlowmapError if there is none."""
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(_LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise FlowmapError(f"{file}: cannot be read ({error}); save the dataset again") from None
    if not isinstance(found, dict):
        raise FlowmapError(f"{file}: is damaged (it is no object); save the dataset again")
    return found
