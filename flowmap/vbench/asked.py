"""What was asked of each clip in a folder, so that those that were made otherwise are never taken for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from flowmap.errors import FlowmapError
from flowmap.files.texts import TextError, read_bytes, shaped
from flowmap.files.whole import write_whole

_MOST_BYTES = 20_000_000


class Asked(BaseModel):
    """A digest of prompt, seed and image for each clip by its name, and of all that is common to them."""

    model_config = ConfigDict(strict=True)

    common: str
    clips: dict[str, str]


def refuse_other(path: Path, wanted: Asked, folder: Path, writes: bool) -> None:
    """Raise FlowmapError if clips in `folder` were asked for otherwise, by the file at `path`, which is written anew.

    More clips than before may be asked for: a part of the list is the beginning of the whole.
    """
    try:
        before = shaped(read_bytes(path, _MOST_BYTES), Asked)
    except OSError:
        before = None
    except TextError as error:
        raise FlowmapError(f"{path} {error}; delete it together with {folder}", code=1) from None
    if before is not None and folder.is_dir() and any(folder.iterdir()):
        changed = "their settings" if before.common != wanted.common else _changed(before.clips, wanted.clips)
        if changed:
            raise FlowmapError(
                f"{folder}: the clips there were made otherwise ({changed}); give another --out, or delete that folder"
            )
    if writes:
        clips = {**(before.clips if before and before.common == wanted.common else {}), **wanted.clips}
        write_whole(path, Asked(common=wanted.common, clips=clips).model_dump_json())


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    other = [name for name in now if before.get(name, now[name]) != now[name]]
    return f"prompt, seed or image of '{other[0]}', among {len(other)}" if other else ""
