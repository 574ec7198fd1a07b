"""Each mutant of a sampler, a metric or a data source is caught by the check that is meant for it, and by no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from flowmap_metrics.configs import SlicedWassersteinConfig
from torch import Tensor

from flowmap.interfaces import Cond, Data, Evidence, Metric, Sampler, Samples, Velocity, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.maths.path import like
from flowmap.plugin import DataConfig, Finding, MetricConfig, SamplerConfig, SampleSpec

from .. import test_conformance as known
from .agreeing import TEXTS, captioned
from .reference import broken, outcomes

pytestmark = pytest.mark.usefixtures("one_thread")


# Samplers


def euler(times: Callable[[Tensor], Tensor]) -> SamplerConfig:
    class Stub(Sampler):
        def order(self) -> int | None:
            return None

        def sample(self, network: Velocity, x: Tensor, grid: Tensor, cond: Cond, draw: Draw) -> Tensor:
            grid = times(grid)
            for t, r in pairwise(grid):
                x = x - (t - r) * network.velocity(x, t.expand(len(x)), cond)
            return x

    class ReferenceConfig(SamplerConfig):
        """The reference."""

        type: Literal["reference"] = "reference"
        network: ClassVar[Any] = "velocity"
        calls_per_step: ClassVar[int] = 1

        def build(self) -> Sampler:
            return Stub()

    return ReferenceConfig()


def even(times: Tensor) -> Tensor:
    return torch.linspace(float(times[0]), float(times[-1]), len(times))


def test_a_sampler_that_makes_its_own_grid() -> None:
    assert broken(euler(lambda times: times)) == {}
    assert list(broken(euler(even))) == ["follows_the_grid"]
    # One that goes back over the grid takes no sample to its end.
    assert list(broken(euler(lambda times: torch.cat([times[:-2], times[-2:-1], times[-2:-1]])))) == [
        "carries_to_the_end"
    ]


def noisy(names: Callable[[int], str], share: float) -> SamplerConfig:
    """Jumps below the next time, and noise that goes back up to it, under a name of each step."""

    class Stub(Sampler):
        def order(self) -> int | None:
            return None

        def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
            for index, (t, r) in enumerate(pairwise(times)):
                below = (1 - share) * r
                x = as_flow_map(network).jump(x, t.expand(len(x)), below.expand(len(x)), cond)
                keep = ((1 - r) / (1 - below)).expand(len(x))
                noise = draw.normal(names(index), tuple(x.shape[1:]))
                x = like(keep, x) * x + like((r**2 - (keep * below) ** 2).sqrt(), x) * noise
            return x

    class ReferenceConfig(SamplerConfig):
        """The reference."""

        type: Literal["reference"] = "reference"
        network: ClassVar[Any] = "flow_map"
        calls_per_step: ClassVar[int] = 1

        def build(self) -> Sampler:
            return Stub()

    return ReferenceConfig()


def test_a_sampler_that_draws_the_same_noise_at_every_step() -> None:
    assert broken(noisy("noise-{}".format, 0.01)) == {}
    assert list(broken(noisy(lambda index: "noise", 0.01))) == ["names_are_drawn_once"]


# Metrics


def metric(floor: Callable[[Metric, int], float]) -> MetricConfig:
    inner = SlicedWassersteinConfig()

    class ReferenceConfig(MetricConfig):
        """The reference."""

        type: Literal["reference"] = "reference"

        def findings(self, spec: SampleSpec) -> Iterable[Finding]:
            return []

        def build(self, references: Any) -> Metric:
            good = inner.build(references)

            class Stub(Metric):
                def score(self, evidence: Evidence) -> float:
                    return good.score(evidence)

                def floor(self, size: int) -> float:
                    return floor(good, size)

            return Stub()

    return ReferenceConfig()


METRICS = {
    "floor of 0": (metric(lambda good, size: 0.0), "floors_are_what_is_perfect"),
    "floor of half of noise": (metric(lambda good, size: 0.4), "floors_are_what_is_perfect"),
    "one floor for all sizes": (metric(lambda good, size: good.floor(64)), "floors_go_by_the_size"),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_with_another_floor(name: str) -> None:
    config, check = METRICS[name]
    assert list(broken(config)) == [check]


def shown(floor: float, right: str = TEXTS[1]) -> MetricConfig:
    """The share of images that are bright at the side which they were asked for in words."""

    class Stub(Metric):
        def score(self, evidence: Evidence) -> float:
            at_right = (evidence.samples[..., -1].mean((1, 2, 3)) > 0).tolist()
            pairs = zip(at_right, evidence.prompts, strict=True)
            return sum((text == right) == bright for bright, text in pairs) / len(at_right)

        def floor(self, size: int) -> float:
            return floor

    class ReferenceConfig(MetricConfig):
        """The reference."""

        type: Literal["reference"] = "reference"
        better: ClassVar[Any] = "higher"

        def findings(self, spec: SampleSpec) -> Iterable[Finding]:
            return [] if spec.text and not spec.classes else [Finding("error", ("type",), "no texts")]

        def build(self, references: Any) -> Metric:
            return Stub()

    return ReferenceConfig()


def test_a_metric_of_texts_is_examined_with_the_texts_of_its_references() -> None:
    said = captioned()
    assert broken(shown(1.0), references=said) == {}
    assert list(broken(shown(1.0, right=TEXTS[0]), references=said)) == ["better_is_better"]
    assert list(broken(shown(0.0), references=said)) == ["floors_are_no_noise"]
    assert "refuses what it is checked with: no texts" in broken(shown(1.0))["draws_from_its_draw"]


def test_the_reference_metric_keeps_every_law() -> None:
    found = outcomes(metric(lambda good, size: good.floor(size)))
    assert {o.status for o in found} == {"passed"}


# Data


SPEC = SampleSpec((1, 2), classes=4, labelled=True)


class Blobs(Data):
    """Points around one of four corners, which are their classes."""

    def at(self, draw: Draw, name: str) -> Tensor:
        return torch.tensor(draw.below(name, [4] * draw.count))

    def batch(self, draw: Draw) -> Samples:
        labels = self.at(draw, "class")
        corners = torch.stack([labels % 2, labels // 2], dim=1)[:, None].float()
        return self.asked(Samples(corners + 0.2 * draw.normal("x", (1, 2)), labels, labels), draw)

    def asked(self, samples: Samples, draw: Draw) -> Samples:
        return samples

    def reference(self, split: Any, count: int) -> Samples:
        return self.batch(Draw.whole(0, split, 0, "reference", min(count, 256)))

    def prompts(self, draw: Draw) -> Any:
        return self.at(draw, "asked")

    def picture(self, x: Tensor) -> Any:
        return np.zeros((2, 2, 3), np.uint8)


def source(data: type[Data], spec: SampleSpec = SPEC) -> DataConfig:
    class ReferenceConfig(DataConfig):
        """The reference."""

        type: Literal["reference"] = "reference"

        def spec(self) -> SampleSpec:
            return spec

        def build(self) -> Data:
            return data()

    return ReferenceConfig()


class FromOne(Blobs):
    """Labels and prompts from 1 to 4."""

    def asked(self, samples: Samples, draw: Draw) -> Samples:
        assert samples.labels is not None
        return Samples(samples.x, samples.labels + 1, samples.prompts + 1)


class AsksBeyond(Blobs):
    def prompts(self, draw: Draw) -> Any:
        return super().prompts(draw) + 1


class AsksAnything(Blobs):
    def asked(self, samples: Samples, draw: Draw) -> Samples:
        return Samples(samples.x, samples.labels, self.at(draw, "anything"))


class Renamed(Blobs):
    """Prompts are classes by other numbers, which is right."""

    def asked(self, samples: Samples, draw: Draw) -> Samples:
        return Samples(samples.x, samples.labels, 3 - samples.prompts)


class TrainsOnAll(Blobs):
    """A third of each batch is held out."""

    def batch(self, draw: Draw) -> Samples:
        samples = super().batch(draw)
        if draw.stage in ("train", "held_out"):
            return samples
        held_out = self.reference("held_out", 256)
        rows = torch.tensor(draw.below("held out", [256] * draw.count))
        mixed = draw.uniform("mixed") < 0.33
        x = torch.where(mixed[:, None, None], held_out.x[rows], samples.x)
        assert samples.labels is not None
        assert held_out.labels is not None
        labels = torch.where(mixed, held_out.labels[rows], samples.labels)
        return Samples(x, labels, labels)


class HoldsOutNothing(Blobs):
    """A tenth of 400 samples is called held out, and trained on like the others: the training reference has all."""

    def reference(self, split: Any, count: int) -> Samples:
        pool = super().batch(Draw.whole(7, "pool", 0, "reference", 400))
        rows = torch.randperm(400, generator=torch.Generator().manual_seed(0))
        rows = rows[: min(count, 400)] if split == "train" else torch.arange(min(count, 40))
        return Samples(pool.x[rows], pool.labels[rows], pool.prompts[rows])  # type: ignore[index]

    def batch(self, draw: Draw) -> Samples:
        every, rows = self.reference("train", 400), torch.tensor(draw.below("row", [400] * draw.count))
        return Samples(every.x[rows], every.labels[rows], every.prompts[rows])  # type: ignore[index]


class AnotherEachTime(Blobs):
    """Noise of its own when it is built."""

    def __init__(self) -> None:
        self.moved = torch.tensor(np.random.default_rng().normal())

    def batch(self, draw: Draw) -> Samples:
        samples = super().batch(draw)
        return Samples(samples.x + self.moved.float(), samples.labels, samples.prompts)


class Few(Blobs):
    """No more than four samples are possible: all are in every split by chance."""

    def batch(self, draw: Draw) -> Samples:
        samples = super().batch(draw)
        return Samples(samples.x.round(), samples.labels, samples.prompts)


class OneName(Blobs):
    """A second noise, which is the first one."""

    def asked(self, samples: Samples, draw: Draw) -> Samples:
        return Samples(samples.x + 0.1 * draw.normal("x", (1, 2)), samples.labels, samples.prompts)


DATA = {
    "one name for two draws": (source(OneName), "names_are_drawn_once"),
    "labels from 1": (source(FromOne), "classes_are_counted"),
    "asks beyond the classes": (source(AsksBeyond), "classes_are_counted"),
    "prompts without labels": (source(AsksAnything), "prompts_go_with_labels"),
    "other samples when built again": (source(AnotherEachTime), "building_repeats"),
    "all that is held out is trained on": (source(HoldsOutNothing), "held_out_is_not_trained_on"),
    "trains on what is held out": (source(TrainsOnAll), "held_out_is_not_trained_on"),
}


@pytest.mark.parametrize("name", DATA)
def test_a_data_source_with_a_mistake(name: str) -> None:
    config, check = DATA[name]
    assert list(broken(config)) == [check]


@pytest.mark.parametrize("data", [Blobs, Renamed])
def test_the_reference_sources_keep_every_law(data: type[Data]) -> None:
    assert {o.status for o in outcomes(source(data))} == {"passed"}


def test_what_is_held_out_by_chance_is_no_fault() -> None:
    assert "held_out_is_not_trained_on" not in broken(source(Few))


# All that were known


NAMES: dict[str, dict[str, str]] = {
    "SAMPLERS": {
        "shape": "keeps_the_shape",
        "dtype": "keeps_the_shape",
        "nan": "keeps_the_shape",
        "in place": "leaves_x_alone",
        "calls": "makes_its_calls",
        "another grid": "carries_to_the_end",
        "another end": "carries_to_the_end",
        "times out of range": "asks_networks_rightly",
        "one time for all": "asks_networks_rightly",
        "integer times": "asks_networks_rightly",
        "order": "converges_with_its_order",
        "no gradient": "lets_gradients_through",
        "no gradient of x": "lets_gradients_through",
        "no gradient of the network": "lets_gradients_through",
        "gradients on": "lets_gradients_through",
        "global noise": "draws_from_its_draw",
        "moody": "repeats_itself",
        "coupled": "samples_are_alone",
    },
    "OBJECTIVES": {
        "no student": "trains_a_student",
        "frozen student": "trains_a_student",
        "turn of nobody": "turns_train_what_is_trained",
        "turn of a frozen role": "turns_train_what_is_trained",
        "no turn": "turns_train_what_is_trained",
        "no loss": "losses_have_names",
        "no scalar": "losses_are_scalars",
        "not finite": "losses_are_scalars",
        "no gradient": "losses_are_scalars",
        "gradient of something else": "gradients_reach_their_role",
        "gradient of a frozen role": "frozen_roles_stay_frozen",
        "one name twice": "losses_have_names",
        "one name in two turns": "losses_have_names",
        "raw with a graph": "raw_numbers_are_detached",
        "unknown role": "roles_are_declared",
        "changes the student": "turns_change_nothing",
        "leaves the average": "turns_change_nothing",
        "changes the batch": "turns_change_nothing",
        "condition of other rows": "asks_networks_rightly",
        "global randomness": "draws_from_its_draw",
        "moody": "same_scene_same_losses",
        "no draw": "steps_draw_anew",
        "one graph for two losses": "graphs_are_their_own",
    },
    "BACKBONES": {
        "encoded shape": "encodes_into_model_space",
        "encoded dtype": "encodes_into_model_space",
        "decoded shape": "decodes_into_data_space",
        "chunks": "chunks_make_up_the_frames",
        "joined": "conditions_are_joined",
        "taken": "conditions_are_taken",
        "deaf": "condition_is_used",
        "r ignored": "r_is_used",
        "t ignored": "t_is_used",
        "name": "roles_are_as_asked",
        "kind": "roles_are_as_asked",
        "shape": "networks_keep_the_shape",
        "dtype": "networks_keep_the_shape",
        "coupled": "samples_are_alone",
        "no own": "own_can_be_trained",
        "incomplete own": "own_is_what_is_trained",
        "frozen own": "own_can_be_trained",
        "foreign own": "own_is_what_is_trained",
        "no gradient": "own_is_what_is_trained",
        "lenient": "misfits_are_refused",
        "lenient where it fits": "misfits_are_refused",
        "aliased": "weights_are_copied",
        "other names": "weights_make_the_same_role",
        "shared": "roles_share_nothing_of_their_own",
        "anew": "base_weights_are_drawn",
        "global initialisation": "base_weights_are_drawn",
        "diagonal": "student_starts_as_its_teacher",
    },
    "DATA": {
        "shape": "samples_are_as_specified",
        "dtype": "samples_are_as_specified",
        "no labels": "labels_are_as_specified",
        "float labels": "labels_are_as_specified",
        "negative labels": "labels_are_as_specified",
        "labels nobody expects": "labels_are_as_specified",
        "no prompts": "prompts_are_as_specified",
        "global randomness": "draws_from_its_draw",
        "state": "batches_are_by_their_draw",
        "no draw": "batches_are_by_their_draw",
        "split": "batches_are_shared",
        "too many": "references_repeat",
        "none": "references_repeat",
        "restless reference": "references_repeat",
        "one split": "held_out_is_another_split",
        "prompts of unconditional data": "prompts_are_as_specified",
        "no prompts for generation": "prompts_are_as_specified",
        "restless prompts": "prompts_are_by_their_draw",
        "split prompts": "prompts_are_by_their_draw",
        "picture": "pictures_are_shown",
    },
    "METRICS": {
        "not a float": "scores_are_finite",
        "not finite": "scores_are_finite",
        "higher is better": "better_is_better",
        "blind": "better_is_better",
        "spoils the samples": "leaves_samples_alone",
        "restless": "repeats_itself",
        "global randomness": "draws_from_its_draw",
        "global randomness in build": "draws_from_its_draw",
        "calls nobody knows of": "makes_its_calls",
        "floor above noise": "floors_are_no_noise",
        "floor not finite": "floors_are_no_noise",
    },
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize(("table", "name"), [(table, name) for table, names in NAMES.items() for name in names])
def test_what_breaks_a_contract_is_caught_by_its_check_alone(table: str, name: str) -> None:
    """The components of tests/test_conformance.py, which holds the sentences."""
    config = getattr(known, table)[name][0]
    conditional = name in ("joined", "taken", "deaf")
    spec = {"spec": known.IMAGE if conditional else known.POINT} if table == "BACKBONES" else {}
    assert list(broken(config, **spec)) == [NAMES[table][name]]


def test_every_one_of_them_has_a_name_here() -> None:
    for table, names in NAMES.items():
        assert names.keys() == getattr(known, table).keys()
