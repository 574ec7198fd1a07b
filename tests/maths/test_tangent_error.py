"""How far differences are off: what is measured against closed forms and forward mode, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from flowmap_mlp.configs import MlpConfig
from torch import Tensor

from flowmap.interfaces import Cond, FlowMap, NoCond, Role
from flowmap.maths.draw import Draw
from flowmap.maths.path import like
from flowmap.networks.tangent import Difference, Question, observed, tangent, tangent_and, value_and_slope
from flowmap.plugin import SampleSpec
from flowmap.recipe.derivatives import TangentPlace
from flowmap.recipe.step_length import LIMIT, NAME
from flowmap.recipe.tables import ComputeConfig
from flowmap.schema.settings import TangentConfig
from flowmap.training.ledger import Ledger
from flowmap.training.processes import Processes
from flowmap.training.tangent_error import TangentError, due

from .support import Diary, NotedFlowMap


class Sinusoid(FlowMap):
    """u = sin(w t + phase), or of r: a difference over h is the derivative times sin(w h) / (w h), in all rows."""

    def __init__(self, w: float, of_r: bool = False, rounded: float = 0.0) -> None:
        self.w, self.of_r, self.rounded = w, of_r, rounded

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        time = like(r if self.of_r else t, x)
        u = (self.w * time + torch.arange(x.shape[-1]).to(x)).sin().expand_as(x)
        return (u / self.rounded).round() * self.rounded if self.rounded else u


def times(frames: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """x, t, r in float64, of 64 samples of two frames with t and r well inside."""
    torch.manual_seed(0)
    shape = (64, 2) if frames else (64,)
    t, r = 0.6 + 0.2 * torch.rand(shape).double(), 0.2 + 0.2 * torch.rand(shape).double()
    return torch.zeros(64, 2, 5).double(), t, r


def meter(ledger: Ledger | None = None, mixed: bool = False, jvp: bool = True, **config: object) -> TangentError:
    place = TangentPlace(("tangent",), TangentConfig.model_validate(config), jvp)
    processes = Processes(ComputeConfig(device="cpu"))
    return TangentError([place], "stages.forward.objective", mixed, processes, ledger or Ledger())


def measured(
    network: FlowMap, of_r: bool = False, frames: bool = False, mixed: bool = False, **config: object
) -> tuple[float | None, tuple[str, ...]]:
    """What is measured of one derivative of `network`, and said of it."""
    x, t, r = times(frames)
    error, how = meter(mixed=mixed, **config), TangentConfig.model_validate(config)
    with error.measuring(1):
        if of_r:
            value_and_slope(network, Question(x, t, r, NoCond()), torch.arange(40), how)
        else:
            tangent(network, x, t, r, torch.zeros_like(x), NoCond(), how)
    found, doubts = error.take()
    return found.get(NAME), doubts


BOTH = pytest.mark.parametrize("of_r", [False, True], ids=["in t", "in r, with gradient"])


@BOTH
@pytest.mark.parametrize("frames", [False, True], ids=["per sample", "per frame"])
@pytest.mark.parametrize("radians", [0.05, 0.15, 0.3, 0.5])
def test_the_measured_error_is_that_of_the_closed_form(of_r: bool, frames: bool, radians: float) -> None:
    found, doubts = measured(Sinusoid(radians / 0.005, of_r), of_r, frames)
    assert found == pytest.approx(1 - math.sin(radians) / radians, rel=0.04)
    assert doubts == ()


@BOTH
@pytest.mark.parametrize("radians", [0.9, 1.5, 3.0, 5.0, 8.0])
def test_past_the_limit_it_is_past_the_limit(of_r: bool, radians: float) -> None:
    found, _ = measured(Sinusoid(radians / 0.005, of_r), of_r)
    assert found is not None
    assert found > LIMIT
    assert abs(1 - math.sin(radians) / radians) > LIMIT


@pytest.mark.parametrize(
    ("network", "config", "said"),
    [
        pytest.param(
            Sinusoid(1000.0),
            {},
            "a derivative by a difference over stages.forward.objective.tangent.step = 0.005 is 119 % off the one over "
            "0.00031 (which is 1.6 % off): the network changes faster than the step, and learns from its derivative "
            "averaged over 0.01 of time; 0.00031 is its own, which may train worse (`flowmap docs "
            "derivatives`)",
            id="too long",
        ),
        pytest.param(
            Sinusoid(3.0, rounded=0.01),
            {"step": 0.003},
            "a derivative by a difference over stages.forward.objective.tangent.step = 0.003 is 32 % off the one over "
            "0.096 (which is 3.1 % off): shorter differences are mostly rounding; set "
            "stages.forward.objective.tangent.step = 0.096",
            id="too short",
        ),
        pytest.param(
            Sinusoid(100.0, rounded=0.3),
            {},
            "a derivative by a difference over stages.forward.objective.tangent.step = 0.005 is about 49 % off, and of "
            "all steps from 2e-05 to 0.08 the best, 0.01, is 29 % off; the network's own takes "
            "stages.forward.objective.tangent.method = 'jvp' or compute.precision = 'no' (`flowmap docs "
            "derivatives`)",
            id="none is right",
        ),
    ],
)
def test_what_is_said_of_a_bad_length(network: FlowMap, config: dict[str, object], said: str) -> None:
    assert measured(network, mixed=True, **config)[1] == (said,)


def test_a_length_that_a_better_one_confirms_is_not_doubted() -> None:
    """The rounding of the half as long difference is twice as large: the estimate is past the limit, the error not."""
    found, doubts = measured(Sinusoid(3.0, rounded=0.004), step=0.01)
    assert found is not None
    assert found > LIMIT
    assert doubts == ()


def test_forward_mode_is_not_advised_where_it_cannot_be() -> None:
    x, t, r = times()
    error = meter(jvp=False, mixed=False)
    with error.measuring(1):
        tangent(Sinusoid(100.0, rounded=0.3), x, t, r, x, NoCond(), TangentConfig())
    (doubt,) = error.take()[1]
    assert doubt.endswith("the best, 0.01, is 29 % off")


def test_it_is_said_once_and_again_if_it_is_twice_as_bad() -> None:
    x, t, r = times()
    error, said = meter(), []
    for update, w in ((1, 200.0), (10, 220.0), (100, 200.0), (200, 400.0), (300, 400.0)):
        with error.measuring(update):
            tangent(Sinusoid(w), x, t, r, x, NoCond(), TangentConfig())
        said.append(len(error.take()[1]))
    assert said == [1, 0, 0, 1, 0]


def test_when_it_is_measured() -> None:
    assert [update for update in range(1, 301) if due(update)] == [1, 10, 100, 200, 300]
    x, t, r = times()
    error, diary = meter(), Diary()
    for update in (2, 9, 11, 99, 101):
        with error.measuring(update):
            tangent(NotedFlowMap(Sinusoid(10.0), diary), x, t, r, x, NoCond(), TangentConfig())
        assert error.take() == ({}, ())
    assert diary.calls == 5


def test_several_differences_are_one_number_and_the_next_step_starts_anew() -> None:
    x, t, r = times()
    error = meter()
    with error.measuring(1):
        for w in (60.0, 20.0):
            tangent(Sinusoid(w), x, t, r, x, NoCond(), TangentConfig())
    together = error.take()[0][NAME]
    wrong = [(1 - math.sin(w * 0.005) / (w * 0.005)) * w for w in (60.0, 20.0)]
    assert together == pytest.approx(math.hypot(*wrong) / math.hypot(60.0, 20.0), rel=0.04)
    assert error.take() == ({}, ())


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_what_does_not_change_or_is_no_number_has_no_error(value: float) -> None:
    class Constant(FlowMap):
        def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
            return torch.full_like(x, value)

    assert measured(Constant()) == (None, ())


def test_nothing_is_measured_of_forward_mode_or_of_no_rows() -> None:
    x, t, r = times()
    diary = Diary()
    network = NotedFlowMap(Sinusoid(1000.0), diary)
    jvp, central, none = TangentConfig(method="jvp"), TangentConfig(), torch.arange(0)
    error = meter()
    with error.measuring(1):
        tangent(network, x, t, r, x, NoCond(), jvp)
        value_and_slope(network, Question(x, t, r, NoCond()), torch.arange(3), jvp)
        tangent(network, x[:0], t[:0], r[:0], x[:0], NoCond(), central)
        value_and_slope(network, Question(x, t, r, NoCond()), none, jvp)
        value_and_slope(network, Question(x, t, r, NoCond()), none, central)
    assert error.take() == ({}, ())
    assert diary.calls == 4


@BOTH
@pytest.mark.parametrize("batched", [True, False])
def test_what_is_measured_leaves_no_trace(of_r: bool, batched: bool) -> None:
    """Neither in the ledger nor in what is computed; and only the rows of the derivative are asked for again."""
    x, t, r = times()
    ledger, config = Ledger(), TangentConfig(batched=batched)
    module = torch.nn.Module()
    role = Role("student", Sinusoid(1000.0, of_r), module, {})
    network = ledger.watch([role], ["student"])["student"].network
    assert isinstance(network, FlowMap)

    def once() -> list[Tensor]:
        at = Question(x, t, r, NoCond())
        if of_r:
            return list(value_and_slope(network, at, torch.arange(7), config))
        part = Question(x[:7], t[:7], r[:7], NoCond())
        return list(tangent_and(network, part, x[:7], config, at))

    plain, counted = once(), ledger.take()
    error = meter(ledger)
    with error.measuring(1):
        watched = once()
    assert ledger.take() == counted
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert error.take()[0][NAME] > 1


def test_the_observer_asks_for_the_same_rows_over_another_length_without_gradient() -> None:
    x, t, r = times()
    diary, seen = Diary(), list[Difference]()
    network = NotedFlowMap(Sinusoid(3.0), diary)

    def look(difference: Difference) -> None:
        seen.append(difference)
        assert not torch.is_grad_enabled()
        difference.again(0.001)

    with observed(look):
        r = r.requires_grad_()
        _, slope = value_and_slope(network, Question(x, t, r, NoCond()), torch.tensor([5, 2]), TangentConfig())
    assert slope.requires_grad
    assert [len(rows) for rows in diary.x] == [64 + 4, 4]
    rows = r.detach()[[5, 2]]
    torch.testing.assert_close(diary.r[1], torch.cat([rows + 0.001, rows - 0.001]))
    assert diary.grad == [True, False]
    assert not seen[0].value.requires_grad
    tangent(network, x, t, r, x, NoCond(), TangentConfig())
    assert len(seen) == 1


def test_forward_mode_is_not_shown_even_without_rows() -> None:
    x, t, r = times()
    seen, jvp = list[Difference](), TangentConfig(method="jvp")
    with observed(seen.append):
        tangent(Sinusoid(3.0), x, t, r, x, NoCond(), jvp)
        value_and_slope(Sinusoid(3.0), Question(x, t, r, NoCond()), torch.arange(0), jvp)
    assert seen == []


# --- forward mode as the oracle


def check_agreement_with_forward_mode(network: FlowMap, x: Tensor, cond: Cond, steps: list[float]) -> None:
    """Where the error is small, the estimate is the error against forward mode."""
    torch.manual_seed(1)
    t, r = 0.5 + 0.3 * torch.rand(len(x)).double(), 0.1 + 0.3 * torch.rand(len(x)).double()
    v = torch.randn_like(x)
    truth = tangent(network, x, t, r, v, cond, TangentConfig(method="jvp"))
    for step in steps:
        error = meter(step=step)
        with error.measuring(1):
            ours = tangent(network, x, t, r, v, cond, TangentConfig(step=step))
        off = float((ours - truth).norm() / truth.norm())
        assert 1e-5 < off < LIMIT
        assert error.take()[0][NAME] == pytest.approx(off, rel=0.1)


def shaken(role: Role, by: float) -> Role:
    """With weights that are not 0, in float64."""
    role.module.double()
    with torch.no_grad():
        for parameter in role.own.values():
            parameter.add_(by * torch.randn_like(parameter))
    return role


def flow_map_of(build: Callable[[], Role], by: float) -> FlowMap:
    torch.manual_seed(0)
    network = shaken(build(), by).network
    assert isinstance(network, FlowMap)
    return network


def test_of_an_mlp_the_measured_error_is_that_against_forward_mode() -> None:
    backbone = MlpConfig(width=16, depth=2).build(SampleSpec((1, 4)))
    network = flow_map_of(lambda: backbone.role("student", "flow_map", None, Draw.whole(0, "base", 0, "", 1)), 0.2)
    check_agreement_with_forward_mode(network, torch.randn(8, 1, 4).double(), NoCond(), [0.01, 0.005, 0.002])
