"""What clips are called: the prompt and a number, as the package looks for them."""

from __future__ import annotations

import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from flowmap.errors import FlowmapError
from flowmap.files.folder import make_folder, writing

ENDING = ".mp4"
_LONGEST = 255  # bytes of a file name, on every file system that holds videos


def clip_name(prompt: str, number: int) -> str:
    """The name, without its ending, of video `number` of `prompt`: of the original one, whatever it was made from."""
    return f"{prompt}-{number}"


def prompt_of(clip: str) -> str:
    """The prompt that a clip's name says."""
    return clip.rpartition("-")[0]


def refuse_unfit(prompts: Iterable[str]) -> None:
    """Raise FlowmapError for a prompt that cannot be the name of a file."""
    for prompt in prompts:
        name = clip_name(prompt, 24) + ENDING
        if not prompt.strip() or "/" in prompt or "\0" in prompt or len(name.encode()) > _LONGEST:
            raise FlowmapError(
                f"the prompt {prompt[:80]!r} cannot be the name of a file: it is empty, has '/' or is too long"
            )


def refuse_blind(folder: Path, prompts: Iterable[str]) -> None:
    """Raise FlowmapError where two prompts would share files: they differ by case, and the disk knows none.

    VBench has "A fantasy landscape" and "a fantasy landscape" (its issue 84). Nothing is tried where no two collide.
    """
    same: dict[str, set[str]] = defaultdict(set)
    for prompt in prompts:
        same[unicodedata.normalize("NFC", prompt).casefold()].add(prompt)
    colliding = [sorted(each) for each in same.values() if len(each) > 1]
    if colliding and not knows_case(folder):
        first, second = colliding[0][:2]
        raise FlowmapError(
            f"{folder}: this disk does not tell '{first}' from '{second}', and the clips of both prompts would be one; "
            "choose a folder on a disk that tells large letters from small ones"
        )


def knows_case(folder: Path) -> bool:
    """Whether names that differ by case alone are two, where `folder` is, which is made."""
    with writing(folder):
        made = folder.parent
        make_folder(made)
        # Its name has small letters and is nobody else's: several processes may ask at once.
        with tempfile.NamedTemporaryFile(prefix=".part-vbench-", dir=made) as file:
            small = Path(file.name)
            return not small.with_name(small.name.upper()).exists()
