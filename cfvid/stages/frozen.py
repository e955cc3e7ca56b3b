"""Protocols that look at frozen features: probe, neighbours, SVMs, few samples, retrieval."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cfvid.data.manifest import Manifest
from cfvid.errors import DataError
from cfvid.evaluation.linear import LinearProbe, few_of_each
from cfvid.evaluation.nearest import NearestNeighbours, first_right, nearest_rows, unit, unit_means
from cfvid.evaluation.scoring import Said, Tally
from cfvid.evaluation.svm import OneVsAllSvm, mean_average_precision, parts_of_map
from cfvid.features import FeatureStore
from cfvid.models.zoo import feature_dims
from cfvid.seeds import derive
from cfvid.stages.context import Run
from cfvid.stages.evaluations import Evaluation
from cfvid.stages.extract import extract_into
from cfvid.stages.outcome import Outcome, at_layer, lists_of_names, named, names_of


@dataclass(frozen=True)
class _Split:
    """The features of one split, of all layers side by side: they stay in their store until they are asked for."""

    store: FeatureStore
    columns: dict[str | None, slice]
    """Those of each layer; None is the trunk's output."""

    @functools.cached_property
    def ids(self) -> list[str]:
        """The samples that could be read."""
        return [*self.store.ids]

    @property
    def num_views(self) -> int:
        """How many views each sample has."""
        return self.store.shape[0]

    def whole(self, layer: str | None) -> np.ndarray:
        """One layer's features, float32 (N, V, D)."""
        return self.store.part(slice(None), self.columns[layer])

    def take(self, layer: str | None, rows: np.ndarray) -> np.ndarray:
        """One layer's features of some of the samples: float32 (M, V, D)."""
        return self.store.take(rows, self.columns[layer])

    def blocks(self, layer: str | None, *, num_classes: int = 1) -> Iterator[np.ndarray]:
        """One layer's features, some samples at a time: no more than may also have logits of so many classes."""
        return self.store.blocks(self.columns[layer], values=self.num_views * num_classes)

    def means(self, layer: str | None) -> np.ndarray:
        """The mean of each sample's views, float32 (N, D)."""
        return np.concatenate([features_BVD.mean(axis=1) for features_BVD in self.blocks(layer)])


def _splits(run: Run, evaluation: Evaluation) -> tuple[_Split, _Split]:
    """Train and val: extracted once for all protocols and seeds.

    Raises:
        DataError: when no sample of one of them could be read.
    """
    layers = _layers(run)
    ends = np.cumsum([0, *feature_dims(evaluation.candidate.arch, layers, run.modality.example(1).shape)]).tolist()
    columns = {layer: slice(ends[n], ends[n + 1]) for n, layer in enumerate(layers)}
    train, val = (_Split(store, columns) for store in store_features(run, evaluation))
    for name, split in (("train", train), ("val", val)):
        if not len(split.store):
            raise DataError(f"{evaluation.target.name}: none of the {name} samples could be read.")
    return train, val


def store_features(run: Run, evaluation: Evaluation) -> tuple[FeatureStore, FeatureStore]:
    """The stores of a target's splits, train and val; of several processes each extracts its share."""
    candidate, target = evaluation.candidate, evaluation.target
    network = candidate.load()

    def of(split: str, manifest: Manifest) -> FeatureStore:
        return extract_into(
            run,
            evaluation.home / "features" / split,
            network=network,
            network_digest=candidate.digest,
            manifest=manifest,
            look="extract" if split == "train" else "score",
            average_views=False,
            layers=_layers(run),
        )

    return of("train", target.train), of("val", target.val)


def _layers(run: Run) -> list[str | None]:
    return [None, *run.config.transfer.linear.layers]


def _probed(run: Run, evaluation: Evaluation, make: Callable[[], LinearProbe | NearestNeighbours]) -> Outcome:
    """A classifier of each layer's features."""
    target = evaluation.target
    train, val = _splits(run, evaluation)
    labels_NL = target.label_sets(train.ids, target.train)
    rows, columns = np.nonzero(labels_NL >= 0)  # a sample with several labels is an example of each
    labels = labels_NL[rows, columns]
    several = len(rows) > len(labels_NL)
    said: dict[str | None, Said] = {}
    facts: dict[str, Any] = {}
    for layer in train.columns:
        examples_NVD = train.take(layer, rows) if several else train.whole(layer)
        probe = make().fit(examples_NVD, labels, num_classes=len(target.classes), samples_N=rows)
        del examples_NVD  # what is kept of them, the probe has
        said[layer] = _said(evaluation, val, layer, probe)
        facts |= {at_layer(name, layer): value for name, value in probe.facts.items()}
    return named(run, evaluation, val.ids, said, facts, num_views=val.num_views)


def _said(evaluation: Evaluation, val: _Split, layer: str | None, probe: LinearProbe | NearestNeighbours) -> Said:
    """What a classifier says of the validation samples; no more than one block's logits are there."""
    target = evaluation.target
    labels_NL, tally = target.label_sets(val.ids, target.val), Tally(len(val.ids))
    done = 0
    blocks = val.blocks(layer, num_classes=len(target.classes))
    for logits_BVC in probe.logit_blocks(blocks, num_views=val.num_views):
        tally.add(logits_BVC, labels_NL[done : done + len(logits_BVC)])
        done += len(logits_BVC)
    return tally.said


def linear(run: Run, evaluation: Evaluation) -> Outcome:
    """Logistic regression on each layer's features."""
    seed = derive(evaluation.seed, "linear", evaluation.target.name)
    return _probed(
        run, evaluation, lambda: LinearProbe(run.config.transfer.linear, seed=seed, device=run.accelerator.device)
    )


def knn(run: Run, evaluation: Evaluation) -> Outcome:
    """Weighted vote of the nearest training samples, by each layer's features."""
    return _probed(run, evaluation, lambda: NearestNeighbours(run.config.transfer.knn))


def svm(run: Run, evaluation: Evaluation) -> Outcome:
    """A machine for each class and layer, over the mean features of a sample's views."""
    target, seed = evaluation.target, derive(evaluation.seed, "svm", evaluation.target.name)
    train, val = _splits(run, evaluation)
    train_NC, val_NC = target.memberships(train.ids, target.train), target.memberships(val.ids, target.val)
    scores: dict[str, float] = {}
    facts: dict[str, Any] = {}
    columns: dict[str, Any] = {"sample_id": val.ids}
    for layer in train.columns:
        machines = OneVsAllSvm(run.config.transfer.svm, seed=seed).fit(train.means(layer), train_NC)
        decisions_NC = machines.decisions(val.means(layer))
        found = mean_average_precision(decisions_NC, val_NC)
        scores |= {at_layer(name, layer): value for name, value in found.items()}
        facts[at_layer("costs", layer)] = dict(zip(target.classes, machines.costs_, strict=True))
        facts[at_layer("not_converged", layer)] = [
            name for name, converged in zip(target.classes, machines.converged_, strict=True) if not converged
        ]
        columns[at_layer("decisions", layer)] = list(decisions_NC)
        parts = parts_of_map(decisions_NC, val_NC)
        if parts is not None:
            columns[at_layer("map_part", layer)] = parts
    return Outcome(val.ids, val.num_views, scores, pa.table(columns), {**facts, "classes": target.classes})


def low_shot(run: Run, evaluation: Evaluation) -> Outcome:
    """The linear probe on a few samples of each class, over draws that are the same for every network."""
    target, config = evaluation.target, run.config.transfer.low_shot
    train, val = _splits(run, evaluation)
    train_labels, val_labels = target.labels(train.ids, target.train), target.labels(val.ids, target.val)
    seed = derive(evaluation.seed, "low-shot", target.name)
    scores: dict[str, float] = {}
    facts: dict[str, Any] = {}
    columns: dict[str, Any] = {"sample_id": val.ids, "label": names_of(target.classes, val_labels)}
    for layer in train.columns:
        for num in config.per_class:
            rights, penalties = [], []
            for draw in range(config.num_draws):
                rows = few_of_each(train.ids, train_labels, num, seed=derive(seed, draw))
                probe = LinearProbe(run.config.transfer.linear, seed=derive(seed, draw), device=run.accelerator.device)
                probe.fit(train.take(layer, rows), train_labels[rows], num_classes=len(target.classes))
                said = _said(evaluation, val, layer, probe).predicted_N
                rights.append(100 * float(np.mean(said == val_labels)))
                penalties.append(probe.penalty_)
                columns[at_layer(f"predicted_{num}shot_draw{draw}", layer)] = names_of(target.classes, said)
            scores[at_layer(f"top1_{num}shot", layer)] = float(np.mean(rights))
            scores[at_layer(f"top1_{num}shot_std", layer)] = float(np.std(rights, ddof=1))
            facts[at_layer(f"penalties_{num}shot", layer)] = penalties
    return Outcome(val.ids, val.num_views, scores, pa.table(columns), facts)


def retrieval(run: Run, evaluation: Evaluation) -> Outcome:
    """The nearest training samples of each validation sample, by the mean features of their views."""
    target, at = evaluation.target, run.config.transfer.retrieval.at
    train, val = _splits(run, evaluation)
    train_labels, val_labels = target.labels(train.ids, target.train), target.labels(val.ids, target.val)
    scores: dict[str, float] = {}
    columns: dict[str, Any] = {"sample_id": val.ids, "label": names_of(target.classes, val_labels)}
    for layer in train.columns:
        gallery_ND = unit_means(train.blocks(layer), len(train.ids))
        queries = (unit(unit(features_BVD).mean(axis=1)) for features_BVD in val.blocks(layer))
        rows_MK = np.empty((len(val.ids), min(max(at), len(gallery_ND))), dtype=np.int32)
        done = 0
        for _, rows_BK in nearest_rows(queries, gallery_ND, rows_MK.shape[1]):
            rows_MK[done : done + len(rows_BK)] = rows_BK
            done += len(rows_BK)
        ranks = first_right(train_labels[rows_MK], val_labels)
        scores |= {at_layer(f"recall{k}", layer): 100 * float(np.mean((ranks > 0) & (ranks <= k))) for k in at}
        columns[at_layer("nearest", layer)] = lists_of_names(train.store.ids, rows_MK)
        columns[at_layer("rank", layer)] = pa.array(ranks, mask=ranks == 0)
    return Outcome(val.ids, val.num_views, scores, pa.table(columns), {})
