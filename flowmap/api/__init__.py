"""flowmap from Python, in scripts and notebooks: the same code as the commands, with the same names for things.

Imported by `flowmap/__init__.py` alone, when somebody asks for one of these names.
"""

from flowmap.api.jobs import compare, load_run, run
from flowmap.api.run import Run

__all__ = ["Run", "compare", "load_run", "run"]
