"""The conformance kit: named checks, each of which proves one law of `docs/laws.md`.

In a test module of your own, every check is a test:

    from flowmap.testing.suite import *

    class Mine(Requirements):
        config = MySamplerConfig()

Or all at once, which raises AssertionError with a sentence for each law that is broken:

    from flowmap.testing import check_sampler

    check_sampler(MySamplerConfig())

Each builds the component from its configuration and uses it as flowmap does, on the CPU.
"""

from flowmap.testing.capabilities import Capabilities
from flowmap.testing.check import Check
from flowmap.testing.configurations import check_config
from flowmap.testing.examination import Case, Examination, Outcome
from flowmap.testing.kit import CHECKS, cases, checks_of, examination
from flowmap.testing.plain import (
    check_backbone,
    check_data,
    check_features,
    check_metric,
    check_objective,
    check_sampler,
)

__all__ = [
    "CHECKS",
    "Capabilities",
    "Case",
    "Check",
    "Examination",
    "Outcome",
    "cases",
    "check_backbone",
    "check_config",
    "check_data",
    "check_features",
    "check_metric",
    "check_objective",
    "check_sampler",
    "checks_of",
    "examination",
]
