"""A folder laid out as diffusers lays out a pipeline: what must be in it, and what it says of itself. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from flowmap.errors import FlowmapError
from flowmap.weights.fields import CONFIG, PREPROCESSING, Fields, fields_of
from flowmap.weights.fingerprints import fingerprint, of_tensors
from flowmap.weights.headers import read_json
from flowmap.weights.names import Published, absence, find
from flowmap.weights.parts import absent, precision_of, shapes_of, weight_files
from flowmap.weights.runs import is_run
from flowmap.weights.shapes import Shapes, misfit
from flowmap.weights.tokenizers import absent_tokenizer, token_files

INDEX = "model_index.json"
"""What names the class of every part."""
ADAPTER = "lora"
"""Where `flowmap export --keep-lora` writes the adapter of a transformer."""

_SCHEDULER = "scheduler/scheduler_config.json"
_MOST_SHIFT = 1e4

F = TypeVar("F", bound=Fields)
Check = Callable[[], Iterable[str]]
"""Says what is wrong, or raises FlowmapError with it."""


def missing(weights: str, published: Published) -> Iterator[str]:
    """What is not there of `weights`, where it was looked for, the command that gets it; nothing of a run of ours."""
    folder = find(weights)
    if folder is None:
        yield f"{absence(weights)}{published.how_to_get(weights)}"
    elif not is_run(folder) and (gone := list(Pipeline(folder, published).absent())):
        why = f"the weights in {folder} are not complete; missing: {', '.join(gone)}"
        yield f"{why}{published.how_to_get(weights)}"


def complete(weights: str, published: Published) -> Path | None:
    """The folder of `weights`, if all files are there (and they are no run of ours)."""
    folder = find(weights)
    return None if folder is None or is_run(folder) or any(missing(weights, published)) else folder


def opened(weights: str, published: Published) -> Path:
    """The folder of `weights`; raises FlowmapError with all that is missing, and how to get it."""
    problems, folder = list(missing(weights, published)), find(weights)
    if problems or folder is None:
        raise FlowmapError("\n".join(problems))
    return folder


def class_named(file: Path) -> str | None:
    """The class that a file of diffusers names (`_class_name`); None if it names none, or is not there.

    Raises FlowmapError if it is damaged.
    """
    name = read_json(file).get("_class_name") if file.is_file() else None
    return name if isinstance(name, str) else None


@final
@dataclass(frozen=True)
class Pipeline:
    """The folder, and the family of weights that it is one of.

    Of the parts of a family those called tokenizer* are tokenizers and those called *_processor scale images; all
    others have a configuration and weights.
    """

    folder: Path
    published: Published

    @property
    def weighted(self) -> list[str]:
        """The parts that have weights."""
        return [part for part in self.published.parts if not part.startswith("tokenizer") and not _processes(part)]

    def absent(self) -> Iterator[str]:
        """The files that there have to be and are not."""
        for part in self.weighted:
            yield from absent(self.folder / part)
        for part in self.published.parts:
            if part.startswith("tokenizer"):
                yield from absent_tokenizer(self.folder / part)
            elif _processes(part) and not (self.folder / part / PREPROCESSING).is_file():
                yield f"{part}/{PREPROCESSING}"

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of `part`, as it stands."""
        return read_json(self.folder / part / CONFIG)

    def fields(self, part: str, kind: type[F]) -> F:
        """The configuration of `part`; raises FlowmapError, naming the field, if it cannot be one of this kind."""
        return fields_of(self.folder / part, kind, PREPROCESSING if _processes(part) else CONFIG)

    def files(self, part: str) -> list[Path]:
        """The safetensors files of `part`; raises FlowmapError naming the first file that is missing."""
        gone = next(absent(self.folder / part), None)
        if gone is not None:
            how = self.published.how_to_get(str(self.folder))
            raise FlowmapError(f"{self.folder} is not complete: {gone} is missing{how}")
        return weight_files(self.folder / part)

    def shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        """The names and shapes of the weights of `part`; none are read."""
        return shapes_of(self.folder / part)

    def precision(self, part: str) -> str:
        """The precision in which the most parameters of `part` are stored, as torch calls it."""
        self.files(part)
        return precision_of(self.folder / part)

    def misfits(self, part: str, found: Mapping[str, Sequence[int]], wanted: Shapes) -> Iterator[str]:
        """Where the weights `found` in `part` are not those that its configuration wants."""
        why = misfit(found, wanted)
        if why is not None:
            yield f"the weights in {self.folder / part} do not fit its {CONFIG}: {why}"

    def flaws(self, checks: Iterable[Check]) -> Iterator[str]:
        """What the checks find, one after the other, and what is wrong with the scheduler and the index."""
        for check in (*checks, self._own_flaws):
            try:
                yield from check()
            except FlowmapError as error:
                yield str(error)

    def _own_flaws(self) -> Iterable[str]:
        # Both raise what is wrong.
        self.shift(), self.classes({})
        return ()

    def shift(self) -> float | None:
        """The shift of the grid that the scheduler's configuration names; None if it names none.

        One that shifts dynamically, by the number of tokens, takes no notice of the constant that it names as well.
        """
        found = read_json(self.folder / _SCHEDULER) if (self.folder / _SCHEDULER).is_file() else {}
        value = found.get("shift", found.get("flow_shift"))
        if value is None or found.get("use_dynamic_shifting"):
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST_SHIFT:
            raise FlowmapError(f"{self.folder / _SCHEDULER}: its shift is {value!r}; it must be a number above 0")
        return float(value)

    def classes(self, otherwise: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Which library and class the index names for the encoders' parts, and `otherwise` where it names none.

        Raises FlowmapError for a name that cannot be one.
        """
        found = read_json(self.folder / INDEX) if (self.folder / INDEX).is_file() else {}
        told = dict(otherwise)
        for part in self.encoders():
            if part not in found:
                continue
            named = found[part]
            if not (isinstance(named, list) and len(named) == 2 and all(isinstance(word, str) for word in named)):
                raise FlowmapError(f"{self.folder / INDEX}: {part} is {named!r}; it is a library and a class")
            told[part] = named
        return told

    def encoders(self) -> list[str]:
        """The parts beside the transformer, which nobody trains."""
        return [part for part in self.published.parts if part != "transformer"]

    def everything(self) -> tuple[Path, ...]:
        """The files that decide what is computed: configurations and weights of all parts."""
        beside = () if self.adapter() is None else sorted((self.folder / ADAPTER).glob("*.safetensors"))
        scaling = [self.folder / part / PREPROCESSING for part in self.published.parts if _processes(part)]
        return (*(f for p in self.weighted for f in (self.folder / p / CONFIG, *self.files(p))), *scaling, *beside)

    def adapter(self) -> Path | None:
        """The folder of the adapter that belongs to the transformer, if there is one."""
        folder = self.folder / ADAPTER
        return folder if folder.is_dir() else None

    def encoders_fingerprint(self, configurations: Mapping[str, str]) -> str:
        """A short name for what the encoders are, however their files are divided.

        It takes tokens, weights, and of the configuration of each part what `configurations` has of it.
        """
        told = list(configurations.values())
        told += [fingerprint(token_files(self.folder / p)) for p in self.encoders() if p.startswith("tokenizer")]
        return of_tensors([file for part in configurations for file in self.files(part)], " ".join(told))

    def licence(self) -> str | None:
        """What the model card says; None if it says nothing."""
        card = self.folder / "README.md"
        text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
        found = re.search(r"^license:\s*(\S+)", text, re.MULTILINE)
        return found[1] if found else None


def _processes(part: str) -> bool:
    """Whether a part of that name has no weights, and says how images are scaled."""
    return part.endswith("_processor")
