"""Data `images`: pictures with captions or classes in tars, folders and saved datasets, raw or encoded."""

from __future__ import annotations

from collections.abc import Iterable

from flowmap.plugin import ComponentConfig, hookimpl
from flowmap_images.configs import ImagesConfig


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [ImagesConfig]
