"""What of a package a copy of its component takes along: what is needed, all of it, under the new name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmap.errors import FlowmapError
from flowmap.plugin.catalogue import Component
from flowmap.scaffold.closure import UncopyableError
from flowmap.scaffold.copies import copied
from flowmap.scaffold.origins import needed_beside, origin_of
from flowmap.scaffold.packages import write_package

INIT = '''
"""A stranger's package. Torch-free."""

from __future__ import annotations

import json, math
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from flowmap.plugin import ComponentConfig, MetricConfig, NetworkKind, SamplerConfig, hookimpl

from . import bounds as limits
from .deep.below import (
    HALF,  # of what there is
    unused,
)

if TYPE_CHECKING:
    # What is built.
    from flowmap.interfaces import Metric, References, Sampler

    from .steps import Steps

SCALE: float = HALF * 2
"""Twice a half."""
OTHER = 3
"""Of no use."""
WORDS = ("as", "it", "should", "be")
limits.told.append(WORDS)


class OtherConfig(SamplerConfig):
    """Not that one."""

    type: Literal["other"] = "other"
    network: ClassVar[NetworkKind] = "velocity"
    calls_per_step: ClassVar[int] = 2

    def build(self) -> Sampler:
        """Make it."""
        from .others import Others

        return Others(OTHER, json)


# A decorated one.
@limits.marked
class StepsConfig(SamplerConfig):
    """'steps' of "steps"."""

    type: Literal['steps'] = "steps"
    network: ClassVar[NetworkKind] = "velocity"
    calls_per_step: ClassVar[int] = 1

    def hint(self) -> str:
        """A message."""
        return f"'steps' goes by {math.pi:.0f} 'stepsize's"

    def build(self) -> Steps:
        """Make it."""
        from .steps import Steps as Made

        return Made(self, SCALE)


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """All."""
    return [OtherConfig, StepsConfig]
'''

FILES = {
    "__init__.py": INIT.lstrip(),
    "bounds.py": '"""Marks."""\n\nfrom .marks import marked\n\ntold = []\n',
    "marks.py": 'def marked(cls: "Cls") -> "Cls":\n    return cls\n\n\nCls = type\n',
    "others.py": "import nowhere\n",
    "steps.py": """
from itertools import pairwise
from strangers_own import StepsConfig
from strangers_own.deep import below, __doc__ as text
from flowmap.interfaces import Sampler


class Steps(Sampler):
    def __init__(self, config: StepsConfig, scale: float) -> None:
        self.config, self.scale = config, scale * below.HALF * 2

    def order(self):
        return 1

    def sample(self, network, x, times, cond, draw):
        for t, r in pairwise(times):
            x = x - self.scale * (t - r) * network.velocity(x, t.expand(len(x)), cond)
        return x
""".lstrip(),
    "deep/__init__.py": '"""Deep."""\n\nlost = 1\n',
    "deep/below.py": "try:\n    HALF = 0.5\nexcept NameError:\n    HALF = 1\n\n\ndef unused():\n    return left_out\n",
}

Write = Callable[..., Component]


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write the package `strangers_own`, with other files in the place of some, and return its component `steps`."""
    place = tmp_path.parent / f"{tmp_path.name}-stranger"
    monkeypatch.syspath_prepend(place)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def write(**other: str) -> Component:
        for name, text in {**FILES, **{f"{key}.py": text for key, text in other.items()}}.items():
            path = place / "strangers_own" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()
        config = importlib.import_module("strangers_own").StepsConfig
        return Component("sampler", "steps", config, "strangers-own 2.0", "")

    yield write
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("strangers_own", "mine_own"):
            del sys.modules[name]


def test_what_is_needed_comes_along_and_nothing_else(stranger: Write) -> None:
    copy = copied(stranger(), "mine_own")
    assert set(copy.files) == {
        "configs.py",
        "bounds.py",
        "marks.py",
        "steps.py",
        "deep/__init__.py",
        "deep/below.py",
    }
    assert (copy.home, copy.config, copy.others) == ("mine_own.configs", "MineOwnConfig", frozenset({"flowmap"}))
    home = copy.files["configs.py"]
    assert home == (
        INIT.lstrip()
        .replace("import json, math\n", "import math\n")
        .replace("from collections.abc import Iterable\n", "")
        .replace(
            "from flowmap.plugin import ComponentConfig, MetricConfig, NetworkKind, SamplerConfig, hookimpl",
            "from flowmap.plugin import NetworkKind, SamplerConfig",
        )
        .replace("from . import bounds as limits", "from mine_own import bounds as limits")
        .replace(
            "from .deep.below import (\n    HALF,  # of what there is\n    unused,\n)",
            "from mine_own.deep.below import HALF",
        )
        .replace(
            "    # What is built.\n    from flowmap.interfaces import Metric, References, Sampler\n\n    from .steps",
            "    from mine_own.steps",
        )
        .replace('OTHER = 3\n"""Of no use."""\n', "")
        .replace(INIT[INIT.index("class OtherConfig") : INIT.index("# A decorated")], "")
        .replace("from .steps", "from mine_own.steps")
        .replace(INIT[INIT.index("\n\n@hookimpl") :], "")
        .replace("StepsConfig", "MineOwnConfig")
        .replace("Literal['steps'] = \"steps\"", "Literal['mine_own'] = \"mine_own\"")
        .replace("'steps' of", "'mine_own' of")
        .replace("'steps' goes by", "'mine_own' goes by")
    )
    assert "from mine_own.configs import MineOwnConfig" in copy.files["steps.py"]
    assert "from mine_own.deep import below\n" in copy.files["steps.py"]
    assert copy.files["deep/__init__.py"] == '"""Deep."""\n'
    # A module that is imported as one may be asked for anything.
    assert copy.files["deep/below.py"] == FILES["deep/below.py"]
    assert copy.files["marks.py"] == FILES["marks.py"]


def test_a_copy_works_where_the_original_is_gone(
    stranger: Write, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from flowmap.maths.draw import Draw

    component = stranger()
    install(component.config)
    write_package("sampler", "mine_own", "steps")
    for name in [name for name in sys.modules if name.startswith("strangers_own")]:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", ["mine_own", *(p for p in sys.path if not p.endswith("-stranger"))])
    (config,) = importlib.import_module("mine_own").flowmap_components()
    assert config().hint() == "'mine_own' goes by 3 'stepsize's"
    sampler = config().build()

    class Still:
        def velocity(self, x: Any, t: Any, cond: Any) -> Any:
            return torch.ones_like(x)

    x, times = torch.zeros(2, 1, 2), torch.tensor([1.0, 0.5, 0.0])
    assert sampler.sample(Still(), x, times, None, Draw.whole(0, "x", 0, "x", 2)).tolist() == (x - 1).tolist()
    assert not any(name.startswith("strangers_own") for name in sys.modules)
    readme = Path("mine_own/README.md").read_text()
    assert "It began as a copy of `steps` of strange 0.1." in readme
    assert "whose licence is not known here: ask its authors before you pass this on" in readme
    assert "license" not in Path("mine_own/pyproject.toml").read_text()


def test_a_name_that_the_copy_has_already_is_refused(stranger: Write) -> None:
    stranger(marks=FILES["marks.py"] + "\n\nclass MineOwnConfig:\n    pass\n")
    with pytest.raises(UncopyableError, match=r"^its code has something else that is called MarkedConfig; choose"):
        copied(stranger(marks=FILES["marks.py"].replace("Cls", "MarkedConfig")), "marked")


@pytest.mark.parametrize(
    ("module", "text", "why"),
    [
        ("bounds", "from .marks import *\ntold = []\n", r"^strangers_own does not say|imports '\*', so that nobody"),
        ("bounds", "from .marks import marked\ntold = [__file__]\n", "^strangers_own.bounds reads files that lie besi"),
        (
            "bounds",
            "from importlib import resources\nfrom .marks import marked\ntold = [resources]\n",
            "^strangers_own.bounds reads files that lie beside it$",
        ),
        (
            "bounds",
            "import strangers_own.marks as m\nmarked, told = m.marked, []\n",
            "^strangers_own.bounds:1 imports in a way that cannot be given another name$",
        ),
        (
            "bounds",
            "if True: from .marks import marked\ntold = []\n",
            "^strangers_own.bounds:1 imports in a way that cannot be given another name$",
        ),
        ("steps", "def Steps(:\n", r"steps\.py cannot be read: "),
        ("steps", "Made = 1\n", "^strangers_own.steps does not say in a plain way what 'Steps' is$"),
    ],
)
def test_what_cannot_be_followed_is_refused(stranger: Write, module: str, text: str, why: str) -> None:
    with pytest.raises(UncopyableError, match=why):
        copied(stranger(**{module: text}), "mine_own")


def test_a_class_that_is_made_is_refused(stranger: Write, install: Any) -> None:
    class StepsConfig(stranger().config):  # type: ignore[misc]
        """Made here."""

    install(StepsConfig)
    with pytest.raises(
        FlowmapError, match=r"^sampler 'steps' cannot be copied: its configuration is made within a fun"
    ):
        write_package("sampler", "mine_own", "steps")


def test_a_backbone_that_claims_weights_is_refused() -> None:
    from flowmap_mlp.configs import MlpConfig

    class Claiming(MlpConfig):
        """Weights of others."""

        @classmethod
        def of_weights(cls, weights: str) -> None:
            return None

    with pytest.raises(UncopyableError, match=r"^it claims weights that others made, and only one backbone may claim"):
        copied(Component("backbone", "mlp", Claiming, "strange 0.1", ""), "mine_own")


def test_where_it_comes_from_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)

    def said(head: str, licence: str | None = "Terms.") -> Any:
        folder = tmp_path / "strangers_own-2.0.dist-info"
        (folder / "licenses").mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: strangers-own\nVersion: 2.0\n{head}\n")
        record = "strangers_own-2.0.dist-info/METADATA,,\n"
        if licence is not None:
            (folder / "licenses" / "COPYING").write_text(licence)
            record += "strangers_own-2.0.dist-info/licenses/COPYING,,\n"
        (folder / "RECORD").write_text(record)
        return origin_of(Component("sampler", "steps", Any, "strangers-own 2.0", ""))  # type: ignore[arg-type]

    known = said("License-Expression: BSD-3-Clause")
    assert (known.line, known.files) == ('license = "BSD-3-Clause"', {"COPYING": "Terms."})
    assert known.words.startswith("Copied from strangers-own 2.0 under BSD-3-Clause; its terms are in `COPYING`. ")
    old = said("License: MIT style", None)
    assert (old.line, old.words[:45]) == ("# license: MIT style", "Copied from strangers-own 2.0 under MIT style")
    assert said("", None).words == (
        "Copied from strangers-own 2.0 that does not name a licence: ask its authors before you pass this on."
    )


def test_what_a_copy_needs_beside_flowmap() -> None:
    assert needed_beside({"flowmap", "torch", "pydantic"}) == []
    # Extras are no needs, and a module may be called otherwise than what brings it.
    assert needed_beside({"torch", "ot", "sklearn", "_pytest", "hypothesis"}) == ["hypothesis", "pytest"]
