"""Weights of a family as a folder: what its transformer is, and what in the folder cannot be. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from flowmap.errors import FlowmapError
from flowmap.schema.config import frozen
from flowmap.weights.fields import CONFIG
from flowmap.weights.names import find
from flowmap.weights.pipeline import INDEX, Pipeline, class_named, complete, opened
from flowmap.weights.runs import is_run
from flowmap_diffusers.family import Family, Sizes
from flowmap_diffusers.size_rules import odd_scales, unusable
from flowmap_diffusers.student import Student, student_in

_OF_LIBRARY = re.compile(r"_.*|transformers_version|torch_dtype|dtype")

TWO_TIMES = "TwoTime"
"""What the class of an exported transformer of two times begins with, before diffusers' own name."""


@final
@dataclass(frozen=True)
class Space:
    """What is known of the model space of a class of autoencoders.

    A cell stands for `side` x `side` pixels, unless the configuration has other `levels`; `cells` of the autoencoder's
    are one of model space.
    """

    side: int
    levels: str
    channels: str = "latent_channels"
    cells: int = 1


SPACES: Mapping[str, Space] = {
    "AutoencoderKL": Space(8, "block_out_channels"),
    "AutoencoderDC": Space(32, "encoder_block_out_channels"),
    "AutoencoderKLQwenImage": Space(8, "dim_mult", channels="z_dim"),
    "AutoencoderKLFlux2": Space(8, "block_out_channels", cells=2),
}


@final
@dataclass(frozen=True)
class Checkpoint:
    """The folder of a pipeline of `family`."""

    folder: Path
    family: Family

    @property
    def pipeline(self) -> Pipeline:
        """The folder as that of any pipeline."""
        return Pipeline(self.folder, self.family.published_as())

    def sizes(self) -> Sizes:
        """The configuration of the transformer."""
        told = self.pipeline.config("transformer")
        return {key: frozen(value) for key, value in told.items() if not key.startswith("_")}

    @property
    def two_times(self) -> bool:
        """Whether the transformer was exported with a second time."""
        return (class_named(self.folder / "transformer" / CONFIG) or "").startswith(TWO_TIMES)

    def student(self) -> Student | None:
        """As what it was trained, if it was exported with a second time; raises FlowmapError if that is not there."""
        return student_in(self.folder) if self.two_times else None

    def side(self) -> int:
        """Pixels of a side of a cell of model space."""
        space = SPACES[self.family.vae]
        levels = self.pipeline.config("vae").get(space.levels)
        return space.cells * (2 ** (len(levels) - 1) if isinstance(levels, list) and levels else space.side)

    def flaw(self) -> str | None:
        """What is wrong with the files, as far as configurations and headers tell; None if nothing is."""
        how = self.pipeline.published.how_to_get(str(self.folder))
        return next((f"{flaw}{how}" for flaw in self.pipeline.flaws((self._model_flaws, self._vae_flaws))), None)

    def _model_flaws(self) -> Iterator[str]:
        named = class_named(self.folder / "transformer" / CONFIG) or "nothing"
        if named.removeprefix(TWO_TIMES) not in (self.family.model, *self.family.also):
            where = self.folder / "transformer" / CONFIG
            yield f"{where}: names {named}, and this backbone is made of a {self.family.model}"
            return
        # Both raise: for what cannot be read or is quantised, and for what is not said.
        self.pipeline.shapes("transformer"), self.student()
        flaw = unusable(self.family, self.sizes()) or self.family.flaw(self.sizes())
        if flaw is not None:
            yield f"{self.folder / 'transformer' / CONFIG}: {flaw}"

    def _vae_flaws(self) -> Iterator[str]:
        space, file = SPACES[self.family.vae], self.folder / "vae" / CONFIG
        named = class_named(file)
        if named != self.family.vae:
            yield f"{file}: names {named or 'nothing'}, and this backbone is made with an {self.family.vae}"
            return
        channels, wanted = self.pipeline.config("vae").get(space.channels), self.family.channels(self.sizes())
        if isinstance(channels, int) and channels * space.cells**2 != wanted:
            made = channels * space.cells**2
            yield f"{file}: makes {made} channels, and the transformer beside it takes {wanted}; they do not fit"
        yield from (f"{file}: {flaw}" for flaw in odd_scales(self.pipeline.config("vae")))

    def encoders(self) -> str:
        """A short name for what text encoders, tokenizers and autoencoder are, however their files are divided."""
        weighted = [part for part in self.pipeline.weighted if part != "transformer"]
        return self.pipeline.encoders_fingerprint({part: self._decides(part) for part in weighted})

    def _decides(self, part: str) -> str:
        """What of the configuration of `part` decides anything: not what a library notes of itself."""
        told = self.pipeline.config(part)
        return repr(sorted((key, value) for key, value in told.items() if not _OF_LIBRARY.fullmatch(key)))


def text_precision(device: str) -> Literal["bfloat16", "float32"]:
    """The precision in which prompts are read on a kind of device (cpu, cuda)."""
    return "bfloat16" if device == "cuda" else "float32"


def claims(weights: str, family: Family) -> bool:
    """Whether `weights` are those of `family`, by what is there of them or else by their name."""
    folder = find(weights)
    if folder is not None:
        if is_run(folder):
            return False
        named = class_named(folder / "transformer" / CONFIG)
        if named in family.also:
            return family.flaw(Checkpoint(folder, family).sizes()) is None
        if named is not None:
            return named.removeprefix(TWO_TIMES) == family.model
        if (folder / INDEX).is_file():
            return class_named(folder / INDEX) == family.pipeline
    return Path(weights).name in family.owners


def foreign(weights: str, family: Family) -> str | None:
    """What the transformer in the folder `weights` is, if it is of another family, whatever else is missing there."""
    folder = find(weights)
    if folder is None or is_run(folder):
        return None
    file = folder / "transformer" / CONFIG
    named = class_named(file)
    if named is None or named.removeprefix(TWO_TIMES) in (family.model, *family.also):
        return None
    return f"{file}: names {named}, and this backbone is made of a {family.model}"


def at_hand(weights: str, family: Family) -> Checkpoint | None:
    """The folder of `weights`, if it is here with all its files (and no run of ours)."""
    folder = complete(weights, family.published_as())
    return None if folder is None else Checkpoint(folder, family)


def open_checkpoint(weights: str, family: Family) -> Checkpoint:
    """The complete folder called `weights`; raises FlowmapError with what is missing or wrong, and how to get it."""
    checkpoint = Checkpoint(opened(weights, family.published_as()), family)
    flaw = checkpoint.flaw()
    if flaw is not None:
        raise FlowmapError(flaw)
    return checkpoint


def known_sizes(family: Family, weights: str) -> Sizes | None:
    """The sizes of published weights that are not here, by their name; None if nobody has told them."""
    found = [sizes for name, sizes in family.published.items() if name in Path(weights).name]
    return {**family.common, **found[0]} if found else None
