"""The one hook a plugin implements."""

from collections.abc import Iterable

import pluggy

from flowmap.plugin.kinds import ComponentConfig

PROJECT = "flowmap"
"""The name of the pluggy project."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def flowmap_components() -> Iterable[type[ComponentConfig]]:  # type: ignore[empty-body]
    """Return the configuration classes of the components this plugin brings, of any kinds.

    Must not import torch: a configuration imports what it needs when it builds its component.
    """
