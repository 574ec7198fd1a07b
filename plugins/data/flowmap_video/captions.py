"""The captions of a raw sample."""

from __future__ import annotations

import json

from flowmap.video import ClipError
from flowmap_video.shards import ABOUT


def read_captions(content: bytes, field: str) -> list[str]:
    """The captions in `field` of a sample's json, a string or a list of them; raises ClipError if there are none."""
    try:
        about = json.loads(content)
    except ValueError:
        raise ClipError(f"its {ABOUT} is no JSON") from None
    if not isinstance(about, dict) or field not in about:
        raise ClipError(f"its {ABOUT} has no '{field}'")
    given = [about[field]] if isinstance(about[field], str) else about[field]
    if not isinstance(given, list) or not all(isinstance(caption, str) for caption in given):
        raise ClipError(f"its '{field}' is neither a string nor a list of strings")
    captions = [caption.strip() for caption in given if caption.strip()]
    if not captions:
        raise ClipError(f"its '{field}' is empty")
    return captions
