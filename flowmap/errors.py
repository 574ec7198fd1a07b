"""The exceptions whose text is written for the person at the keyboard."""

from typing import Final

TRACEBACK: Final = "its traceback is in "
"""What a note of an exception begins with that says which file its traceback was written to."""


class FlowmapError(Exception):
    """A mistake or a condition that the user can act on.

    The command line prints its text and exits with `code`; no traceback is shown.
    """

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


class ClipError(FlowmapError):
    """A clip, an image or its caption cannot be used; the text says why.

    Where many are read, it is a fault: named, counted, and the next one takes its place.
    """
