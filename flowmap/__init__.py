"""flowmap: turn a many-step diffusion or flow-matching model into an any-step one.

`run`, `load_run` and `compare` are for Python what the commands are for a terminal. torch is imported when one of them
is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowmap.version import __version__

if TYPE_CHECKING:
    from flowmap.api import Run, compare, load_run, run

__all__ = ["Run", "__version__", "compare", "load_run", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flowmap' has no attribute '{name}'")
    from flowmap import api

    return getattr(api, name)
