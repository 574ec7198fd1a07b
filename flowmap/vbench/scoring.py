"""Score dimensions by the package, each in a process of its own, and keep what was scored.

A result is the package's own file, read strictly, with the key of what it was made from: the clips' contents, the list
of prompts, the versions, the device. It is taken again only under the same key.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pydantic import BaseModel, ConfigDict

from flowmap.errors import FlowmapError
from flowmap.files.folder import SKIP_PREFIX, make_folder, writing
from flowmap.files.texts import TextError, digest, read_bytes, shaped
from flowmap.files.whole import write_whole
from flowmap.phases import phase
from flowmap.vbench.clips import Clips
from flowmap.vbench.dimensions import I2V, MAY_LACK
from flowmap.vbench.environment import SCORER, Environment, ask
from flowmap.vbench.failures import explained
from flowmap.vbench.protocol import Protocol
from flowmap.vbench.weights import absent

_NAME = "flowmap"
_WARNING = "WARNING!!!"
_MOST_BYTES = 100_000_000


class DimensionError(FlowmapError):
    """A dimension could not be scored; the text names it. Others are not concerned."""


class Result(BaseModel):
    """The score of a dimension, the value of each clip (None of one that the package leaves out by design), the key."""

    model_config = ConfigDict(strict=True)

    key: str
    score: float
    values: dict[str, float | None]


@final
@dataclass(frozen=True)
class Judge:
    """What scores: the environment, `device` as torch calls it, and where results are kept.

    `repository` is a clone of Vchitect/VBench, and `resolution` the shape of its images, for images; `download` lets
    the package fetch weights that are not there.
    """

    environment: Environment
    folder: Path
    device: str = "cpu"
    repository: Path | None = None
    resolution: str = "1-1"
    download: bool = False

    def key(self, protocol: Protocol, clips: Clips, dimension: str) -> str:
        """What a result is made from."""
        return digest(
            {
                "dimension": dimension,
                "clips": clips.digest(protocol.names(dimension)),
                "entries": [dict(entry.said) for entry in protocol.of(dimension)],
                "versions": self.environment.made.packages,
                "device": self.device.partition(":")[0],
                "scorer": digest(SCORER.read_text("utf-8")),
                "resolution": self.resolution if protocol.suite is I2V else "",
            }
        )

    def score(self, protocol: Protocol, clips: Clips, dimension: str) -> Result:
        """The score of a dimension, kept or made. Raises FlowmapError if it cannot be."""
        clips.refuse_faults(dimension, protocol.names(dimension))
        kept = self.folder / f"{dimension}.json"
        key = self.key(protocol, clips, dimension)
        try:
            found = shaped(read_bytes(kept, _MOST_BYTES), Result)
            if found.key == key:
                return found
        except (OSError, TextError):
            pass
        with phase(f"scoring {dimension}"):
            score, values = self._scored(protocol, clips, dimension)
        result = Result(key=key, score=score, values=values)
        write_whole(kept, result.model_dump_json(indent=1))
        return result

    def _scored(self, protocol: Protocol, clips: Clips, dimension: str) -> tuple[float, dict[str, float | None]]:
        self._refuse_unready(protocol, dimension)
        work = self.folder.resolve() / f"{SKIP_PREFIX}{dimension}"
        log = self.folder.resolve() / f"{dimension}.log"
        with writing(work):
            shutil.rmtree(work, ignore_errors=True)
            make_folder(work)
            log.write_bytes(b"")
            info = work / "entries.json"
            info.write_text(json.dumps([dict(entry.said) for entry in protocol.of(dimension)]), "utf-8")
            if self.repository is not None:
                (work / "vbench2_beta_i2v").symlink_to(self.repository.resolve() / "vbench2_beta_i2v")
        job = {
            "dimension": dimension,
            "info": str(info),
            "videos": str(clips.folder.resolve()),
            "out": str(work / "out"),
            "name": _NAME,
            "device": self.device,
            "i2v": protocol.suite is I2V,
            "resolution": self.resolution,
        }
        code, said = ask(self.environment.python, job, work, log)
        if code:
            raise DimensionError(explained(dimension, code, said, str(log)), 1)
        self._refuse_warned(dimension, log)
        score, values = read_result(work / "out" / f"{_NAME}_eval_results.json", dimension, protocol.names(dimension))
        shutil.rmtree(work, ignore_errors=True)
        return score, values

    def _refuse_unready(self, protocol: Protocol, dimension: str) -> None:
        """Refuse what is known to fail before minutes are spent on it."""
        if why := self.environment.made.broken.get(dimension):
            raise DimensionError(why, 1)
        if protocol.suite is I2V and self.repository is None:
            raise DimensionError(
                f"{dimension}: its images and code are in no package; name a clone of Vchitect/VBench: "
                "--repository FOLDER"
            )
        gone = [] if self.download else absent(dimension)
        if gone:
            raise DimensionError(
                f"{dimension}: {len(gone)} of its files of weights are not there: {gone[0].place} (from "
                f"{gone[0].source}); put them there, or let VBench fetch them: --download"
            )

    def _refuse_warned(self, dimension: str, log: Path) -> None:
        """The package's warning is that a clip was not found; its score is one over the others."""
        count = log.read_bytes().count(_WARNING.encode())
        if count:
            raise DimensionError(
                f"{dimension}: VBench's package did not find {count} of the clips (all of it: {log})", 1
            )


def read_result(path: Path, dimension: str, names: list[str]) -> tuple[float, dict[str, float | None]]:
    """The score in the package's file, and the value of each clip of `names`.

    Raises DimensionError if there is no such file, if it says anything that is no finite number, or if it has not
    one value for each clip: a dimension that leaves clips out by design may have fewer.
    """
    try:
        said = json.loads(read_bytes(path, _MOST_BYTES), parse_constant=_refuse_constant)
        score, *_, listed = said[dimension]
        found = [(Path(each["video_path"]).stem, _number(each["video_results"])) for each in listed]
        score = _number(score)
    except OSError:
        raise DimensionError(f"{dimension}: VBench's package ended well and wrote no result", 1) from None
    except (TextError, ValueError, KeyError, TypeError) as error:
        raise DimensionError(f"{dimension}: VBench's package wrote no usable result ({error})", 1) from None
    values: Mapping[str, float] = dict(found)
    twice, strange = len(found) - len(values), sorted(values.keys() - set(names))
    lacking = [name for name in names if name not in values]
    if twice or strange or (lacking and (dimension not in MAY_LACK or not values)):
        what = f"{len(lacking)} clips without a value, {len(strange)} that were not asked for, {twice} twice"
        raise DimensionError(f"{dimension}: VBench's package scored other clips than it was given: {what}", 1)
    return score, {name: values.get(name) for name in names}


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"it says {word}")


def _number(value: Any) -> float:
    """A number of the result: some values are true or false."""
    if not isinstance(value, bool | int | float):
        raise TypeError(f"it has {type(value).__name__} instead of a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"it says {value}")
    return number
