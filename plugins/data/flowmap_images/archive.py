"""Opens pictures, whatever form they are in."""

from __future__ import annotations

from functools import partial

from flowmap.errors import FlowmapError
from flowmap.interfaces import Archive
from flowmap.shards.archive import ShardArchive
from flowmap_images.configs import ImagesConfig
from flowmap_images.forms import form_of, problem_of
from flowmap_images.pictures import Pictures


def open_images(config: ImagesConfig) -> Archive:
    """The archive of what `config.path` names. Raises FlowmapError if it cannot be opened."""
    if wrong := problem_of(config.path):
        raise FlowmapError(f"data: {wrong}")
    form = form_of(config.path)
    if form is not None:
        for finding in config.missing():
            if finding.level == "error":
                raise FlowmapError(f"data.{'.'.join(map(str, finding.field))}: {finding.message}")
    kind = Pictures(config)
    if form == "folder":
        from flowmap_images.folders import listed_folder

        return ShardArchive(config, kind, partial(listed_folder, config))
    if form == "dataset":
        from flowmap_images.datasets import listed_dataset

        return ShardArchive(config, kind, partial(listed_dataset, config))
    return ShardArchive(config, kind)
