"""Keep the bars of other libraries out of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_bars() -> Iterator[None]:
    """Within this context neither diffusers nor transformers shows a progress bar."""
    # Imported here: whoever needs quiet has just imported both, and importing them takes seconds.
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    shown = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, before in zip(libraries, shown, strict=True):
            if before:
                library.enable_progress_bar()
