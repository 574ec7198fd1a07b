"""The conformance kit: one function per kind of component, which tests that yours keeps its contract.

    from flowmap.testing import check_sampler

    def test_my_sampler():
        check_sampler(MySamplerConfig())

Each takes a configuration, builds the component, uses it as flowmap does, and raises AssertionError with a
sentence that says which part of the contract is broken. All run on the CPU, without files, in about a second.
"""

from flowmap.testing.backbones import check_backbone
from flowmap.testing.contract import check_config
from flowmap.testing.data import check_data
from flowmap.testing.features import check_features
from flowmap.testing.metrics import check_metric
from flowmap.testing.objectives import check_objective
from flowmap.testing.samplers import check_sampler

__all__ = [
    "check_backbone",
    "check_config",
    "check_data",
    "check_features",
    "check_metric",
    "check_objective",
    "check_sampler",
]
