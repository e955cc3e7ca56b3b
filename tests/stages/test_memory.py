"""At the paper's scale logits, soft labels and features do not fit in memory: what stages hold does not grow with the
number of samples, but for a few bytes of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.peak import anonymous_peak
from support.stores import write_store
from support.tiny import tiny_config

from cfvid import parts
from cfvid.artifacts import Record
from cfvid.clustering import passes
from cfvid.clustering.methods.base import Pool
from cfvid.clustering.methods.distillation import distillation
from cfvid.clustering.projection import Projection
from cfvid.clustering.streaming_engine import StreamingEngine
from cfvid.data.loader import Batch
from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.data.sample_ids import SampleIds
from cfvid.evaluation import nearest
from cfvid.features import FeatureStore
from cfvid.stages import Run, frozen, trained
from cfvid.stages.cluster import KIND as CLUSTER_KIND
from cfvid.stages.cluster import build_engine
from cfvid.stages.estimate import _stability
from cfvid.stages.evaluations import Candidate, Evaluation, Target
from cfvid.stages.soft_labels import SOFT_NAME, map_soft_labels, write_soft_labels
from cfvid.training.targets import SoftTargets

NUM, TIMES = 6_000, 4
"""Samples, and how many times as many the second time."""
NUM_CLASSES = 1_000
SMALL_GROWTH = 15 * 2**20
"""Of the peak, from the one to the other: logits of all samples would take 72 MB more, and copies of them."""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are as much smaller than real ones as the arrays are."""
    monkeypatch.setattr(parts, "MOST_VALUES", 2**18)
    monkeypatch.setattr(nearest, "_SIMILARITIES_AT_ONCE", 2**18)
    monkeypatch.setattr(passes, "_BLOCK_BYTES", 2**20)


def growth_of(work: Callable[[Any], Any], prepare: Callable[[int], Any] = lambda num: num) -> int:
    """By how many bytes the peak grows with the number of samples.

    Args:
        work: is looked at; takes what `prepare` gives.
        prepare: is not; takes the number of samples.
    """
    work(prepare(NUM // 4))  # what is loaded once
    peaks = []
    for num in (NUM, TIMES * NUM):
        prepared = prepare(num)
        with anonymous_peak() as peak:
            work(prepared)
        peaks.append(peak.bytes)
    return peaks[1] - peaks[0]


def manifest(num: int, split: str) -> Manifest:
    names = [f"{split}{n:06d}" for n in range(num)]
    labels = [(f"class {n % NUM_CLASSES:04d}",) for n in range(num)]
    return from_samples(
        [Sample(name, name, "/nowhere", label, split, None, None) for name, label in zip(names, labels, strict=True)]
    )


def evaluation(run: Run, protocol: str, num: int) -> Evaluation:
    candidate = Candidate("random", "random-seed0", None, "", run.config.pretrain.arch, 0)
    target = Target("target", manifest(NUM_CLASSES, "train"), manifest(num, "val"))
    return Evaluation(target, candidate, protocol, 0, run.folder / "home")


@pytest.mark.parametrize("protocol", ["finetune", "heads"])
def test_scoring_a_trained_network_does_not_hold_its_logits(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """450,000 samples of 9,000 classes have 15 GB of logits."""
    linear = {"layers": ["layer1"]} if protocol == "heads" else {}
    run = Run(tiny_config(tmp_path, transfer__linear=linear), tmp_path / "run")
    num_outputs = NUM_CLASSES * (1 + len(linear))

    def logits_of_batches(*args: Any, **_: Any) -> Iterator[tuple[list[str], np.ndarray]]:
        ids, rng = args[2], np.random.default_rng(0)
        for first in range(0, len(ids), 50):
            some = list(ids[first : first + 50])
            yield some, rng.standard_normal((len(some), 1, num_outputs), dtype=np.float32)

    monkeypatch.setattr(trained, "fit", lambda *_, **__: None)
    monkeypatch.setattr(trained, "forward_views", logits_of_batches)
    protocols = {"finetune": trained.finetune, "heads": trained.heads}

    def score(one: Evaluation) -> None:
        outcome = protocols[protocol](run, one)
        assert len(outcome.ids) == outcome.predictions.num_rows == len(one.target.val)
        assert 0 <= outcome.scores["top1"] < outcome.scores["top5"] < 5

    assert growth_of(score, lambda num: evaluation(run, protocol, num)) < SMALL_GROWTH


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_scoring_frozen_features_holds_a_block_of_logits(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"transfer__linear": {"penalties": [1.0], "max_iterations": 2}}
    run = Run(tiny_config(tmp_path, **changes), tmp_path / "run")
    dim = 64

    stores: list[FeatureStore] = []
    monkeypatch.setattr(frozen, "store_features", lambda *_: stores)
    monkeypatch.setattr(frozen, "feature_dims", lambda *_: [dim])

    def prepare(num: int) -> Evaluation:
        one = evaluation(run, protocol, num)
        splits = {"train": one.target.train, "val": one.target.val}
        stores[:] = [write_store(tmp_path / f"{name}{num}", [*split.ids], 1, dim) for name, split in splits.items()]
        return one

    def score(one: Evaluation) -> None:
        outcome = {"knn": frozen.knn, "linear": frozen.linear}[protocol](run, one)
        assert outcome.predictions.num_rows == len(one.target.val)

    assert growth_of(score, prepare) < SMALL_GROWTH


def test_distillation_holds_neither_features_nor_soft_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million samples of 2,048 classes have 8 GB of soft labels, and classes as many: they are made and written a row
    group at a time, mapped by the processes that train, and read by the batch."""
    monkeypatch.setattr(parts, "MOST_VALUES", 2**20)
    num_classes, dim = 3_000, 32
    head = (np.eye(num_classes, dim, dtype=np.float32), np.zeros(num_classes, np.float32))
    config = tiny_config(tmp_path, cluster__method="distillation", cluster__engine="streaming").cluster

    def learn(num: int) -> None:
        folder = tmp_path / str(num)
        ids = SampleIds([f"s{n:06d}" for n in range(num)])
        store = write_store(folder / "extract", [*ids], dim)
        points_NP = np.lib.format.open_memmap(folder / "points.npy", "w+", np.float32, (num, dim))
        engine, projection = StreamingEngine(), Projection(l2_normalize=True)
        for rows in parts.parts(num, dim):
            points_NP[rows] = projection.transform(store.part(rows))
        found = distillation(Pool(ids, points_NP, engine, config, 0, {}, features=store.part, head=head))
        assert found.soft is not None
        write_soft_labels(folder / SOFT_NAME, ids, found.soft)
        record = Record.write(folder, kind=CLUSTER_KIND, inputs={}, files=[SOFT_NAME])
        soft = map_soft_labels(folder, record, ids, folder, all_alike=True)
        assert soft is not None
        targets = SoftTargets(ids, soft.classes_NT, soft.shares_NT, num_classes=soft.num_classes)
        views = torch.empty(50, 1)
        for first in range(0, num, 1000):
            batch = Batch([*ids[first : first + 50]], views, [0] * 50)
            target = targets.examples(views, batch).target
            torch.testing.assert_close(target.sum(1), torch.ones(50), rtol=0, atol=1e-4)
            assert target.argmax(1).tolist() == found.clusters_N[first : first + 50].tolist()

    # All shares would take 216 MB more, and classes as many; so would each copy.
    assert growth_of(learn) < 80 * 2**20


def test_an_estimate_streams_where_the_clustering_did(tmp_path: Path) -> None:
    """How stable k-means is over seeds is looked at on points in a file, as the engine does it."""
    run = Run(tiny_config(tmp_path, cluster__engine="streaming", cluster__iterations=2), tmp_path / "run")
    dim = 1000

    def prepare(num: int) -> Run:
        shared = Run(run.config, tmp_path / str(num))
        write_store(shared.folder / "extract", [f"s{n:06d}" for n in range(num)], dim)
        (shared.folder / "estimate").mkdir()
        return shared

    def look(shared: Run) -> None:
        projection = Projection(l2_normalize=True)
        found = _stability(shared, build_engine(shared), projection, shared.folder / "estimate")
        assert found is not None
        assert not list((shared.folder / "estimate").iterdir())

    assert growth_of(look, prepare) < SMALL_GROWTH
