"""Finding plugins: a separate distribution, broken ones, and two that claim one name."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from flowmap.console.signals import HEARD, Interruption, Signalled
from flowmap.errors import FlowmapError
from flowmap.plugin import ComponentConfig, SamplerConfig, hookspecs
from flowmap.plugin.catalogue import KINDS, BrokenPlugin, Catalogue, Component, catalogue, load
from flowmap.recipe.read import read

from .conftest import TINY, edited

EXAMPLE = Path(__file__).parent / "third_party" / "flowmap_strangers"

PREAMBLE = """
from typing import ClassVar, Literal
from flowmap.plugin import SamplerConfig, hookimpl

class Good(SamplerConfig):
    '''A good one.'''
    type: Literal["good"] = "good"
    network: ClassVar[str] = "velocity"
    calls_per_step: ClassVar[int] = 1
    def build(self): ...
"""

REGISTER = """
@hookimpl
def flowmap_components():
    return [{}]
"""

RECIPE = """\
name = "mixed"
data = "sea_surface"
backbone = {{ type = "{backbone}", width = 8 }}

[[stages]]
name = "teacher"
steps = 20
batch = 16
objective = "flow_matching"

[[stages]]
name = "student"
steps = 20
batch = 16
objective = {{ type = "energy", samples = 8 }}
roles.student = {{ from = "teacher" }}

[evaluation]
teacher = "teacher"
teacher_sampler = "midpoint"
metrics = ["label_error", "frechet_pixels", "semigroup"]
contests = [
  {{ stage = "teacher", samplers = ["midpoint", "euler"] }},
  {{ stage = "student", samplers = ["flow_map"] }},
]
"""

EntryPoints = Callable[[str, str], EntryPoint]

OBJECTIVES = [
    "backward_simulation",
    "causvid",
    "consistency",
    "consistency_training",
    "discrete_flow_map",
    "dmd2",
    "eulerian",
    "flow_map",
    "flow_matching",
    "lagrangian",
    "mean_flow",
    "rcm",
    "scm",
    "self_forcing",
    "semigroup",
    "shortcut",
    "tcm",
    "trajectory",
    "transition",
]
SAMPLERS = ["consistency", "dpm_solver", "euler", "flow_map", "gamma", "heun", "lcm", "unipc"]


def test_the_first_party_plugins_are_found() -> None:
    found = catalogue()
    assert found.broken == []
    assert {kind: found.names(kind) for kind in KINDS} == {
        "backbone": [
            "causal_wan21",
            "causal_wan22",
            "dit",
            "far_wan21",
            "flux",
            "flux2",
            "gaussian",
            "lumina2",
            "mlp",
            "pixart",
            "qwen_image",
            "sana",
            "sd3",
            "wan21",
            "wan21_i2v",
            "z_image",
        ],
        "data": ["checkerboard", "digits", "gaussian", "images", "mnist", "moving_digits", "video_shards"],
        "objective": OBJECTIVES,
        "sampler": SAMPLERS,
        "metric": [
            "class_accuracy",
            "clip_score",
            "fid",
            "frechet",
            "frechet_features",
            "frechet_pixels",
            "frechet_teacher",
            "kid",
            "nearest_train",
            "precision",
            "recall",
            "semigroup",
            "sliced_wasserstein",
        ],
        "features": ["classifier", "inception", "pixels", "vision_model"],
    }


def test_every_component_says_what_it_is_and_where_it_is_from() -> None:
    for component in catalogue().components:
        assert component.summary.endswith(".") or component.summary.endswith(":"), component.name
        assert component.distribution.startswith("flowmap "), component.name
        assert component.config.type_name() == component.name


def test_the_catalogue_is_read_once() -> None:
    assert catalogue() is catalogue()


BROKEN = {
    "import error": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "any error": ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
    "system exit": ("import sys\nsys.exit(0)", "SystemExit: 0"),
    "exit without a word": ("raise SystemExit", "SystemExit: "),
    "an interrupt of its own": ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt: mine"),
    "generator exit": ("raise GeneratorExit", "GeneratorExit: "),
    "any base exception": ("class Odd(BaseException): pass\nraise Odd('x')", "Odd: x"),
    "out of stack": ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    "an error without words": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
        "Odd: its error cannot be shown",
    ),
    "exit in the hook": (
        PREAMBLE + REGISTER.format("Good").replace("return", "raise SystemExit(3)\n    return"),
        "SystemExit: 3",
    ),
    "syntax error": ("def", "SyntaxError: invalid syntax (syntax_error.py, line 1)"),
    "no hook": (
        PREAMBLE,
        "TypeError: it implements no hook 'flowmap_components' (is the function marked @hookimpl?)",
    ),
    "unmarked hook": (
        "def flowmap_components():\n    return []",
        "TypeError: it implements no hook 'flowmap_components' (is the function marked @hookimpl?)",
    ),
    "unknown hook": (
        PREAMBLE + REGISTER.format("Good").replace("flowmap_components", "flowmap_component"),
        "PluginValidationError: unknown hook 'flowmap_component' in plugin <module 'unknown_hook' from '{path}'>",
    ),
    "no list": (
        PREAMBLE + REGISTER.format("").replace("[]", "Good"),
        "TypeError: 'ModelMetaclass' object is not iterable",
    ),
    "no class": (
        PREAMBLE + REGISTER.format("3"),
        "TypeError: 3 is not a subclass of one of BackboneConfig, DataConfig, ObjectiveConfig, SamplerConfig, "
        "MetricConfig, FeaturesConfig",
    ),
    "instance": (
        PREAMBLE + REGISTER.format("Good()"),
        "TypeError: Good(type='good') is not a subclass of one of BackboneConfig, DataConfig, ObjectiveConfig, "
        "SamplerConfig, MetricConfig, FeaturesConfig",
    ),
    "no configuration": (
        PREAMBLE + REGISTER.format("str"),
        "TypeError: <class 'str'> is not a subclass of one of BackboneConfig, DataConfig, ObjectiveConfig, "
        "SamplerConfig, MetricConfig, FeaturesConfig",
    ),
    "abstract base": (
        PREAMBLE + REGISTER.format("SamplerConfig"),
        "TypeError: SamplerConfig has no name: it needs type: Literal[\"its_name\"] = \"its_name\"",
    ),
    "no build": (
        PREAMBLE.replace("    def build(self): ...", "") + REGISTER.format("Good"),
        "TypeError: Good leaves abstract: build",
    ),
    "no name": (
        PREAMBLE.replace('    type: Literal["good"] = "good"\n', "") + REGISTER.format("Good"),
        "TypeError: Good has no name: it needs type: Literal[\"its_name\"] = \"its_name\"",
    ),
    "no number of calls": (
        PREAMBLE.replace("    calls_per_step: ClassVar[int] = 1\n", "") + REGISTER.format("Good"),
        "TypeError: Good does not say its network and calls_per_step",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "case"), BROKEN.items(), ids=BROKEN.keys())
def test_a_broken_plugin_is_recorded_and_hurts_no_other(
    name: str, case: tuple[str, str], entry_point: EntryPoints, tmp_path: Path
) -> None:
    source, reason = case
    module = name.replace(" ", "_")
    good = entry_point("a_good_plugin", PREAMBLE + REGISTER.format("Good"))
    found = load([entry_point(module, source), good])
    expected = reason.replace("{path}", str(tmp_path / f"{module}.py"))
    assert found.broken == [BrokenPlugin(module, "an unknown distribution", expected)]
    assert [(c.kind, c.name, c.summary) for c in found.components] == [("sampler", "good", "A good one.")]


@pytest.mark.parametrize(
    "source",
    [
        "",
        # What a plugin makes of it is not what the user meant.
        "except BaseException: pass",
        "except BaseException: raise ImportError('no luck')",
        "except BaseException: raise SystemExit(0)",
        "finally: signal.signal(signal.SIGINT, signal.SIG_IGN)",
    ],
)
def test_a_real_interrupt_ends_the_command_whatever_a_plugin_makes_of_it(
    source: str, entry_point: EntryPoints, tmp_path: Path
) -> None:
    number = len(list(tmp_path.iterdir()))
    work = "signal.raise_signal(signal.SIGINT)"
    text = f"import signal\ntry:\n    {work}\n{source or 'finally: pass'}\n"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        load([entry_point(f"interrupted_{number}_{abs(hash(source))}", text)])
    assert signal.getsignal(signal.SIGINT) is before


def test_no_signal_that_a_command_listens_to_is_lost_in_a_plugin(entry_point: EntryPoints) -> None:
    """What a scheduler or torchrun sends while plugins are imported would be taken for the plugin's own failure."""
    for number in HEARD:
        work = f"import signal\nsignal.raise_signal({int(number)})\n"
        with Interruption().raising(), pytest.raises(Signalled):
            load([entry_point(f"stopped_{number.name}", work)])


def test_a_plugin_s_own_handler_goes_with_it(entry_point: EntryPoints) -> None:
    before = signal.getsignal(signal.SIGINT)
    load([entry_point("handler", "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)")])
    assert signal.getsignal(signal.SIGINT) is before


def remarks(point: EntryPoint) -> list[str]:
    """What is said of a plugin but that it does not say its interface."""
    return [remark.text for remark in load([point]).remarks if "version of the plugin interface" not in remark.text]


@pytest.mark.parametrize("where", ["memory", "file"])
def test_what_a_plugin_prints_is_held_wherever_streams_lead(
    where: str, entry_point: EntryPoints, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "file":  # as on systems that have no nameless ones in memory
        monkeypatch.delattr(os, "memfd_create", raising=False)
    text = "import os, sys\nprint('a', flush=True)\nsys.stderr.write('b')\nos.write(2, b'c')\nprint(sys.stdin.read())\n"
    before = sys.stdin, sys.stdout, sys.stderr
    assert remarks(entry_point(f"loud_{where}", text + PREAMBLE + REGISTER.format("Good"))) == [
        "it prints when it is imported: a bc"
    ]
    assert (sys.stdin, sys.stdout, sys.stderr) == before
    print("mine")
    assert capsys.readouterr() == ("mine\n", "")
    long = f"print('x' * 999)\n{PREAMBLE}{REGISTER.format('Good')}"
    assert remarks(entry_point(f"longer_{where}", long)) == [f"it prints when it is imported: {'x' * 200}..."]


def test_a_log_that_a_plugin_sets_up_goes_on(entry_point: EntryPoints, capsys: pytest.CaptureFixture[str]) -> None:
    """Its handler keeps the stream that there was at import."""
    text = "import logging\nlogging.getLogger('theirs').addHandler(logging.StreamHandler())\n"
    assert not remarks(entry_point("logging_plugin", text + PREAMBLE + REGISTER.format("Good")))
    logging.getLogger("theirs").warning("later")
    assert capsys.readouterr() == ("", "later\n")


def test_torch_s_defaults_are_put_back(entry_point: EntryPoints) -> None:
    import torch

    text = "import torch\ntorch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n"
    assert remarks(entry_point("doubling", text + PREAMBLE + REGISTER.format("Good"))) == [
        "its import changes torch's settings (default type, gradients): put back; what a component needs it sets in "
        "build()"
    ]
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == (torch.float32, True)


def test_filters_of_a_library_s_own_warnings_stay(entry_point: EntryPoints) -> None:
    text = "import warnings\nwarnings.filterwarnings('ignore', message='numpy.dtype size changed')\n"
    with warnings.catch_warnings():
        assert not remarks(entry_point("filtering", text + PREAMBLE + REGISTER.format("Good")))
        warnings.warn("numpy.dtype size changed", stacklevel=1)
        with pytest.raises(UserWarning, match="another"):  # as pytest has it here, and not as the plugin before had it
            warnings.warn("another", stacklevel=1)
        assert remarks(entry_point("hushing", "import warnings\nwarnings.simplefilter('ignore')\n" + text))
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", stacklevel=1)


def test_plugins_are_loaded_in_any_thread(entry_point: EntryPoints) -> None:
    """A signal arrives in the main thread alone, and only there may a handler be set."""
    point = entry_point("threaded", "raise KeyboardInterrupt('mine')")
    found: list[Catalogue] = []
    thread = threading.Thread(target=lambda: found.append(load([point])))
    thread.start()
    thread.join()
    assert [b.reason for b in found[0].broken] == ["KeyboardInterrupt: mine"]


def test_a_distribution_without_metadata_is_no_reason_to_end(entry_point: EntryPoints) -> None:
    class Nameless:
        @property
        def name(self) -> str:
            raise KeyError("Name")

    point = entry_point("nameless", "import no_such_module")
    vars(point).update(dist=Nameless())
    (broken,) = load([point]).broken
    assert broken.distribution == "a distribution whose metadata are damaged"


def test_an_unknown_name_mentions_the_plugins_that_could_not_be_loaded(
    install: Callable[..., None], problem: Callable[..., str]
) -> None:
    broken = BrokenPlugin("lost", "lost-plugin 0.3", "ImportError: no luck")
    install(catalogue=Catalogue(catalogue().components, [broken]))
    text = edited(('["flow_map"]', '["flow_map", "zigzag"]'))
    assert problem(text) == (
        f"r.toml:28: evaluation.contests.0.samplers.1: unknown sampler 'zigzag'; allowed: {', '.join(SAMPLERS)} "
        "(plugins that could not be loaded and may provide it: lost from lost-plugin 0.3: ImportError: "
        "no luck)"
    )
    Path("r.toml").write_text(TINY)
    assert read(Path("r.toml"))[1] == []


def test_two_plugins_of_one_name_are_an_error_only_for_who_names_them(
    install: Callable[..., None], problem: Callable[..., str]
) -> None:
    real = catalogue()
    twin = Component("sampler", "euler", real.find("sampler", "euler"), "twin-plugin 2.0", "Another.")
    install(catalogue=Catalogue([*real.components, twin], []))
    text = edited(('stage = "student"\nsamplers = ["flow_map"]', 'stage = "teacher"\nsamplers = ["euler"]'))
    owner = real.claims("sampler", "euler")[0].distribution
    assert problem(text) == (
        f"r.toml:28: evaluation.contests.0.samplers.0: sampler 'euler' is registered by {owner} and twin-plugin 2.0; "
        "uninstall one of them"
    )
    Path("r.toml").write_text(TINY)
    assert read(Path("r.toml"))[1] == []


def test_one_name_in_two_kinds_is_fine() -> None:
    assert catalogue().find("backbone", "gaussian") is not catalogue().find("data", "gaussian")


def test_the_hook_is_documented() -> None:
    assert hookspecs.flowmap_components.__doc__


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "300", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the separate distribution and a broken one are installed."""
    folder = tmp_path_factory.mktemp("site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(folder), str(EXAMPLE)], check=True)
    (folder / "broken_example.py").write_text("import no_such_module")
    meta = folder / "broken_example-9.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-example\nVersion: 9\n")
    (meta / "entry_points.txt").write_text("[flowmap]\nbroken_example = broken_example\n")
    return folder


def flowmap(elsewhere: Path, here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowmap", *words]
    return subprocess.run(command, env=environment(elsewhere), cwd=here, capture_output=True, text=True, check=False)


def test_a_separate_distribution_is_listed_beside_a_broken_one(elsewhere: Path, here: Path) -> None:
    done = flowmap(elsewhere, here, "plugins")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    strange = [row[:2] for row in rows if row[2:4] == ["flowmap-strangers", "0.1.0"]]
    assert strange == [
        ["backbone", "sd3_labels"],
        ["backbone", "unet1d"],
        ["data", "sea_surface"],
        ["objective", "energy"],
        ["sampler", "midpoint"],
        ["metric", "label_error"],
    ]
    last = " ".join(rows[-1])
    assert last == "broken broken_example broken-example 9 ModuleNotFoundError: No module named 'no_such_module'"


def test_a_recipe_that_mixes_a_stranger_with_the_first_party_is_checked(elsewhere: Path, here: Path) -> None:
    (here / "mixed.toml").write_text(RECIPE.format(backbone="unet1d"))
    done = flowmap(elsewhere, here, "check", "mixed.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "✓ mixed.toml: teacher (flow_matching, 20 steps); student (energy, 20 steps)\n"


@pytest.mark.parametrize("recipe", sorted((EXAMPLE / "recipes").iterdir()), ids=lambda path: path.stem)
def test_its_own_recipes_are_checked(recipe: Path, elsewhere: Path, here: Path) -> None:
    done = flowmap(elsewhere, here, "check", str(recipe))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("✓ ")
    assert "warning" not in done.stdout


def test_a_name_that_only_a_broken_plugin_may_have(elsewhere: Path, here: Path) -> None:
    (here / "mixed.toml").write_text(RECIPE.format(backbone="unet1q"))
    done = flowmap(elsewhere, here, "check", "mixed.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: mixed.toml:3: backbone.type: unknown backbone 'unet1q'; "
        "allowed: causal_wan21, causal_wan22, dit, far_wan21, flux, flux2, gaussian, lumina2, mlp, pixart, "
        "qwen_image, sana, sd3, sd3_labels, unet1d, wan21, wan21_i2v, z_image. "
        "Did you mean 'unet1d'? (plugins that could not be loaded and may provide it: "
        "broken_example from broken-example 9: ModuleNotFoundError: No module named 'no_such_module')\n"
    )


def test_a_summary_is_the_first_line_of_the_docstring() -> None:
    class Long(SamplerConfig):
        """First line.

        More.
        """

        type: str = "long"

        def build(self) -> None:  # type: ignore[override]
            ...

    Long.network, Long.calls_per_step = "velocity", 1
    from flowmap.plugin.catalogue import _component

    assert _component(Long, "me 1").summary == "First line."
    assert issubclass(Long, ComponentConfig)


ODD = """
class Odd:
    pass

class Strange(Good):
    type: Literal["strange"] = "strange"
    odd: Odd = Odd()
"""


def test_fields_that_cannot_be_are_told_of_when_a_recipe_names_them(
    tmp_path: Path, install: Callable[..., None], entry_point: Callable[[str, str], EntryPoint]
) -> None:
    """Configurations are made ready when they are named, for most never are; and none hurts another."""
    found = load([entry_point("odd_plugin", PREAMBLE + ODD + REGISTER.format("Good, Strange"))])
    install(catalogue=Catalogue([*catalogue().components, *found.components], []))
    path = tmp_path / "r.toml"
    path.write_text(edited(('samplers = ["flow_map"]', 'samplers = ["strange"]')))
    with pytest.raises(FlowmapError, match="the fields of sampler 'strange' cannot be: PydanticSchema") as caught:
        read(path)
    assert str(caught.value).count("\n") == 0
    path.write_text(edited(('samplers = ["flow_map"]', 'samplers = ["flow_map", "good"]')))
    assert read(path)[0].evaluation is not None
