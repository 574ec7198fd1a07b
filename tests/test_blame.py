"""Errors of a stranger's plugin after its import: one line with the place, and a file with the traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowmap.plugin.blame import blamed
from flowmap.plugin.catalogue import catalogue

from .conftest import TINY, edited
from .installing import flowmap, installed

FAULTY = """
import sys
from collections.abc import Callable
from typing import Literal
from pydantic import model_validator
from flowmap.plugin import BackboneConfig, ObjectiveConfig, RoleSpec, hookimpl

class FaultyConfig(ObjectiveConfig):
    '''Fails where it is asked to.'''
    type: Literal["faulty"] = "faulty"
    where: str = "nowhere"

    def fail(self, where):
        if where == self.where:
            raise ValueError(f"no luck\\nin {where}")

    @model_validator(mode="after")
    def _check(self):
        if self.where == "validator":
            raise KeyError("no luck")
        return self

    def roles(self):
        self.fail("roles")
        return {"student": RoleSpec("velocity", True, "learns")}

    def findings(self, facts):
        self.fail("findings")
        return ()

    def build(self):
        self.fail("build")
        if self.where == "exit":
            sys.exit("enough")
        from flowmap.interfaces import Objective, Turn

        class Faulty(Objective):
            def turns(inner):
                return (Turn("student", inner.losses),)

            def losses(inner, scene):
                yield scene.velocity("student").no_such_method()

        return Faulty()

class LookingConfig(BackboneConfig):
    '''Fails on weights that are not its own.'''
    type: Literal["looking"] = "looking"
    where: Callable[[], int] = lambda: 1

    @classmethod
    def of_weights(cls, weights):
        raise ValueError("what is this?")
    def findings(self, spec):
        return []
    def build(self, spec):
        raise NotImplementedError

@hookimpl
def flowmap_components():
    return [FaultyConfig, LookingConfig]
"""
LINES = FAULTY.splitlines()


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(LINES, 1) if text in line)


WHERE = {
    "validator": ("check", "KeyError: 'no luck'", 'KeyError("no luck")', "FaultyConfig._check"),
    "findings": ("check", "ValueError: no luck in findings", "raise ValueError(f", "FaultyConfig.fail"),
    "roles": ("check", "ValueError: no luck in roles", "raise ValueError(f", "FaultyConfig.fail"),
    "build": ("plan", "ValueError: no luck in build", "raise ValueError(f", "FaultyConfig.fail"),
    "exit": ("plan", "SystemExit: enough", "sys.exit(", "FaultyConfig.build"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site-packages")
    installed(folder, "faulty", FAULTY)
    return folder


def naming(where: str) -> str:
    return edited(('"flow_matching"', f'{{ type = "faulty", where = "{where}" }}'))


@pytest.mark.parametrize("where", WHERE)
def test_an_error_of_a_plugin_is_a_line_with_its_place(where: str, site: Path, here: Path) -> None:
    (here / "r.toml").write_text(naming(where))
    command, reason, line, name = WHERE[where]
    done = flowmap(site, here, command, "r.toml", TMPDIR=str(here))
    told = re.fullmatch(r"error: (.*); its traceback is in (\S*/flowmap-\w+\.txt)\n", done.stderr)
    assert told is not None, done.stderr
    assert told[1] == f"objective 'faulty' from faulty 1.0 failed: {reason} (faulty.py:{line_of(line)}, in {name})"
    written = Path(told[2]).read_text()
    assert written.startswith("Traceback (most recent call last):")
    assert f'faulty.py", line {line_of(line)}, in ' in written
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.slow
def test_of_a_run_the_traceback_is_in_its_log(site: Path, here: Path) -> None:
    (here / "r.toml").write_text(naming("losses"))
    done = flowmap(site, here, "run", "r.toml", "--set", "compute.device='cpu'", TMPDIR=str(here))
    reason = r"AttributeError: .* 'no_such_method' \(faulty.py:\d+, in FaultyConfig.build.<locals>.Faulty.losses\)"
    words = rf"error: the plugin faulty 1.0 failed: {reason}; its traceback is in runs/tiny/flowmap.log\n"
    assert re.search(rf"(?m)^{words}", done.stderr), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "Traceback" in (here / "runs/tiny/flowmap.log").read_text()
    assert done.returncode == 1
    assert not list(here.glob("flowmap-*"))


def test_weights_that_another_knows_are_known(site: Path, here: Path) -> None:
    """The faulty plugin is asked too, and fails; who finds nobody is told of it."""
    (here / "weights").mkdir()
    (here / "weights" / "a.txt").touch()
    (here / "r.toml").write_text(edited(('teacher = "teacher"', 'teacher = "./weights"')))
    text = flowmap(site, here, "check", "r.toml").stderr
    assert "looking (failed: ValueError: what is this?)" in text
    (here / "r.toml").write_text(edited(('teacher = "teacher"', 'teacher = "black-forest-labs/FLUX.1-dev"')))
    without, beside = (flowmap(where, here, "check", "r.toml") for where in (None, site))
    assert (without.returncode, without.stdout, without.stderr) == (beside.returncode, beside.stdout, beside.stderr)


def test_a_schema_describes_what_can_be(site: Path, here: Path) -> None:
    done = flowmap(site, here, "schema")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"faulty"' in done.stdout
    assert '"looking"' not in done.stdout


def test_an_error_of_ours_is_no_plugin_s() -> None:
    config = catalogue().find("objective", "flow_map").model_validate({"type": "flow_map"})
    with pytest.raises(AttributeError) as caught:
        config.no_such_method()  # type: ignore[attr-defined]
    assert blamed(caught.value, catalogue()) is None


def test_every_other_exit_is_what_it_was(site: Path, here: Path) -> None:
    (here / "r.toml").write_text(TINY)
    assert flowmap(site, here, "check", "r.toml").returncode == 0
    assert flowmap(site, here, "chekc", "r.toml").returncode == 2
