"""The one hook a plugin implements."""

from collections.abc import Iterable

import pluggy

from flowmap.plugin.kinds import ComponentConfig

GROUP = "flowmap"
"""The entry-point group that plugins register under, and the name of the pluggy project."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def flowmap_components() -> Iterable[type[ComponentConfig]]:  # type: ignore[empty-body]
    """Return the configuration classes of the components this plugin brings, of any kinds.

    Must not import torch: a configuration imports what it needs when it builds its component.
    """
