"""The kit in a stranger's test module: a test for each law, strict expectations, capabilities that are known."""

from __future__ import annotations

import subprocess
import sys

import pytest
from flowmap_samplers.configs import EulerConfig, HeunConfig

from flowmap.testing import cases, checks_of, examination
from flowmap.testing.suite import Requirements

from .reference import IMAGE, outcomes, reference
from .test_backbone_mutants import BACKBONES

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]

MODULE = """
from flowmap_samplers.configs import EulerConfig, HeunConfig
from flowmap_mlp.configs import MlpConfig


from flowmap.plugin import SampleSpec
from flowmap.testing.suite import *


class Euler(Requirements):
    config = EulerConfig()


class Small(Requirements):
    config = MlpConfig(width=8, depth=1)
    spec = SampleSpec((1, 1, 4, 4), classes=3)
    has_jvp = False
    expected = {expected}
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of two such modules, of which the second expects what does not come about."""
    folder = tmp_path_factory.mktemp("strangers")
    (folder / "test_mine.py").write_text(MODULE.replace("{expected}", "{}"))
    (folder / "test_waits.py").write_text(MODULE.replace("{expected}", '{"r_is_used": "not yet"}'))
    words = ("-m", "pytest", "-v", "-rA", "-p", "no:cacheprovider", "-W", "ignore")
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_a_module_with_two_components_has_a_test_for_each_law(said: str) -> None:
    for name in ("euler-follows_the_grid", "mlp-r_is_used"):
        assert f"test_mine.py::test_law[{name}] PASSED" in said
    assert "test_mine.py::test_law[mlp-default_step_is_short_enough] SKIPPED" in said
    assert said.count("test_mine.py::test_law[euler-") >= len(checks_of("sampler"))


def test_an_expectation_that_passes_fails_and_nothing_else(said: str) -> None:
    failed = [line for line in said.splitlines() if line.startswith("FAILED ")]
    assert [line.split()[1] for line in failed] == ["test_waits.py::test_law[mlp-r_is_used]"]
    assert "keeps the law 'r_is_used', which was expected to fail (not yet); take that expectation out" in said


def test_a_law_that_is_expected_to_fail_may_and_must() -> None:
    config = BACKBONES["integer times"][0]
    reason = {"times_are_not_rounded": "released so"}
    by_name = {o.check.name: o for o in examination(config, spec=IMAGE, expected=reason).outcomes()}
    assert by_name["times_are_not_rounded"].status == "expected"
    assert by_name["times_are_not_rounded"].sentence.startswith("released so (a velocity role of 'reference' must")
    assert by_name["derivatives_go_through_times"].status == "not run"
    assert not [o for o in by_name.values() if o.status == "failed"]
    found = examination(reference(), spec=IMAGE, expected=reason).outcomes()
    assert [o.check.name for o in found if o.status == "failed"] == ["times_are_not_rounded"]


def test_names_that_nobody_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown check of a sampler 'follow_the_grid'.* Did you mean 'follows_the_g"):
        examination(EulerConfig(), expected={"follow_the_grid": "no"})

    class Mine(Requirements):
        config = HeunConfig()
        has_jpv = True

    with pytest.raises(TypeError, match=r"Mine.has_jpv is no capability; these are: conditional, causal"):
        Mine.examination()
    with pytest.raises(TypeError, match="is examined on samples: give their `spec`"):
        examination(reference())


def test_checks_are_called_by_name_without_pytest() -> None:
    named = {case.name: case for case in cases(EulerConfig())}
    named["follows_the_grid"]()
    broken = {case.name: case for case in cases(BACKBONES["r ignored"][0], spec=IMAGE)}
    with pytest.raises(AssertionError, match="must depend on r"):
        broken["r_is_used"]()
    broken["t_is_used"]()
    assert (
        broken["r_is_used"].law
        == "A flow map depends on r, unless its configuration says that it has one time: then not at all."
    )


def test_what_a_stranger_s_code_raises_is_a_sentence() -> None:
    class Sick(EulerConfig):
        """Broken."""

        def build(self) -> object:
            raise ZeroDivisionError("of my own")

    (found,) = [o for o in outcomes(Sick()) if o.status == "failed"]
    assert found.check.name == "draws_from_its_draw"
    assert found.sentence.startswith(
        "'euler' cannot be asked whether it keeps the law 'draws_from_its_draw' (Random numbers come from the "
        "sampler's draw alone, and building it draws none): ZeroDivisionError: of my own (tests/kit/test_suite.py:"
    )
