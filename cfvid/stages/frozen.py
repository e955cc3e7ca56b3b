"""Protocols that look at frozen features: probe, neighbours, SVMs, few samples, retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cfvid.data.manifest import Manifest
from cfvid.evaluation.linear import LinearProbe, few_of_each
from cfvid.evaluation.nearest import NearestNeighbours, first_right, nearest_rows, unit
from cfvid.evaluation.scoring import sample_probabilities
from cfvid.evaluation.svm import OneVsAllSvm, mean_average_precision, parts_of_map
from cfvid.features import FeatureStore
from cfvid.models.zoo import feature_dims
from cfvid.seeds import derive
from cfvid.stages.context import Run
from cfvid.stages.evaluations import Evaluation
from cfvid.stages.extract import extract_into
from cfvid.stages.outcome import Outcome, at_layer, named


@dataclass(frozen=True)
class _Features:
    """Of one split: features (N, V, D) of all layers side by side."""

    ids: list[str]
    all_NVD: np.ndarray
    columns: dict[str | None, slice]
    """Those of each layer; None is the trunk's output."""

    def by_layer(self) -> Iterator[tuple[str | None, np.ndarray]]:
        """Each layer with its features."""
        for layer, columns in self.columns.items():
            yield layer, self.all_NVD[..., columns]


def _features(run: Run, evaluation: Evaluation) -> tuple[_Features, _Features]:
    """Of train and of val: extracted once for all protocols and seeds."""
    layers = _layers(run)
    ends = np.cumsum([0, *feature_dims(evaluation.candidate.arch, layers, run.modality.example(1).shape)])
    columns = {layer: slice(ends[n], ends[n + 1]) for n, layer in enumerate(layers)}
    train, val = (_Features([*s.ids], s.gather(s.ids), columns) for s in store_features(run, evaluation))
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
    train, val = _features(run, evaluation)
    labels_NL = target.label_sets(train.ids, target.train)
    rows, columns = np.nonzero(labels_NL >= 0)  # a sample with several labels is an example of each
    labels = labels_NL[rows, columns]
    several = len(rows) > len(labels_NL)
    logits: dict[str | None, np.ndarray] = {}
    facts: dict[str, Any] = {}
    for (layer, train_NVD), (_, val_NVD) in zip(train.by_layer(), val.by_layer(), strict=True):
        examples_NVD = train_NVD[rows] if several else train_NVD
        probe = make().fit(examples_NVD, labels, num_classes=len(target.classes), samples_N=rows)
        logits[layer] = probe.logits(val_NVD)
        facts |= {at_layer(name, layer): value for name, value in probe.facts.items()}
    return named(run, evaluation, val.ids, logits, facts)


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
    train, val = _features(run, evaluation)
    train_NC, val_NC = target.memberships(train.ids, target.train), target.memberships(val.ids, target.val)
    scores: dict[str, float] = {}
    facts: dict[str, Any] = {}
    columns: dict[str, Any] = {"sample_id": val.ids}
    for (layer, train_NVD), (_, val_NVD) in zip(train.by_layer(), val.by_layer(), strict=True):
        machines = OneVsAllSvm(run.config.transfer.svm, seed=seed).fit(train_NVD.mean(axis=1), train_NC)
        decisions_NC = machines.decisions(val_NVD.mean(axis=1))
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
    return Outcome(val.ids, val.all_NVD.shape[1], scores, pa.table(columns), {**facts, "classes": target.classes})


def low_shot(run: Run, evaluation: Evaluation) -> Outcome:
    """The linear probe on a few samples of each class, over draws that are the same for every network."""
    target, config = evaluation.target, run.config.transfer.low_shot
    train, val = _features(run, evaluation)
    train_labels, val_labels = target.labels(train.ids, target.train), target.labels(val.ids, target.val)
    seed = derive(evaluation.seed, "low-shot", target.name)
    scores: dict[str, float] = {}
    facts: dict[str, Any] = {}
    columns: dict[str, Any] = {"sample_id": val.ids, "label": [target.classes[i] for i in val_labels]}
    for (layer, train_NVD), (_, val_NVD) in zip(train.by_layer(), val.by_layer(), strict=True):
        for num in config.per_class:
            rights, penalties = [], []
            for draw in range(config.num_draws):
                rows = few_of_each(train.ids, train_labels, num, seed=derive(seed, draw))
                probe = LinearProbe(run.config.transfer.linear, seed=derive(seed, draw), device=run.accelerator.device)
                probe.fit(train_NVD[rows], train_labels[rows], num_classes=len(target.classes))
                said = sample_probabilities(probe.logits(val_NVD)).argmax(axis=1)
                rights.append(100 * float(np.mean(said == val_labels)))
                penalties.append(probe.penalty_)
                columns[at_layer(f"predicted_{num}shot_draw{draw}", layer)] = [target.classes[i] for i in said]
            scores[at_layer(f"top1_{num}shot", layer)] = float(np.mean(rights))
            scores[at_layer(f"top1_{num}shot_std", layer)] = float(np.std(rights, ddof=1))
            facts[at_layer(f"penalties_{num}shot", layer)] = penalties
    return Outcome(val.ids, val.all_NVD.shape[1], scores, pa.table(columns), facts)


def retrieval(run: Run, evaluation: Evaluation) -> Outcome:
    """The nearest training samples of each validation sample, by the mean features of their views."""
    target, at = evaluation.target, run.config.transfer.retrieval.at
    train, val = _features(run, evaluation)
    train_labels, val_labels = target.labels(train.ids, target.train), target.labels(val.ids, target.val)
    scores: dict[str, float] = {}
    columns: dict[str, Any] = {"sample_id": val.ids, "label": [target.classes[i] for i in val_labels]}
    for (layer, train_NVD), (_, val_NVD) in zip(train.by_layer(), val.by_layer(), strict=True):
        gallery_ND, queries_MD = (unit(unit(views_NVD).mean(axis=1)) for views_NVD in (train_NVD, val_NVD))
        _, rows_MK = nearest_rows(queries_MD, gallery_ND, min(max(at), len(gallery_ND)))
        ranks = first_right(train_labels[rows_MK], val_labels)
        scores |= {at_layer(f"recall{k}", layer): 100 * float(np.mean((ranks > 0) & (ranks <= k))) for k in at}
        columns[at_layer("nearest", layer)] = [[train.ids[row] for row in rows] for rows in rows_MK]
        columns[at_layer("rank", layer)] = [int(rank) if rank else None for rank in ranks]
    return Outcome(val.ids, val.all_NVD.shape[1], scores, pa.table(columns), {})
