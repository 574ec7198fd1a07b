"""What is said of unusable samples while they are encoded: shown, and counted."""

from __future__ import annotations

import logging
from typing import final

from rich.console import Console
from rich.markup import escape

_OF_FAULTS = "flowmap.data"  # the logger


@final
class Listener(logging.Handler):
    """Shows what is said meanwhile, and counts what data sources say of unusable samples."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.console = console
        self._logger = logging.getLogger("flowmap")
        self.count = 0

    def __enter__(self) -> Listener:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning above the bar."""
        self.count += record.name == _OF_FAULTS
        self.console.print(f"[yellow]{escape(record.getMessage())}[/]", soft_wrap=True)
