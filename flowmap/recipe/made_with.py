"""What encoded data were made with, beside the data: `flowmap encode` writes it, and a recipe is held to it.

Words, settings and the fingerprint of the weights are compared exactly. Numbers differ from machine to machine in their
last bits: the null condition, which stands for all, is compared with a tolerance by whoever stores it. Torch-free.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

from flowmap.errors import FlowmapError
from flowmap.files.names import expanded, printable
from flowmap.plugin.kinds import ArchiveConfig, BackboneConfig
from flowmap.schema.config import Finding
from flowmap.weights.headers import read_json

MADE_WITH = "encoder.json"
_FORMAT = 1
_VERSIONS = ("flowmap", "torch", "diffusers", "transformers", "tokenizers")
_BESIDE = (MADE_WITH, "faults.jsonl")
_SHOWN = 40  # characters of a value
_SHOWN_PARTS = 5


@final
@dataclass(frozen=True)
class MadeWith:
    """The backbone's `encoding()`, the precision in which its text encoder computed, and the versions of libraries.

    `parts` are the names of all that were to be encoded; folders of older versions do not say which.
    """

    backbone: Mapping[str, Any]
    precision: str | None
    versions: Mapping[str, str]
    parts: Sequence[str] = ()

    @classmethod
    def now(cls, backbone: BackboneConfig, device: str, parts: Sequence[str]) -> MadeWith:
        """What `backbone` would encode `parts` with here, on that kind of device (cpu, cuda)."""
        versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
        return cls(backbone.encoding(), backbone.encoding_precision(device), versions, parts)

    def misfits(self, there: MadeWith) -> list[str]:
        """What differs from what is `there`, both values of each; versions of libraries are no misfits."""
        found = list(_misfits(self.backbone, there.backbone))
        if self.precision != there.precision:
            found.append(f"this device reads texts in {self.precision}, and they were read in {there.precision}")
        return found

    def other_versions(self, there: MadeWith) -> str:
        """Which libraries are of another version than `there`; empty if none is."""
        pairs = {name: (there.versions.get(name, "unknown"), now) for name, now in self.versions.items()}
        return "; ".join(f"{name} {then}, here is {now}" for name, (then, now) in pairs.items() if then != now)


def findings(data: ArchiveConfig, backbone: BackboneConfig) -> Iterator[Finding]:
    """Whether encoded data are not whole, or made with something else than `backbone` says; fields are the data's."""
    folder = data.encoded_in()
    if folder is None:
        return
    now = backbone.encoding(training=True)
    try:
        there = read(folder)
    except FlowmapError as error:
        yield Finding("error", ("path",), str(error))
        return
    if there is None:
        if now:
            why = f"{folder} has no {MADE_WITH}, so nothing says that these data were encoded with this backbone"
            yield Finding("warning", ("path",), f"{why} (older versions wrote none); encode anew to be sure")
        return
    wrong = list(_misfits(now, there.backbone))
    if wrong:
        why = f"{_refusal(folder, wrong)}; change the recipe, or encode into another folder"
        yield Finding("error", ("path",), why)
    # Who names the parts by a pattern wants those, and no others.
    gone = [part for part in there.parts if not (folder / part).exists()] if expanded(data.path) == folder else []
    if gone:
        shown = ", ".join(map(printable, gone[:_SHOWN_PARTS])) + (", ..." if len(gone) > _SHOWN_PARTS else "")
        why = f"{folder} lacks {len(gone)} of the {len(there.parts)} parts that {MADE_WITH} lists: {shown}"
        how = f"end what `flowmap encode` began, copy them, or train on those that are here: {folder / '*.tar'}"
        yield Finding("error", ("path",), f"{why}; {how}")


def agree(folder: Path, now: MadeWith) -> str | None:
    """Write into `folder` what its parts will be made with, or require that those that are there were made so.

    Returns a doubt, if there is one. Raises FlowmapError where what is there was made otherwise, or nobody knows how.
    """
    there = read(folder)
    if not _begun(folder):
        _write(folder, now)
        return None
    if there is None and not now.backbone:
        return None
    if there is None:
        raise FlowmapError(
            f"{folder} has encoded parts and no {MADE_WITH}, so nothing says with what they were made (older versions "
            "wrote none); encode into another folder: --to"
        )
    wrong = now.misfits(there)
    if wrong:
        raise FlowmapError(f"{_refusal(folder, wrong)}; go on as they were begun, or encode into another folder: --to")
    if not set(now.parts) <= set(there.parts):
        _write(folder, replace(there, parts=sorted({*there.parts, *now.parts})))
    versions = now.other_versions(there)
    return f"{folder / MADE_WITH}: the parts that are there were made with {versions}" if versions else None


def _write(folder: Path, made: MadeWith) -> None:
    from flowmap.files.whole import write_whole  # the one slow import here, and `check` writes nothing

    write_whole(folder / MADE_WITH, json.dumps({"format": _FORMAT, **asdict(made)}, indent=2) + "\n")


def read(folder: Path) -> MadeWith | None:
    """What the data in `folder` were made with; None if nothing says so. Raises FlowmapError for a damaged file."""
    path = folder / MADE_WITH
    if not path.exists():
        return None
    how = "copy it from where they were encoded, or encode anew"
    try:
        content = read_json(path)
    except FlowmapError as error:
        raise FlowmapError(f"{error}; {how}") from None
    found = content.pop("format", None)
    if found != _FORMAT:
        raise FlowmapError(f"{path}: is of format {found!r}, and this version of flowmap reads {_FORMAT}; {how}")
    parts = content.setdefault("parts", [])
    backbone, precision, versions = (content.get(name) for name in ("backbone", "precision", "versions"))
    texts = isinstance(versions, dict) and all(isinstance(text, str) for text in versions.values())
    if not isinstance(backbone, dict) or not isinstance(precision, str | None) or not texts or len(content) != 4:
        raise FlowmapError(f"{path}: is damaged (it has backbone, precision, versions and parts); {how}")
    if not isinstance(parts, list) or not all(isinstance(part, str) and _is_name(part) for part in parts):
        raise FlowmapError(f"{path}: is damaged (its parts are names of files); {how}")
    return MadeWith(backbone, precision, versions or {}, parts)


def _is_name(text: str) -> bool:
    return text not in ("", ".", "..") and not {"/", "\0"} & set(text)


def _begun(folder: Path) -> bool:
    """Whether anything in `folder` was encoded."""
    there = folder.iterdir() if folder.is_dir() else ()
    # What begins with a dot is unfinished, or a lock.
    return any(path.name not in _BESIDE and not path.name.startswith(".") for path in there)


def _misfits(now: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    for name, value in now.items():
        if name not in there or value != there[name]:
            ours, theirs = _shown(value, there.get(name))
            yield f"backbone.{name} is {ours}, and they were encoded with {theirs}"


def _refusal(folder: Path, wrong: Iterable[str]) -> str:
    return f"{folder / MADE_WITH}: these data were encoded otherwise than the recipe says: {'; '.join(wrong)}"


def _shown(*values: object) -> list[str]:
    """Values as JSON, long ones from where they begin to differ."""
    texts = ["none" if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    same = next((n for n, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), 0)
    start = max(0, same - _SHOWN // 2)
    end = start + _SHOWN
    return [("..." if start else "") + text[start:end] + ("..." if text[end:] else "") for text in texts]
