"""Serve the page on this machine, until somebody ends the command."""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

from flowmap.console.options import flag, option
from flowmap.console.signals import Interruption
from flowmap.demo.sides import machine, open_side, refuse_unlike
from flowmap.demo.work import Answering
from flowmap.errors import FlowmapError
from flowmap.phases import phase
from flowmap.use.wish import Wish

HOST = "127.0.0.1"
_PUBLIC = "*.gradio.live"
_LAST_CALL_SECONDS = 5
_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


@final
class Served:
    """A page that is there, and what it says of itself, until `wait` has ended."""

    def __init__(self, words: str, answering: Answering, page: Any, folder: TemporaryDirectory[str]) -> None:
        self.words = words
        self._answering, self._page, self._folder = answering, page, folder

    def wait(self) -> None:
        """Wait for a signal (Ctrl-C), and close the page."""
        try:
            with suppress(KeyboardInterrupt), Interruption().raising():
                threading.Event().wait()
        finally:
            self.close()

    def close(self) -> None:
        """Close the page; what is being made ends at its next network call."""
        self._answering.stop(_LAST_CALL_SECONDS)
        self._page.close(verbose=False)
        self._folder.cleanup()


def serve(left: tuple[str, Wish], right: tuple[str, Wish] | None, port: int, share: bool = False) -> Served:
    """Serve a page on the local `port` for the student on the `left`, and for another on the `right` if there is one.

    Each is a run or weights, and how they are opened. `share` asks Gradio for a public address. Raises FlowmapError
    for what cannot be opened or served.
    """
    refuse_without_gradio()
    refuse_taken(port)
    with phase("opening the model"):
        one = open_side(*left)
        other = open_side(*right) if right else one
        refuse_unlike(one, other)
    about = machine([one, other])
    folder = TemporaryDirectory(prefix="flowmap-demo-")
    answering = Answering((one, other), Path(folder.name) / "answers")
    with phase("starting the page"):
        page, address = _launched(answering, about, Path(folder.name), port, share)
    return Served(f"{one.name}, {about}.\nThe page: {address} (Ctrl-C ends it)", answering, page, folder)


def refuse_without_gradio() -> None:
    """Raise FlowmapError, with what to install, if Gradio is not there."""
    if importlib.util.find_spec("gradio") is None:
        raise FlowmapError("the page needs Gradio, which is not installed: pip install 'flowmap[demo]'")


def refuse_taken(port: int) -> None:
    """Raise FlowmapError if another program has the local `port`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except PermissionError:
            raise FlowmapError(f"{option('port', port)}: not yours to open; take one from 1024 on") from None
        except OSError:
            raise FlowmapError(
                f"{option('port', port)}: another program has it (another demo?); end that, or give another"
            ) from None


def _launched(answering: Answering, about: str, folder: Path, port: int, share: bool) -> tuple[Any, str]:
    """The running page, and its address."""
    os.environ.update(_QUIET)
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "shown")
    with warnings.catch_warnings():
        # pydub looks for ffmpeg, which nothing here needs.
        warnings.simplefilter("ignore")
        import gradio as gr
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from flowmap.demo.page import CSS, layout

    page = layout(answering, about)
    # Another site that a reader's browser visits could give itself a name for this machine, and read the answers.
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost", *([_PUBLIC] if share else [])])
    try:
        _, local, public = page.launch(
            server_name=HOST,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            css=CSS,
            # Names of fonts that every system has: Gradio's own come from elsewhere.
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            allowed_paths=[str(folder)],
            app_kwargs={"middleware": [guard]},
            max_file_size="500mb",
            footer_links=[],
            ssr_mode=False,
            inbrowser=False,
        )
    except OSError as error:
        raise FlowmapError(f"{option('port', port)}: the page cannot be served: {error}") from None
    if share and not public:
        raise FlowmapError(f"{flag('share')}: no public address was to be had, as there is no internet; leave it out")
    return page, public or local
