"""What a run notes down of itself beside its results: its log, and what it was made with."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

import torch

from flowmap.errors import TRACEBACK, FlowmapError
from flowmap.files.folder import writing
from flowmap.files.sealed import write_sealed
from flowmap.files.whole import write_whole
from flowmap.recipe.layout import LOCK, Plan
from flowmap.training.processes import Processes

LOG = "flowmap.log"
_VERSIONS = (
    "flowmap",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "accelerate",
    "diffusers",
    "transformers",
    "safetensors",
    "pydantic",
)


@final
class _LogFile(logging.FileHandler):
    """A log that is as needed as anything else that is written: without its folder the work stops."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, encoding="utf-8", delay=True, errors="backslashreplace")
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record."""
        with writing(self._file):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Raise what went wrong, of which logging itself would print a traceback."""
        error = sys.exception()
        assert error is not None  # logging calls this while it handles one
        raise error


@contextmanager
def logged(file: Path) -> Iterator[None]:
    """Append what components log (skipped samples, say) to `file`, besides showing it; of a failure, where it was."""
    logger = logging.getLogger("flowmap")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    except FlowmapError:
        raise
    except Exception as error:
        failed = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "failed", (), sys.exc_info())
        with suppress(FlowmapError):  # that it cannot be written is not what happened first
            handler.handle(failed)
            error.add_note(f"{TRACEBACK}{file}")
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


def write_about(plan: Plan, processes: Processes) -> None:
    """Write the run's lock, and what it is made with."""
    device = processes.device
    everything = plan.recipe.as_tables()
    write_sealed(plan.folder / LOCK, "the whole recipe, with every default and every --set.", everything)
    about: dict[str, str | int] = {name: importlib.metadata.version(name) for name in _VERSIONS}
    about["python"] = platform.python_version()
    about["platform"] = platform.platform()
    about["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    about["processes"] = processes.number
    about["threads"] = plan.recipe.compute.threads or torch.get_num_threads()
    write_whole(plan.folder / "about.json", json.dumps(about, indent=2) + "\n")
