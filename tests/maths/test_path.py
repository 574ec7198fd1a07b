"""The path, the shift and the grids."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from flowmap.maths.path import draw_times, grid, like, noised, shifted
from flowmap.schema.settings import TimesConfig

from .support import whole

SHIFTS = st.floats(0.1, 20)
TIMES = st.floats(0, 1)


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@given(a=TIMES, s=SHIFTS)
def test_the_shift_is_undone_by_its_reciprocal(a: float, s: float) -> None:
    assert float(shifted(shifted(number(a), s), 1 / s)) == pytest.approx(a, abs=1e-9)


@given(a=TIMES, b=TIMES, s=SHIFTS)
def test_the_shift_keeps_the_order_of_times(a: float, b: float, s: float) -> None:
    assume(a + 1e-9 < b)
    assert shifted(number(a), s) < shifted(number(b), s)


@given(s=SHIFTS)
def test_the_shift_fixes_both_ends(s: float) -> None:
    assert float(shifted(number(0), s)) == 0
    assert float(shifted(number(1), s)) == pytest.approx(1, abs=1e-12)


@given(a=st.floats(0.01, 0.99), s=st.floats(1.01, 20))
def test_a_shift_above_one_moves_towards_noise(a: float, s: float) -> None:
    assert shifted(number(a), s) > a


def test_the_shift_of_wan_at_one_half() -> None:
    assert float(shifted(number(0.5), 5.0)) == pytest.approx(5 / 6)
    assert float(shifted(number(0.3), 1.0)) == pytest.approx(0.3)


@given(steps=st.integers(1, 200), s=SHIFTS)
@settings(max_examples=50)
def test_a_grid_falls_strictly_from_one_to_zero(steps: int, s: float) -> None:
    times = grid(steps, s)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float32
    assert times[0] == 1
    assert times[-1] == 0
    assert (times.diff() < 0).all()


def test_a_grid_is_the_shift_of_even_times() -> None:
    torch.testing.assert_close(grid(4), torch.tensor([1, 0.75, 0.5, 0.25, 0]))
    torch.testing.assert_close(grid(4, 5.0), torch.tensor([1, 15 / 16, 5 / 6, 5 / 8, 0]))


def test_the_path_runs_from_data_at_0_to_noise_at_1() -> None:
    x0, e = whole(3).normal("x0", (2, 4)), whole(3).normal("e", (2, 4))
    assert torch.equal(noised(x0, e, torch.zeros(3)), x0)
    assert torch.equal(noised(x0, e, torch.ones(3)), e)
    torch.testing.assert_close(noised(x0, e, torch.full((3,), 0.25)), 0.75 * x0 + 0.25 * e)


def test_the_paths_velocity_is_noise_minus_data() -> None:
    x0, e = whole(3).normal("x0", (2, 4)).double(), whole(3).normal("e", (2, 4)).double()
    t = torch.tensor([0.2, 0.5, 0.9]).double()
    _, v = torch.func.jvp(lambda t: noised(x0, e, t), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(v, e - x0)


def test_times_per_frame_noise_each_frame_by_its_own() -> None:
    x0, e = torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
    t = torch.rand(2, 3)
    x = noised(x0, e, t)
    assert torch.equal(x, t[:, :, None, None].expand_as(x))
    assert like(t, x0).shape == (2, 3, 1, 1)
    assert like(t[:, 0], x0).shape == (2, 1, 1, 1)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_uniform_times_are_shifted_uniforms(shift: float) -> None:
    t = draw_times(whole(20_000), TimesConfig(distribution="uniform", shift=shift)).double()
    assert kstest(shifted(t, 1 / shift).numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_logit_normal_times_have_the_configured_mean_and_spread(shift: float) -> None:
    config = TimesConfig(distribution="logit_normal", mean=-0.4, std=1.3, shift=shift)
    t = shifted(draw_times(whole(20_000), config).double(), 1 / shift)
    assert kstest(torch.logit(t).numpy(), norm(-0.4, 1.3).cdf).pvalue > 1e-3


def test_times_by_different_names_are_independent() -> None:
    a, b = (draw_times(whole(20_000), TimesConfig(), name) for name in ("times", "critic time"))
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4 / 20_000**0.5
