"""Where progress is shown."""

from __future__ import annotations

import importlib.util

from rich.console import Console


def notebook_console() -> Console:
    """Where progress is shown: a bar in a notebook too, if it can draw one (with ipywidgets), and else lines."""
    console = Console()
    bars = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    return Console(force_interactive=True) if bars else console
