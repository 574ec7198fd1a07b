"""What a component raises while it is examined is said with its place, and pytest gets the traceback."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowmap.testing import examination

from .reference import IMAGE, VIDEO, WIDTH, Clip, Network, broken, reference
from .test_sampler_mutants import jumps

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]


class NoRowForTheNull(Network):
    def __init__(self, channels: int, two_times: bool) -> None:
        super().__init__(channels, two_times)
        self.label = nn.Embedding(VIDEO.classes, WIDTH)


class Misnamed(Network):
    def labelled(self, cond: Clip) -> Tensor:
        return self.labels(cond.labels)  # type: ignore[operator,no-any-return]


class Asserts(Network):
    def labelled(self, cond: Clip) -> Tensor:
        assert cond.labels.dtype == torch.int32
        return super().labelled(cond)


def test_an_embedding_without_a_row_for_the_null_label_is_told_as_such() -> None:
    found = broken(reference(network=NoRowForTheNull), spec=IMAGE)
    assert list(found) == ["null_is_answered"]
    assert re.search(
        r"under the null condition .*: IndexError: index out of range in self "
        r"\(tests/kit/reference\.py:\d+, in Network\.labelled\); has its embedding of labels a row for the null label",
        found["null_is_answered"],
    )


@pytest.mark.parametrize(
    ("network", "said"),
    [(Misnamed, "AttributeError: 'Misnamed' object has no attribute 'labels'"), (Asserts, "AssertionError: ")],
)
def test_an_error_has_its_place_and_its_traceback(network: type[Network], said: str) -> None:
    one = examination(reference(network=network), spec=IMAGE)
    cases = {case.name: case for case in one.cases()}
    with pytest.raises(AssertionError) as caught:
        cases["networks_keep_the_shape"]()
    told = str(caught.value)
    assert "'reference' cannot be asked whether it keeps the law 'networks_keep_the_shape'" in told
    place = rf"\(tests/kit/test_component_errors\.py:\d+, in {network.__name__}\.labelled\)"
    assert re.search(re.escape(said) + ".*" + place, told)
    cause = caught.value.__cause__
    assert type(cause).__name__ in said
    assert cause is not None
    assert cause.__traceback__ is not None


def test_an_assertion_of_a_sampler_is_no_sentence_of_the_networks() -> None:
    def asserts(call: int, cond: Any, count: int) -> Any:
        assert count < 0
        return cond

    said = broken(jumps(asserts))["asks_networks_rightly"]
    assert re.search(r"AssertionError: .*\(tests/kit/test_component_errors\.py:\d+, in .*asserts\)", said)
