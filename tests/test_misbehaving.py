"""Plugins that misbehave, each a distribution of its own: a clear row, and no harm to what does not name them."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from flowmap.plugin.version import INTERFACE, VERSIONED, refusal

from .conftest import TINY, edited
from .installing import flowmap, installed, sampler

ROOT = Path(__file__).parents[1]
MAJOR, MINOR = map(int, INTERFACE.split("."))
NEWER, OLDER, NEXT = f"{MAJOR}.{MINOR + 1}", f"{MAJOR - 1}.9", f"{MAJOR + 1}.0"
WRITTEN = "it was written for version {} of the plugin interface, and flowmap 0.1.0 has " + INTERFACE
SECONDS = {"FLOWMAP_PLUGIN_SECONDS": "1"}
LATE = (
    "it did not load within 1 s (FLOWMAP_PLUGIN_SECONDS sets another limit, FLOWMAP_WITHOUT_PLUGINS={} leaves it out)"
)

GROUPS = {
    "from_the_future": f"flowmap.{NEWER}",
    "from_the_past": f"flowmap.{OLDER}",
    "from_the_next": f"flowmap.{NEXT}",
    "misnamed": "flowmap.v1",
}
"""Plugins that would end the command if any of their code ran."""

BROKEN = {
    "from_the_future": ("", f"{WRITTEN.format(NEWER)}; upgrade flowmap: pip install -U flowmap"),
    "from_the_past": ("", f"{WRITTEN.format(OLDER)}; upgrade the plugin: pip install -U from_the_past"),
    "from_the_next": ("", f"{WRITTEN.format(NEXT)}; upgrade flowmap: pip install -U flowmap"),
    "misnamed": (
        "",
        f"its entry point is in the group 'flowmap.v1', which is no version of the plugin interface: '{VERSIONED}'",
    ),
    "failing": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "leaving": ("import sys\nsys.exit('enough')", "SystemExit: enough"),
    "asking": ("name = input('your name? ')", "EOFError: EOF when reading a line"),
    "empty": (sampler("x").replace("[X]", "[]"), "TypeError: its hook 'flowmap_components' returns no component"),
    "vanishing": (
        "import os\nif os.fork() == 0: os._exit(0)\nos.wait()\nos._exit(0)" + sampler("vanishing"),
        "SystemExit: os._exit(0)",
    ),
    "coloured": ("raise OSError('\\x1b[2Jred')", r"OSError: \x1b[2Jred"),
    "lettered": (
        sampler("x").replace('"x"', '"a/b"'),
        "TypeError: X is called 'a/b': a name is of the letters A to Z and a to z, digits, '_', '.' and '-', and "
        "begins with a letter or a digit",
    ),
    "twice": (sampler("doubled").replace("[Doubled]", "[Doubled, Doubled]"), None),
}

HANGING = {
    "sleepy": "import time\ntime.sleep(1e6)",
    "spinning": "while True:\n    try:\n        while True: pass\n    except Exception: pass",
    "waiting": "import threading\nthreading.Event().wait()",
    "insisting": "import time\nfor _ in 'ab':\n    try: time.sleep(9)\n    except BaseException: pass\nraise OSError",
}

STRAY = """
import threading, time
def talk():
    while True:
        print('from afar')
        time.sleep(0.01)
threading.Thread(target=talk, name='talker', daemon=True).start()
"""

REMARKS = {
    "unsaid": (
        sampler("unsaid"),
        "it does not say for which version of the plugin interface it was written: its entry point belongs in the "
        f"group '{VERSIONED}'",
    ),
    "talking": (
        "import os, subprocess, sys\nprint('hello')\nprint('there', file=sys.stderr)\nos.write(1, b'you\\n')\n"
        "subprocess.run(['echo', 'all'])\nsys.stdout.buffer.write(b'of \\xff')" + sampler("talking"),
        "it prints when it is imported: hello there you all of \ufffd",
    ),
    "clearing": (
        "print('\\x1b[2Jclean')" + sampler("clearing"),
        r"it prints when it is imported: \x1b[2Jclean",
    ),
    "patching": (
        "import builtins, json\njson.dumps = json.loads = print\nbuiltins.open = print" + sampler("patching"),
        "its import changes functions of Python (builtins.open, json.dumps, json.loads): put back; what a component "
        "needs it sets in build()",
    ),
    "meddling": (
        "import logging, os, random, signal, sys, warnings\n"
        "os.environ['CUDA_VISIBLE_DEVICES'] = ''\nos.environ.pop('OMP_NUM_THREADS')\nos.chdir('/')\n"
        "sys.path.insert(0, '/nowhere')\nrandom.seed(0)\nwarnings.simplefilter('error')\n"
        "logging.basicConfig(level=10)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sys.setrecursionlimit(99999)\nsys.excepthook = print\n" + sampler("meddling"),
        "its import changes environment variables (CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS), the current folder, "
        "sys.path, the handlers of signals (SIGTERM), sys.excepthook, the filters of all warnings, the root logger, "
        "the state of random, the limit of recursion: put back; what a component needs it sets in build()",
    ),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, installed together, with one that is as it should be."""
    folder = tmp_path_factory.mktemp("site-packages")
    for name, (source, _) in BROKEN.items():
        group = GROUPS.get(name, VERSIONED)
        installed(folder, name, "import os\nos._exit(3)" if name in GROUPS else source, group)
    for name, (source, _) in REMARKS.items():
        installed(folder, name, source, "flowmap" if name == "unsaid" else VERSIONED)
    installed(folder, "good", sampler("good"))
    installed(folder, "rival", sampler("euler"))
    return folder


@pytest.fixture(scope="module")
def listed(site: Path) -> subprocess.CompletedProcess[str]:
    return flowmap(site, site, "plugins")


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    """By the first column, what the last says of each name."""
    found: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        cells = re.split(r"  +", line.strip())
        if len(cells) == 4:
            found.setdefault(cells[0], {}).setdefault(cells[1], cells[3])
    return found


def test_each_is_a_clear_row(listed: subprocess.CompletedProcess[str]) -> None:
    assert (listed.returncode, "Traceback" in listed.stderr) == (0, False)
    found = rows(listed)
    assert found["broken"] == {name: reason for name, (_, reason) in BROKEN.items() if reason}
    said = found["remark"]
    assert said.pop("asking") == "it prints when it is imported: your name?"
    assert said == {name: text for name, (_, text) in REMARKS.items()}
    assert found["sampler"]["good"] == "A stranger's."
    assert found["sampler"].keys() >= {"euler (claimed twice)", "doubled (claimed twice)", "unsaid", "talking"}


def test_ours_say_it_and_have_no_row_of_either(tmp_path: Path) -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points.keys() == {VERSIONED}
    for package in ROOT.glob("tests/third_party/*/pyproject.toml"):
        assert tomllib.loads(package.read_text())["project"]["entry-points"].keys() == {VERSIONED}
    meta = tmp_path / "flowmap-0.1.0.dist-info"  # as these metadata install them, whatever is installed here
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: flowmap\nVersion: 0.1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in points[VERSIONED].items())
    (meta / "entry_points.txt").write_text(f"[{VERSIONED}]\n{lines}")
    as_installed = flowmap(tmp_path, tmp_path, "plugins")
    assert not {"broken", "remark"} & rows(as_installed).keys()
    assert as_installed.stdout == flowmap(None, tmp_path, "plugins").stdout


def test_a_recipe_that_names_none_of_them_is_as_without(site: Path, here: Path) -> None:
    (here / "r.toml").write_text(TINY)
    (here / "wrong.toml").write_text(edited(("steps = 10", "steps = 0")))
    for words in (("check", "r.toml"), ("check", "wrong.toml"), ("recipes",), ("new", "recipe", "mine")):
        said = []
        for where in (None, site):
            done = flowmap(where, here, *words)
            said.append((done.returncode, done.stdout, done.stderr))
            (here / "mine.toml").unlink(missing_ok=True)
        assert said[0] == said[1]


def test_json_is_json_whatever_they_print(site: Path, here: Path) -> None:
    described = json.loads(flowmap(site, here, "schema").stdout)
    names = described["definitions"]["any-sampler"]["anyOf"][0]["enum"]
    assert {"good", "talking", "meddling", "heun"} <= set(names)
    assert not {"euler", "doubled"} & set(names)


def named(name: str) -> str:
    return edited(('samplers = ["flow_map"]', f'samplers = ["{name}"]'), ('stage = "student"', 'stage = "teacher"'))


def test_a_recipe_that_names_one_is_told_why_not(site: Path, here: Path) -> None:
    (here / "r.toml").write_text(named("spun"))
    text = flowmap(site, here, "check", "r.toml").stderr
    assert text.startswith("error: r.toml:28: evaluation.contests.0.samplers.0: unknown sampler 'spun'; ")
    for name, (_, reason) in BROKEN.items():
        assert reason is None or f"{name} from {name} 1.0: {reason}" in text
    for name, why in {
        "euler": "sampler 'euler' is registered by flowmap 0.1.0 and rival 1.0; uninstall one of them",
        "doubled": "sampler 'doubled' is registered twice by twice 1.0, which is a fault in it",
    }.items():
        (here / "r.toml").write_text(named(name))
        done = flowmap(site, here, "check", "r.toml")
        assert (done.returncode, done.stderr.endswith(f"samplers.0: {why}\n")) == (2, True)


def test_those_that_can_be_used_can_be_used(site: Path, here: Path) -> None:
    for name in ("good", "unsaid", "talking", "meddling"):
        (here / "r.toml").write_text(named(name))
        assert flowmap(site, here, "check", "r.toml").returncode == 0


@pytest.mark.slow
def test_one_that_hangs_is_given_its_time_and_no_more(tmp_path: Path, here: Path) -> None:
    for name, source in HANGING.items():
        installed(tmp_path, name, source)
    done = flowmap(tmp_path, here, "plugins", **SECONDS)
    late = {name: LATE.format(name) for name in HANGING}
    assert (done.returncode, rows(done)["broken"]) == (0, late | {"insisting": "OSError:"})
    (here / "r.toml").write_text(TINY)
    assert flowmap(tmp_path, here, "check", "r.toml", **SECONDS).stderr == ""
    (here / "r.toml").write_text(named("spun"))
    assert (
        f"spinning from spinning 1.0: {late['spinning']}"
        in flowmap(tmp_path, here, "check", "r.toml", **SECONDS).stderr
    )
    without = {"FLOWMAP_WITHOUT_PLUGINS": "sleepy, waiting,spinning,insisting"}  # and nobody waits
    assert rows(flowmap(tmp_path, here, "plugins", **without))["broken"] == dict.fromkeys(
        HANGING, "FLOWMAP_WITHOUT_PLUGINS leaves it out"
    )


def test_one_that_cannot_be_stopped_ends_the_command_aloud(tmp_path: Path, here: Path) -> None:
    source = "import time\nwhile True:\n    try: time.sleep(9)\n    except BaseException: pass"
    installed(tmp_path, "endless", source)
    done = flowmap(tmp_path, here, "schema", FLOWMAP_PLUGIN_SECONDS="0.1")
    told = (
        "error: the plugin endless of endless 1.0 does not end, and cannot be stopped; FLOWMAP_WITHOUT_PLUGINS=endless "
        "leaves it out\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


SETTING = """
import torch
torch.set_default_device("meta")
torch.set_grad_enabled(False)
mode = torch.inference_mode()
mode.__enter__()
torch.set_default_dtype(torch.float64)
torch.set_num_threads(torch.get_num_threads() + 1)
torch.set_float32_matmul_precision("medium")
torch.set_flush_denormal(True)
torch.use_deterministic_algorithms(True, warn_only=True)
torch.backends.mkldnn.enabled = False
torch.backends.cudnn.benchmark = True
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.enable_flash_sdp(False)
torch.manual_seed(1)
"""

SEEN = """
import torch
print(torch.get_default_device(), torch.is_grad_enabled(), torch.is_inference_mode_enabled())
print(torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision())
print(torch.tensor(1e-40) * 1 > 0, torch.are_deterministic_algorithms_enabled(), torch.backends.mkldnn.enabled)
print(torch.is_deterministic_algorithms_warn_only_enabled(), torch.backends.cudnn.benchmark)
print(torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cuda.flash_sdp_enabled())
print(torch.backends.cudnn.conv.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision)
print(torch.initial_seed() == 1, torch.rand(3, requires_grad=True).dtype)
"""


@pytest.mark.slow
def test_torch_is_as_it_was_when_it_had_just_been_imported(tmp_path: Path) -> None:
    installed(tmp_path, "setting", SETTING + sampler("setting"))
    installed(tmp_path, "trusting", "import torch" + sampler("trusting"))
    load = "from flowmap.plugin.catalogue import catalogue\nremarks = catalogue().remarks\n"
    told = "import sys\nprint([(r.entry_point, r.text) for r in remarks], file=sys.stderr)\n"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2"}
    plain, after, before = (
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        for code in (SEEN, load + SEEN + told, "import torch\n" + load + SEEN + told)
    )
    assert plain.stdout == after.stdout == before.stdout
    for done in (after, before):
        ((name, text),) = ast.literal_eval(done.stderr.splitlines()[-1])
        assert name == "setting"
        assert re.search(r"torch's settings \(([^)]*)\)", text)[1].split(", ") == [  # type: ignore[index]
            "backends.cuda.matmul.allow_tf32",
            "backends.cuda.matmul.fp32_precision",
            "backends.cudnn.allow_tf32",
            "backends.cudnn.benchmark",
            "backends.cudnn.conv.fp32_precision",
            "backends.cudnn.rnn.fp32_precision",
            "backends.mkldnn.enabled",
            "backends.mkldnn.matmul.fp32_precision",
            "default device",
            "default type",
            "denormal numbers",
            "deterministic algorithms",
            "flash attention",
            "gradients",
            "inference mode",
            "precision of float32 products",
            "random numbers",
            "threads",
        ]


@pytest.mark.parametrize("damage", [b"[flowmap.1.0]\n\xff = \xff\n", b"[flowmap.1.0]\nno entry\n"])
def test_entry_points_that_cannot_be_read(damage: bytes, tmp_path: Path, here: Path) -> None:
    installed(tmp_path, "damaged", "")
    installed(tmp_path, "good", sampler("good"))
    (tmp_path / "damaged-1.0.dist-info" / "entry_points.txt").write_bytes(damage)
    done = flowmap(tmp_path, here, "plugins")
    why = "its entry_points.txt cannot be read, and torch and pydantic read those of all packages: "
    assert rows(done)["broken"]["?"].startswith(why)
    assert rows(done)["sampler"]["good"] == "A stranger's."
    (here / "r.toml").write_text(TINY)
    done = flowmap(tmp_path, here, "check", "r.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: damaged 1.0 is damaged: {why}.*; uninstall it\n", done.stderr)


def test_an_entry_point_that_names_no_module(tmp_path: Path) -> None:
    installed(tmp_path, "nowhere", "")
    (tmp_path / "nowhere-1.0.dist-info" / "entry_points.txt").write_text(f"[{VERSIONED}]\nnowhere = :::\n")
    why = "ValueError: its entry point is ':::', and must be 'package.module' or 'module:object'"
    assert rows(flowmap(tmp_path, tmp_path, "plugins"))["broken"] == {"nowhere": why}


def test_the_kit_says_that_a_name_is_another_s_too(site: Path, here: Path) -> None:
    done = flowmap(site, here, "plugins", "check", "rival")
    why = "sampler 'euler' is registered by flowmap 0.1.0 and rival 1.0; uninstall one of them"
    assert (done.returncode, why in done.stderr, "All laws" in done.stdout) == (1, True, False)


def test_a_thread_that_goes_on_writes_where_no_result_is(tmp_path: Path, here: Path) -> None:
    installed(tmp_path, "before_it", sampler("before_it"))
    installed(tmp_path, "straying", STRAY + sampler("straying"))
    installed(tmp_path, "yet_another", sampler("yet_another"))
    done = flowmap(tmp_path, here, "plugins")
    assert rows(done)["remark"]["straying"] in (
        "its import changes threads (talker goes on): put back; what a component needs it sets in build()",
        "it prints when it is imported: from afar",
    )
    assert "yet_another" not in rows(done)["remark"]
    done = flowmap(tmp_path, here, "schema")
    assert json.loads(done.stdout)["title"]
    assert set(done.stderr.split("\n")) == {"from afar", ""}


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "inf"])
def test_a_limit_that_is_none(text: str, here: Path) -> None:
    done = flowmap(None, here, "plugins", FLOWMAP_PLUGIN_SECONDS=text)
    told = f"error: FLOWMAP_PLUGIN_SECONDS is '{text}', and must be a number of seconds above 0\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_the_kit_says_what_its_author_should_know(site: Path, here: Path) -> None:
    done = flowmap(site, here, "plugins", "check", "unsaid")
    assert f"remark: unsaid from unsaid 1.0: {REMARKS['unsaid'][1]}" in done.stdout


@pytest.mark.parametrize(
    ("group", "fits"),
    [
        ("flowmap", True),
        (VERSIONED, True),
        *((f"flowmap.{MAJOR}.{minor}", True) for minor in range(MINOR)),
        (f"flowmap.{MAJOR}.{MINOR + 9}", False),
        (f"flowmap.{MAJOR}.0{MINOR}", False),
        (f"flowmap.{MAJOR}", False),
        (f"flowmap.{MAJOR}.{MINOR}.0", False),
    ],
)
def test_which_versions_fit(group: str, fits: bool) -> None:
    assert (refusal(group, "x 1") == "") == fits


def test_of_several_versions_the_best_that_fits_is_taken(tmp_path: Path) -> None:
    """A distribution that works with several interfaces has its entry point in a group for each."""
    installed(tmp_path, "both", sampler("both"))
    meta = tmp_path / "both-1.0.dist-info" / "entry_points.txt"
    meta.write_text("".join(f"[flowmap.{v}]\nboth = both\n" for v in (OLDER, INTERFACE, NEWER, NEXT)))
    assert rows(flowmap(tmp_path, tmp_path, "plugins"))["sampler"]["both"] == "A stranger's."
    meta.write_text("".join(f"[flowmap.{v}]\nboth = both\n" for v in (OLDER, NEWER)))
    assert WRITTEN.format(NEWER) in rows(flowmap(tmp_path, tmp_path, "plugins"))["broken"]["both"]


def test_an_entry_point_s_group_is_where_it_says_so() -> None:
    """That a name in metadata may have dots and digits is what all of it rests on."""
    assert re.fullmatch(r"\w+(\.\w+)*", VERSIONED)
    assert EntryPoint("a", "a", VERSIONED).group == f"flowmap.{INTERFACE}"
