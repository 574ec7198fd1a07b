"""Counter-based randomness, and the pairs of times drawn with it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from flowmap_flow.configs import FlowMapConfig
from flowmap_flow.forward import ForwardFlowMap
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare, kstest
from torch import Tensor

from flowmap.interfaces import Batch, OneChunk, Scene, World
from flowmap.maths.draw import Draw
from flowmap.maths.pairs import BRANCHES, Pairs, draw_pairs, per_branch
from flowmap.maths.path import shifted
from flowmap.maths.philox import generator, stream
from flowmap.schema.settings import BranchesConfig, uniform_times

from .support import Rows, analytic_role, whole

COUNT = 20_000
LIMIT = 4 / math.sqrt(COUNT)
FROZEN = {
    "uniform": [0.6977770924568176, 0.14143186807632446, 0.9988204836845398],
    "normal": [
        [0.4264380931854248, 0.800746738910675],
        [-0.31902721524238586, -0.87142413854599],
        [-2.045050859451294, -0.10064233094453812],
    ],
    "shared": [531, 564, 494, 489],
}
UNIFORM = uniform_times()
SHARES = BranchesConfig(diffusion=0.5, consistency=0.25)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


def windows(draw: Draw, counts: list[int]) -> list[Draw]:
    """The draws of processes that hold `counts` samples each, in order."""
    firsts = np.cumsum([0, *counts[:-1]])
    return [draw.part(int(first), count) for first, count in zip(firsts, counts, strict=True)]


SPLITS = st.lists(st.integers(1, 5), min_size=1, max_size=5)
SHAPES = st.sampled_from([(), (1,), (3,), (8,), (9,), (2, 3), (1, 1, 8, 8)])


def test_uniform_numbers_are_uniform() -> None:
    assert kstest(whole(COUNT).uniform("u").numpy(), "uniform").pvalue > 1e-3
    assert kstest(whole(100).uniform("u", (200,)).flatten().numpy(), "uniform").pvalue > 1e-3


def test_normal_numbers_are_normal() -> None:
    assert kstest(whole(COUNT).normal("n").numpy(), "norm").pvalue > 1e-3
    assert kstest(whole(100).normal("n", (201,)).flatten().numpy(), "norm").pvalue > 1e-3


def test_normal_numbers_have_tails() -> None:
    """The fourth moment is 3, and 6 in 100 000 lie beyond four standard deviations."""
    x = whole(1000).normal("n", (1000,)).double()
    assert x.pow(4).mean() == pytest.approx(3, abs=4 * math.sqrt(96 / 1e6))
    beyond = int((x.abs() > 4).sum())
    assert binomtest(beyond, x.numel(), math.erfc(4 / math.sqrt(2))).pvalue > 1e-3


@pytest.mark.parametrize("word", [0, 1, 511, 512, 2**32 - 512, 2**32 - 1])
def test_no_random_word_is_a_zero_a_one_or_infinite(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extremes, which no sample would show: 0 < u < 1, and |n| below seven."""

    def bits(draw: Draw, name: str, size: int) -> np.ndarray:
        return np.full((draw.count, size), word, dtype=np.uint32)

    monkeypatch.setattr(Draw, "_bits", bits)
    u, n = whole(2).uniform("u"), whole(2).normal("n", (2,))
    assert u.min() > 0
    assert u.max() < 1
    assert n.isfinite().all()
    assert n.abs().max() < 7


def test_one_address_always_has_the_same_numbers() -> None:
    """Frozen, as runs are resumed across versions: a change here changes every run."""
    draw = Draw.whole(7, "student", 41, "0-student", 3)
    torch.testing.assert_close(draw.uniform("a"), torch.tensor(FROZEN["uniform"]), rtol=0, atol=0)
    torch.testing.assert_close(draw.normal("e", (2,)), torch.tensor(FROZEN["normal"]), rtol=1e-5, atol=1e-6)
    assert draw.shared("segments").integers(1000, size=4).tolist() == FROZEN["shared"]
    assert torch.equal(draw.uniform("a"), draw.uniform("a"))


@pytest.mark.parametrize("bound", [1, 2, 3, 10, 1000])
def test_integers_below_a_bound_are_all_as_likely(bound: int) -> None:
    drawn = whole(COUNT).below("i", [bound] * COUNT)
    counts = np.bincount(drawn, minlength=bound)
    assert len(counts) == bound
    assert bound == 1 or chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("bound", [1_600_001, 10**7, 10**10, 2**64])
def test_every_integer_below_a_large_bound_can_be_drawn_and_none_more_often(
    bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first and the last word that give k tell how many do: as many as any other's, to one of them."""
    words: list[int] = []

    def bits(draw: Draw, name: str, size: int) -> np.ndarray:
        assert size == 2
        return np.array([[word >> 32, word & 0xFFFFFFFF] for word in words], dtype=np.uint32)

    monkeypatch.setattr(Draw, "_bits", bits)
    for k in (0, 1, bound // 3, bound - 2, bound - 1):
        first, after = -(-(k << 64) // bound), -(-((k + 1) << 64) // bound)
        words[:] = [first, after - 1]
        assert whole(2).below("i", [bound] * 2) == [k, k]
        assert abs((after - first) * bound / 2**64 - 1) <= bound / 2**64


def test_integers_have_bounds_of_their_own_and_do_not_depend_on_the_parts() -> None:
    draw, bounds = whole(500), [1 + i % 7 for i in range(500)]
    drawn = draw.below("i", bounds)
    assert all(0 <= k < bound for k, bound in zip(drawn, bounds, strict=True))
    assert drawn == draw.part(0, 123).below("i", bounds[:123]) + draw.part(123, 377).below("i", bounds[123:])
    assert drawn != draw.below("j", bounds)
    with pytest.raises(ValueError, match="500 samples need as many bounds, not 499"):
        draw.below("i", bounds[1:])


def test_numbers_of_one_name_share_nothing_if_they_differ_in_kind_or_shape() -> None:
    draw = whole(64)
    flat = {
        "8": draw.normal("n", (8,)),
        "16": draw.normal("n", (16,)),
        "2 x 8": draw.normal("n", (2, 8)),
        "uniform": draw.uniform("n", (8,)),
        "named": draw.normal("n/8", (8,)),
    }
    found = [set(numbers.flatten().tolist()) for numbers in flat.values()]
    for index, numbers in enumerate(found):
        # Of 2^23 values a few may come up twice by chance; of a shared stream all do.
        assert all(len(numbers & other) < 8 for other in found[index + 1 :])


def test_shapes_are_count_by_shape_in_float32() -> None:
    for shape in ((), (1,), (2, 3), (1, 1, 8, 8)):
        for numbers in (whole(3).uniform("x", shape), whole(3).normal("x", shape)):
            assert numbers.shape == (3, *shape)
            assert numbers.dtype == torch.float32
            assert numbers.is_contiguous()


ADDRESSES = {
    "name": lambda: whole(COUNT).uniform("other"),
    "step": lambda: whole(COUNT, step=1).uniform("u"),
    "seed": lambda: whole(COUNT, seed=1).uniform("u"),
    "turn": lambda: whole(COUNT, turn="other").uniform("u"),
    "stage": lambda: replace(whole(COUNT), stage="other").uniform("u"),
    "child": lambda: whole(COUNT).child("part").uniform("u"),
}


@pytest.mark.parametrize("part", list(ADDRESSES))
def test_another_address_has_independent_numbers(part: str) -> None:
    ours, other = whole(COUNT).uniform("u"), ADDRESSES[part]()
    assert abs(correlation(ours, other)) < LIMIT
    assert (ours == other).float().mean() < 1e-3


def test_parts_of_an_address_do_not_run_together() -> None:
    """("ab", "c") is not ("a", "bc")."""
    one, two = replace(whole(4), stage="ab", turn="c"), replace(whole(4), stage="a", turn="bc")
    seeds = Draw.whole(1, "s", 11, "t", 4), Draw.whole(11, "s", 1, "t", 4)
    assert not torch.equal(one.uniform("u"), two.uniform("u"))
    assert not torch.equal(seeds[0].uniform("u"), seeds[1].uniform("u"))
    assert not torch.equal(whole(4, turn="a").child("b").uniform("u"), whole(4, turn="b").child("a").uniform("u"))


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_samples_and_positions_are_independent(kind: str) -> None:
    x = getattr(whole(COUNT), kind)("x", (6,)).double()
    assert abs(correlation(x[1:], x[:-1])) < LIMIT
    assert (torch.corrcoef(x.T) - torch.eye(6)).abs().max() < LIMIT
    # Box-Muller makes pairs from one radius: their squares must be uncorrelated too.
    assert (torch.corrcoef(x.T.square()) - torch.eye(6)).abs().max() < LIMIT


@given(counts=SPLITS, shape=SHAPES)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_numbers_do_not_depend_on_how_processes_share_the_batch(counts: list[int], shape: tuple[int, ...]) -> None:
    draw = whole(sum(counts))
    for kind in ("uniform", "normal"):
        parts = [getattr(window, kind)("x", shape) for window in windows(draw, counts)]
        assert torch.equal(torch.cat(parts), getattr(draw, kind)("x", shape))


def test_shared_numbers_are_the_same_in_every_process() -> None:
    one, two = windows(whole(8), [3, 5])
    assert one.shared("x").random() == two.shared("x").random()
    assert one.shared("x").random() != one.shared("y").random()


@pytest.mark.parametrize("total", [4, 8, 32])
def test_whole_shares_come_out_exactly(total: int) -> None:
    for step in range(50):
        counts = torch.bincount(draw_pairs(whole(total, step), SHARES, UNIFORM).branch, minlength=3)
        assert counts.tolist() == [total // 2, total // 4, total // 4]


@given(
    total=st.integers(1, 40),
    diffusion=st.floats(0, 1),
    rest=st.floats(0, 1),
    step=st.integers(0, 100),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_share_comes_out_within_one_sample(total: int, diffusion: float, rest: float, step: int) -> None:
    config = BranchesConfig(diffusion=diffusion, consistency=rest * (1 - diffusion))
    counts = torch.bincount(draw_pairs(whole(total, step), config, UNIFORM).branch, minlength=3).tolist()
    shares = (config.diffusion, config.consistency, 1 - config.diffusion - config.consistency)
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - share * total) < 1 + 1e-6


@pytest.mark.parametrize(("diffusion", "consistency", "only"), [(1, 0, 0), (0, 1, 1), (0, 0, 2)])
def test_a_share_of_one_takes_every_sample(diffusion: float, consistency: float, only: int) -> None:
    config = BranchesConfig(diffusion=diffusion, consistency=consistency)
    for step in range(50):
        assert (draw_pairs(whole(5, step), config, UNIFORM).branch == only).all()


@pytest.mark.parametrize("total", [1, 3])
def test_in_a_small_batch_branches_come_up_with_their_probabilities(total: int) -> None:
    steps = 3000
    seen = Counter(int(draw_pairs(whole(total, step), SHARES, UNIFORM).branch[0]) for step in range(steps))
    assert chisquare([seen[i] for i in range(3)], [steps * share for share in (0.5, 0.25, 0.25)]).pvalue > 1e-3


def test_no_branch_is_tied_to_a_position() -> None:
    steps = 1000
    branch = torch.stack([draw_pairs(whole(8, step), SHARES, UNIFORM).branch for step in range(steps)])
    for position in branch.T:
        counts = torch.bincount(position, minlength=3).numpy()
        assert chisquare(counts, [steps / 2, steps / 4, steps / 4]).pvalue > 1e-4


def test_branches_are_not_tied_to_the_times() -> None:
    pairs = draw_pairs(whole(COUNT), SHARES, UNIFORM)
    means = [float(pairs.t[pairs.branch == i].mean()) for i in range(3)]
    assert means == pytest.approx([2 / 3] * 3, abs=5 * math.sqrt(1 / 18 / (COUNT / 4)))


@given(counts=SPLITS, step=st.integers(0, 20))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_pairs_do_not_depend_on_how_processes_share_the_batch(counts: list[int], step: int) -> None:
    draw = whole(sum(counts), step)
    parts = [draw_pairs(window, SHARES, uniform_times(5.0)) for window in windows(draw, counts)]
    all_at_once = draw_pairs(draw, SHARES, uniform_times(5.0))
    for name in ("t", "r", "branch"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(all_at_once, name))


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_each_branch_has_its_times(shift: float) -> None:
    pairs: Pairs = draw_pairs(whole(1000), SHARES, uniform_times(shift))
    diffusion, consistency, free = (pairs.branch == i for i in range(3))
    assert torch.equal(pairs.r[diffusion], pairs.t[diffusion])
    assert (pairs.r[consistency] == 0).all()
    assert (pairs.r[free] > 0).all()
    assert (pairs.r[~diffusion] < pairs.t[~diffusion]).all()
    assert pairs.t.min() > 0
    assert pairs.t.max() < 1


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_times_are_the_larger_and_the_smaller_of_two_uniforms_then_shifted(shift: float) -> None:
    """P(max < a) = a^2 and P(min < a) = 1 - (1 - a)^2, once the shift is undone."""
    pairs = draw_pairs(whole(COUNT), BranchesConfig(diffusion=0, consistency=0), uniform_times(shift))
    t, r = (shifted(times.double(), 1 / shift).numpy() for times in (pairs.t, pairs.r))
    assert kstest(t, lambda a: a**2).pvalue > 1e-3
    assert kstest(r, lambda a: 1 - (1 - a) ** 2).pvalue > 1e-3
    assert correlation(torch.from_numpy(t), torch.from_numpy(r)) == pytest.approx(0.5, abs=2 * LIMIT)


def test_the_shift_is_applied_after_the_branches() -> None:
    plain, moved = (draw_pairs(whole(100), SHARES, uniform_times(shift)) for shift in (1.0, 5.0))
    assert torch.equal(plain.branch, moved.branch)
    torch.testing.assert_close(moved.t, 5 * plain.t / (1 + 4 * plain.t))
    torch.testing.assert_close(moved.r, 5 * plain.r / (1 + 4 * plain.r))


def test_losses_are_logged_with_their_branch() -> None:
    t = torch.ones(4)
    found = per_branch(torch.tensor([1.0, 5.0, 2.0, 6.0]), Pairs(t, t, torch.tensor([0, 2, 0, 2])))
    assert tuple(found) == BRANCHES == ("diffusion", "consistency", "free")
    assert {name: losses.tolist() for name, losses in found.items()} == {
        "diffusion": [1.0, 2.0],
        "consistency": [],
        "free": [5.0, 6.0],
    }


# --- split over processes and micro-batches

SPLIT = pytest.mark.parametrize(
    ("total", "processes", "micro"),
    [(8, 2, 4), (8, 2, 1), (8, 1, 2), (12, 3, 2), (6, 2, 3), (2, 2, 1), (5, 5, 1), (24, 4, 3), (7, 1, 7)],
)


def split(draw: Draw, processes: int, micro: int) -> list[list[Draw]]:
    """What each process takes in each micro-batch: `[micro-batch][process]`."""
    parts = [draw.split(processes, process, micro) for process in range(processes)]
    return [list(of_all) for of_all in zip(*parts, strict=True)]


@SPLIT
def test_processes_and_micro_batches_share_the_batch_out(total: int, processes: int, micro: int) -> None:
    for step in range(10):
        rows: list[int] = []
        for of_all in split(whole(total, step), processes, micro):
            for part in of_all:
                assert (part.total, part.count) == (total, micro)
                assert list(part.rows) == sorted(part.rows)
                rows += part.rows
            assert all(sorted(part.peers) == sorted(row for p in of_all for row in p.rows) for part in of_all)
        assert sorted(rows) == list(range(total))


@SPLIT
def test_a_part_has_the_numbers_of_its_samples(total: int, processes: int, micro: int) -> None:
    draw = whole(total, step=3)
    for part in (part for of_all in split(draw, processes, micro) for part in of_all):
        rows = torch.tensor(part.rows)
        for kind in ("uniform", "normal"):
            assert torch.equal(getattr(part, kind)("x", (3,)), getattr(draw, kind)("x", (3,))[rows])
            assert torch.equal(getattr(part.child("a"), kind)("x"), getattr(draw.child("a"), kind)("x")[rows])
        ours, all_at_once = draw_pairs(part, SHARES, uniform_times(5.0)), draw_pairs(draw, SHARES, uniform_times(5.0))
        for name in ("t", "r", "branch"):
            assert torch.equal(getattr(ours, name), getattr(all_at_once, name)[rows])
        assert part.shared("x").random() == draw.shared("x").random()


@pytest.mark.parametrize(("total", "processes", "micro"), [(8, 3, 1), (8, 2, 3), (2, 4, 1), (8, 1, 16)])
def test_a_batch_that_cannot_be_shared_out(total: int, processes: int, micro: int) -> None:
    with pytest.raises(ValueError, match=f"{total} samples are not whole micro-batches of {processes} x {micro}"):
        whole(total).split(processes, 0, micro)


@SPLIT
@pytest.mark.parametrize("turn", ["turn", "turn/forward"])
def test_samples_with_r_equal_to_t_come_first(total: int, processes: int, micro: int, turn: str) -> None:
    """Rebalancing needs their mean before the first other sample. So also in a child of the turn, as co-training is."""
    for step in range(20):
        seen = 0
        for of_all in split(whole(total, step), processes, micro):
            branch = torch.cat([draw_pairs(replace(part, turn=turn), SHARES, UNIFORM).branch for part in of_all])
            assert branch.min() >= seen
            seen = int(branch.max())


@SPLIT
def test_every_process_has_its_share_of_every_branch(total: int, processes: int, micro: int) -> None:
    """To within one sample, in each micro-batch."""
    for step in range(20):
        for of_all in split(whole(total, step), processes, micro):
            counts = torch.stack([torch.bincount(draw_pairs(p, SHARES, UNIFORM).branch, minlength=3) for p in of_all])
            assert (counts.amax(0) - counts.amin(0)).max() <= 1


@pytest.mark.parametrize(("total", "micro"), [(2, 1), (6, 3), (6, 1)])
def test_no_branch_is_tied_to_a_process(total: int, micro: int) -> None:
    """Where a branch cannot be halved, either process has the odd sample equally often."""
    more = torch.zeros(3, 2, dtype=torch.int64)
    for step in range(500):
        draw = whole(total, step)
        branch = draw_pairs(draw, SHARES, UNIFORM).branch
        rows = ([row for part in draw.split(2, process, micro) for row in part.rows] for process in range(2))
        first, second = (torch.bincount(branch[mine], minlength=3) for mine in rows)
        more += torch.stack([first > second, second > first], 1)
    for one, other in more.tolist():
        assert one + other > 100
        assert binomtest(one, one + other).pvalue > 1e-3


@SPLIT
@pytest.mark.parametrize("diffusion", [0.25, 0.5, 1.0])
def test_all_processes_agree_whether_there_is_a_derivative_to_take(
    total: int, processes: int, micro: int, diffusion: float
) -> None:
    """A process without any sample of r < t asks for a row of r = t, if and only if another has such a sample."""
    company = 0
    for step in range(20):
        for of_all in split(whole(total, step), processes, micro):
            pairs = [draw_pairs(part, BranchesConfig(diffusion=diffusion, consistency=0), UNIFORM) for part in of_all]
            own = [(p.r < p.t).nonzero().flatten() for p in pairs]
            anywhere = any(len(rows) for rows in own)
            for p, rows in zip(pairs, own, strict=True):
                if len(rows) or not anywhere:
                    assert p.moving().tolist() == rows.tolist()
                else:
                    assert p.moving().tolist() == [0]
                    company += 1
    if total == processes and processes > 1 and diffusion < 1:
        assert company
    if processes == 1 or diffusion == 1:
        assert not company


@pytest.mark.parametrize("micro", [1, 2, 3, 4, 6])
def test_rebalanced_parts_add_up_to_the_rebalanced_batch(micro: int) -> None:
    """The r = t samples come first, and the world remembers their losses from micro-batch to micro-batch."""

    def gradient_and_loss(draw: Draw, size: int) -> tuple[Tensor, Tensor]:
        student = analytic_role("student", torch.tensor([[0.3, -0.2], [0.5, 0.1]]), torch.tensor([0.2]))
        objective = FlowMapConfig(rebalance=True).build()
        assert isinstance(objective, ForwardFlowMap)
        parts, world, total = draw.split(1, 0, size), World(), torch.zeros(())
        for part in parts:
            x0, cond = part.normal("x0", (2, 2, 1, 1)), Rows(torch.zeros(size, 1))
            scene = Scene({"student": student}, Batch(x0, cond, cond), part, OneChunk(), world)
            loss = objective.loss(scene, part.normal("noise", (2, 2, 1, 1)), draw_pairs(part, SHARES, UNIFORM))
            (loss.value / len(parts)).backward()
            total += loss.value.detach() / len(parts)
        assert student.own["W"].grad is not None
        return student.own["W"].grad, total

    whole_batch, in_parts = gradient_and_loss(whole(12), 12), gradient_and_loss(whole(12), micro)
    torch.testing.assert_close(in_parts, whole_batch)


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**62), st.integers(1, 5), st.integers(1, 4))
def test_a_stream_is_numpys_at_any_place(key: int, first: int, count: int, blocks: int) -> None:
    words = key % 2**64, key >> 64
    fresh = np.random.Philox(key=key, counter=first * blocks).random_raw(count * blocks * 4)
    assert stream(words, first, count, blocks).tobytes() == fresh.tobytes()
    assert generator(words).random(3).tolist() == np.random.Generator(np.random.Philox(key=key)).random(3).tolist()
