"""Everything is joined by sample id: each picture's colour says which sample it is, and broken ones lie in between.

A join by position gives some sample the feature, label or cluster of its neighbour; here that shows.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny import SIDE, tiny_config

from cfvid.artifacts import Record
from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.data.manifest_files import write_manifest
from cfvid.evaluation.inference import forward_views
from cfvid.features import FeatureStore
from cfvid.models.zoo import Network, build_network
from cfvid.stages import Run, cluster
from cfvid.stages.cluster import load_pseudo_labels, read_pseudo_labels
from cfvid.stages.evaluations import Target
from cfvid.stages.extract import extract_into
from cfvid.training.objective import Objective
from cfvid.training.targets import PseudoTargets, Targets

NUM_SAMPLES, NUM_CLASSES = 37, 4


def name_of(number: int) -> str:
    # Neither in the order of the numbers nor of the classes.
    return f"s{number * 17 % NUM_SAMPLES:02d}"


NUMBER_OF = {name_of(number): number for number in range(NUM_SAMPLES)}
BROKEN = {name_of(number) for number in range(NUM_SAMPLES) if number % 3 == 1 or number in (0, NUM_SAMPLES - 1)}
READABLE = set(NUMBER_OF) - BROKEN


def class_of(sample_id: str) -> int:
    return NUMBER_OF[sample_id] % NUM_CLASSES


def colour_of(sample_id: str) -> tuple[int, int, int]:
    """Red says the class, green the sample."""
    return class_of(sample_id) * 80, NUMBER_OF[sample_id] * 2, 128


def id_of(red_green_blue: np.ndarray) -> str:
    return name_of(round(float(red_green_blue[1]) / 2))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one colour each, a third of them broken in one way or another."""
    root = tmp_path_factory.mktemp("pool")
    damages = [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(60)]
    for number, sample_id in enumerate(NUMBER_OF):
        path = root / f"{sample_id}.png"
        if sample_id in BROKEN:
            path.write_bytes(damages[number % 3])
        else:
            Image.new("RGB", (SIDE, SIDE), colour_of(sample_id)).save(path)
    (root / f"{sorted(BROKEN)[0]}.png").unlink()
    return root


def shuffled_manifest(pool: Path, seed: int) -> Manifest:
    names = list(NUMBER_OF)
    random.Random(seed).shuffle(names)
    return from_samples(
        [Sample(i, f"{i}.png", str(pool), (f"class{class_of(i)}",), "train", None, None) for i in names]
    )


@pytest.fixture(params=[1, 2])
def manifest(request: pytest.FixtureRequest, pool: Path) -> Manifest:
    return shuffled_manifest(pool, request.param)


@pytest.fixture
def run(manifest: Manifest, pool: Path, tmp_path: Path) -> Run:
    """With real decoding processes."""
    write_manifest(manifest, pool / "manifest.csv")
    config = tiny_config(
        pool / "manifest.csv",
        data__skip_budget=0.6,
        runtime__num_workers=2,
        extract__dtype="fp32",
        cluster__num_clusters=NUM_CLASSES,
        cluster__l2_normalize=False,
        cluster__restarts=10,
    )
    return Run(config, tmp_path / "run")


class MeanColour(torch.nn.Module):
    """A trunk whose feature is the picture's mean colour, 0 ... 255."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(getattr(run.config.input, name)) for name in ("mean", "std"))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return (batch.mean((2, 3)) * self.std + self.mean) * 255


def colour_network(run: Run) -> Network:
    network = build_network("resnet10_thin", num_classes=2, seed=0)
    network.trunk = MeanColour(run)
    return network


def extracted(run: Run) -> FeatureStore:
    return extract_into(
        run,
        run.folder / "extract",
        network=colour_network(run),
        network_digest="colour",
        manifest=run.manifest("clusterfit").split("train"),
        look="extract",
        average_views=True,
    )


def test_features_follow_their_sample(run: Run, manifest: Manifest) -> None:
    store = extracted(run)
    assert run.manifest("clusterfit").ids == manifest.ids
    assert set(store.ids) == READABLE
    assert [id_of(feature) for feature in store.gather(store.ids)] == store.ids
    for order in (sorted(READABLE), sorted(READABLE, reverse=True), ["s07"] * 3, []):
        order = [i for i in order if i in READABLE]
        assert [id_of(feature) for feature in store.gather(order)] == order
    for ids, features in store.shards():
        assert [id_of(feature) for feature in features] == ids
    # That a join by position would show: the manifest's order is not that of the features.
    assert [id_of(f) for f in store.gather(store.ids)] != manifest.ids[: len(store)]


def test_features_follow_their_sample_when_shards_change_places(run: Run) -> None:
    shards = extracted(run).folder / "shards"
    for end in (".npy", ".json"):
        first, last = shards / f"00000{end}", shards / f"00003{end}"
        first.rename(shards / "aside")
        last.rename(first)
        (shards / "aside").rename(last)
    store = FeatureStore(shards.parent, verify=False)
    order = sorted(READABLE)
    assert [id_of(feature) for feature in store.gather(order)] == order


def test_pseudo_labels_follow_their_sample(run: Run) -> None:
    extracted(run)
    cluster(run)
    labels = load_pseudo_labels(run.folder / "cluster")
    cluster_of = read_pseudo_labels(run.folder / "cluster")
    assert set(cluster_of) == READABLE
    assert len(set(cluster_of.values())) == NUM_CLASSES
    assert len({(cluster_of[i], class_of(i)) for i in READABLE}) == NUM_CLASSES
    quality = Record.read(run.folder / "cluster", kind="pseudo-labels")
    assert quality.facts["num_samples"] == len(READABLE)
    # As in retraining.
    samples = run.manifest("clusterfit").select(labels.ids)
    targets = PseudoTargets(samples.ids, labels.of(samples.ids).clusters_N)
    _assert_batches_match(run, targets, cluster_of, samples)


def test_training_targets_follow_their_sample(run: Run, manifest: Manifest) -> None:
    targets = Targets(manifest.classes, manifest.labels_by_id)
    _assert_batches_match(run, targets, {i: class_of(i) for i in NUMBER_OF}, run.manifest("pretrain"))


def _assert_batches_match(run: Run, targets: Objective, expected: dict[str, int], samples: Manifest) -> None:
    """What the training loop is fed: the pictures' colours against the targets of their batch."""
    ids = sorted(samples.ids, key=lambda i: NUMBER_OF[i] * 5 % 11)
    seen: list[str] = []
    with run.loader(samples, stage="train") as loader:
        for batch in loader.batches(ids, batch_size=4, look="train", seeds=range(len(ids))):
            if not len(batch):
                continue
            shown = [id_of(view[0].float().mean((1, 2)).numpy()) for view in batch.inputs]
            assert shown == batch.sample_ids
            assert targets.examples(batch.inputs[:, 0], batch).target.tolist() == [expected[i] for i in shown]
            seen += shown
        skipped = {skip.sample_id for skip in loader.ledger.skips}
    assert seen == [i for i in ids if i in READABLE]
    assert skipped == set(ids) - READABLE
    assert len(seen) < len(samples) or not skipped


def test_scores_are_of_the_right_labels(run: Run, manifest: Manifest) -> None:
    """The transfer stage's join: outputs in the order of what could be read, labels by id."""
    target = Target("t", manifest, shuffled_manifest(Path(manifest[0].root), seed=9))
    outputs: list[Any] = []
    with run.loader(target.val, stage="score") as loader:
        for ids, features_NVD in forward_views(
            colour_network(run).trunk, loader, target.val.ids, look="score", batch_size=5, modality=run.modality,
            accelerator=run.accelerator,
        ):  # fmt: skip
            outputs += zip(ids, features_NVD[:, 0], strict=True)
    ids = [sample_id for sample_id, _ in outputs]
    assert ids == [i for i in target.val.ids if i in READABLE]
    said = [round(float(feature[0]) / 80) for _, feature in outputs]
    assert target.labels(ids, target.val).tolist() == said
    by_position = [class_of(i) for i in target.val.ids[: len(ids)]]
    assert by_position != said


def test_two_orders_of_the_manifest_give_the_same_by_id(pool: Path, tmp_path: Path) -> None:
    features = []
    for seed in (3, 4):
        write_manifest(shuffled_manifest(pool, seed), pool / "manifest.csv")
        config = tiny_config(pool / "manifest.csv", data__skip_budget=0.6, extract__dtype="fp32")
        features.append(extracted(Run(config, tmp_path / str(seed))).gather(sorted(READABLE)))
    assert np.array_equal(*features)
