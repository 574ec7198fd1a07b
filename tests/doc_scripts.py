"""The scripts that write pages of docs/, as modules."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[1] / "docs"


@cache
def doc_script(name: str) -> ModuleType:
    """docs/<name>.py. Dataclasses look their module up, so it is known by a name that no package has."""
    known = f"flowmap_docs_{name}"
    spec = importlib.util.spec_from_file_location(known, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[known] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
