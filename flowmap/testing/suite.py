"""The kit in a test module of your own: `from flowmap.testing.suite import *`, and a class for each component.

    class Mine(Requirements):
        config = MyBackboneConfig()
        spec = SampleSpec((1, 3, 32, 32), classes=10)
        has_jvp = False
        expected = {"times_are_not_rounded": "released so: its times are rounded to bfloat16"}

pytest then has a test for each check of each such class, by its name: `test_law[my_backbone-r_is_used]`. One that is
expected to fail must fail. Needs pytest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from flowmap.interfaces import References, Samples
from flowmap.plugin.kinds import ComponentConfig, DataConfig
from flowmap.schema.specs import SampleSpec
from flowmap.testing.capabilities import NAMES, Capabilities
from flowmap.testing.examination import Case, Examination
from flowmap.testing.kit import examination
from flowmap.testing.referenced import references_of

__all__ = ["Requirements", "pytest_generate_tests", "test_law"]


class Requirements:
    """What is examined, and what it can do; a subclass sets what it has.

    Beside these attributes it may have any of `Capabilities`, True or False; those that are left out are found out.
    `samples` are what a backbone encodes, and `references` what a metric or features are built with: those of `data`,
    if that is given, and else images `[1, 1, 8, 8]` of two classes. `expected` are the checks that are known to fail,
    each with the reason.
    """

    config: ClassVar[ComponentConfig]
    spec: ClassVar[SampleSpec | None] = None
    samples: ClassVar[Samples | None] = None
    references: ClassVar[References | None] = None
    data: ClassVar[DataConfig | None] = None
    expected: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def examination(cls) -> Examination:
        """The checks of it. Raises TypeError for an attribute that is neither of these nor a capability."""
        known = {*vars(Requirements), *Requirements.__annotations__, *NAMES}
        strange = [name for name in vars(cls) if not name.startswith("_") and name not in known]
        if strange:
            raise TypeError(f"{cls.__name__}.{strange[0]} is no capability; these are: {', '.join(NAMES)}")
        references = cls.references if cls.data is None else references_of(cls.data)
        told = {name: getattr(cls, name) for name in NAMES if hasattr(cls, name)}
        return examination(cls.config, cls.spec, cls.samples, references, replace(Capabilities(), **told), cls.expected)


def pytest_generate_tests(metafunc: Any) -> None:
    """A test for each check of each class of the module that this is imported into."""
    if "law_case" in metafunc.fixturenames:
        found = [value for value in vars(metafunc.module).values() if _is_one(value)]
        metafunc.parametrize("law_case", _parameters([one.examination() for one in found]))


def _is_one(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Requirements) and hasattr(value, "config")


def test_law(law_case: Case) -> None:
    """One check of one component."""
    run(law_case)


def parametrize_with_checks(examinations: Sequence[Examination], argument: str = "case") -> Any:
    """A decorator of a test, which gets each check of each component as `argument`, to be given to `run`."""
    return pytest.mark.parametrize(argument, _parameters(examinations))


def run(case: Case) -> None:
    """Run a check within a test: skips what does not apply, fails with a sentence."""
    outcome = case.outcome()
    if outcome.status in ("not applicable", "not run"):
        pytest.skip(outcome.sentence)
    if outcome.status == "expected":
        pytest.xfail(outcome.sentence)
    case()


def _parameters(examinations: Sequence[Examination]) -> list[Any]:
    return [pytest.param(case, id=repr(case)) for one in examinations for case in one.cases()]
