"""Data `video_shards`: captioned videos in tar shards, raw or encoded ahead of training."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_video.configs import VideoShardsConfig


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [VideoShardsConfig]
