"""`python -m tests.gpu`: the order, the time, what a crash loses, and its small form on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from flowmap.plugin.version import VERSIONED
from tests.gpu import installed
from tests.gpu.items import entries
from tests.gpu.planned import STEPS, measured
from tests.gpu.schedule import OUTPUT, RESULTS, TABLE, Item, run

FACTS = {"device": "a device", "PyTorch": "2.11.0"}
HERE = dict(os.environ)


def item(name: str, code: str, seconds: float = 1.0) -> Item:
    return Item(name, f"what {name} is", (sys.executable, "-c", code), seconds)


def test_what_crashes_loses_nothing_and_is_told(tmp_path: Path) -> None:
    crashing = "import os, signal; print('  a number  1.5 s', flush=True); os.kill(os.getpid(), signal.SIGSEGV)"
    items = [
        item("first", "print('  one  1 s'); print('no number'); print('  some peak | memory  3.2 GiB')"),
        item("killed", crashing),
        item("raising", "raise MemoryError('out of memory')"),
        item("absent", "import nothing_of_this_name"),
        item("last", "print('  one  2 s')"),
    ]
    said: list[str] = []
    found = run(items, 100, tmp_path, FACTS, HERE, said.append)
    assert [result.outcome for result in found] == ["passed", "failed", "failed", "failed", "passed"]
    assert found[0].numbers == [("one", "1 s"), ("some peak | memory", "3.2 GiB")]
    assert found[1].numbers == [("a number", "1.5 s")]
    assert "exit code -11" in found[1].why
    assert "MemoryError: out of memory" in found[2].why
    assert "No module named 'nothing_of_this_name'" in found[3].why
    told = json.loads((tmp_path / RESULTS).read_text())
    assert told["facts"] == FACTS
    assert [result["name"] for result in told["results"]] == [item.name for item in items]
    table = (tmp_path / TABLE).read_text()
    assert table.startswith("device a device; PyTorch 2.11.0\n")
    assert "| first: what first is | one: 1 s<br>some peak / memory: 3.2 GiB |" in table
    assert "a number: 1.5 s<br>**failed**: exit code -11" in table
    output = (tmp_path / OUTPUT).read_text()
    assert (
        output.index("# first: ") < output.index("no number") < output.index("# raising: ") < output.index("Traceback")
    )
    assert said[0].startswith("first: about 1 s, until ")


def test_every_result_is_written_before_the_next_item_begins(tmp_path: Path) -> None:
    count = f"import json; print('  so far ', len(json.load(open({str(tmp_path / RESULTS)!r}))['results']))"
    found = run([item("first", "pass"), item("second", count), item("third", count)], 100, tmp_path, FACTS, HERE)
    assert [result.numbers for result in found] == [[("said", "nothing")], [("so far", "1")], [("so far", "2")]]


@pytest.mark.slow
def test_what_does_not_fit_is_skipped_and_what_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.gpu.schedule._LEAST", 1.0)
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLOW!r}, {str(tmp_path / 'late')!r}])"
    items = [
        item("long", "pass", seconds=101),
        item("slow", f"print('  begun  yes', flush=True); {child}", seconds=0.2),
        item("short", "pass"),
    ]
    found = run(items, 100, tmp_path, FACTS, HERE)
    assert [result.outcome for result in found] == ["skipped", "out of time", "passed"]
    assert found[0].why.startswith("takes about 1.7 min, and 1.7 min were left")
    assert found[1].numbers == [("begun", "yes")]
    # With what it has started.
    subprocess.run([sys.executable, "-c", "import time; time.sleep(2)"], check=True)
    assert not (tmp_path / "late").exists()


SLOW = "import sys, time; time.sleep(2.5); open(sys.argv[1], 'w')"


def test_the_whole_time_is_a_limit_too(tmp_path: Path) -> None:
    found = run([item("slow", "import time; time.sleep(60)"), item("later", "pass")], 1.5, tmp_path, FACTS, HERE)
    assert [result.outcome for result in found] == ["out of time", "skipped"]
    assert sum(result.seconds for result in found) < 20


def test_all_items_have_names_of_their_own_and_a_plan_is_of_steps_that_are_measured(tmp_path: Path) -> None:
    names = [entry.name for entry in entries(installed.TREE, tmp_path, tmp_path)]
    assert len(set(names)) == len(names)
    assert set(STEPS) <= set(names)
    assert max(map(names.index, STEPS)) < names.index("plan")
    assert len([entry for entry in entries(installed.TREE, tmp_path, tmp_path) if entry.on(False)]) > 8
    numbers = [["a step", "5.5 s (mean of 3)"], ["peak memory", "16.000 GiB"]]
    results = [{"name": "step-1.3b-forward", "numbers": numbers}, {"name": "device", "numbers": [["peak", "1 TFLOP"]]}]
    (tmp_path / RESULTS).write_text(json.dumps({"results": results}))
    assert measured(tmp_path / RESULTS) == {"step-1.3b-forward": pytest.approx(17.18, abs=0.01)}
    assert measured(tmp_path / "nothing") == {}


def test_a_copy_of_the_tree_has_its_plugins_without_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installed, "version", absent)
    path = os.pathsep.join(installed.paths(tmp_path))
    code = f"from importlib.metadata import entry_points as e; print(sorted(p.value for p in e(group='{VERSIONED}')))"
    told = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert "'flowmap_wan'" in told.stdout
    assert told.stdout.count("flowmap_") == 12


@pytest.mark.slow
def test_its_small_form_runs_on_a_cpu(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "tests.gpu", "--small", "--minutes", "30", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=installed.TREE, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "An accelerator would run, in this order:" in done.stdout
    assert "step-14b-far-on_policy" in done.stdout
    results = json.loads((tmp_path / "out" / RESULTS).read_text())["results"]
    assert {result["outcome"] for result in results} == {"passed"}
    told = {result["name"]: dict(result["numbers"]) for result in results}
    assert float(told["attention"]["dense mask, float32: output off by"]) < 1e-6
    assert "a step" in told["step-1.3b-far-on_policy"]
    assert "a step" in told["compile-1.3b-forward"]
