"""Small distributions of strangers, installed by their metadata alone, and the command that meets them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from flowmap.plugin.version import VERSIONED

_WAITING = re.compile(r"^(checking|starting|loading)\b.*\d (s|min)\n", re.MULTILINE)

SAMPLER = '''
from typing import ClassVar, Literal
from flowmap.plugin import SamplerConfig, hookimpl

class {cls}(SamplerConfig):
    """A stranger's."""
    type: Literal["{name}"] = "{name}"
    network: ClassVar[str] = "velocity"
    calls_per_step: ClassVar[int] = 1
    def build(self):
        raise NotImplementedError

@hookimpl
def flowmap_components():
    return [{cls}]
'''


def sampler(name: str) -> str:
    """A module that registers one sampler called `name`."""
    return SAMPLER.format(cls=name.title().replace("_", ""), name=name)


def installed(site: Path, name: str, source: str, group: str = VERSIONED, version: str = "1.0") -> None:
    """A distribution `name` in `site`, of one module with one entry point."""
    (site / f"{name}.py").write_text(textwrap.dedent(source))
    meta = site / f"{name}-{version}.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (meta / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}\n")


def flowmap(site: Path | None, here: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What the command says where `site` is installed, but for what it says of a machine that is slow."""
    path = os.pathsep.join(filter(None, [str(site or ""), os.environ.get("PYTHONPATH", "")]))
    env = {**os.environ, "PYTHONPATH": path, "COLUMNS": "400", "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-m", "flowmap", *words]
    done = subprocess.run(command, env=env, cwd=here, capture_output=True, text=True, check=False, timeout=120)
    done.stderr = _WAITING.sub("", done.stderr)
    return done
