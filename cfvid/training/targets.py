"""Labels as what a network is trained to say about each sample, by sample id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cfvid.data.loader import Batch
from cfvid.errors import DataError
from cfvid.training.objective import Examples


class Targets:
    """Class indices by sample id, one or several per sample.

    With several, the target is spread evenly over them: the per-tag softmax target of Mahajan et al. (ECCV 2018),
    which ClusterFit's hashtag networks were trained with.

    Args:
        classes: names of the classes, by index.
        labels: the labels of each sample.
        weights: how much each sample counts; None for all the same.

    Raises:
        DataError: for labels that are no class.
    """

    temperature = 1.0

    def __init__(
        self,
        classes: Sequence[str],
        labels: Mapping[str, Sequence[str]],
        *,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.classes, self.weights = list(classes), weights
        index = {name: i for i, name in enumerate(self.classes)}
        unknown = sorted({label for names in labels.values() for label in names if label not in index})
        if unknown:
            raise DataError(f"{len(unknown)} labels are not among the classes, first: {', '.join(unknown[:5])}.")
        self.indices = {sample_id: tuple(index[label] for label in names) for sample_id, names in labels.items()}
        self.is_multi_label = any(len(indices) > 1 for indices in self.indices.values())

    def examples(self, views: torch.Tensor, batch: Batch) -> Examples:
        """See `cfvid.training.objective.Objective`."""
        target = self.batch(batch.sample_ids).to(views.device)
        return Examples(views, target, _weights_of(batch.sample_ids, self.weights, views.device))

    def batch(self, sample_ids: Sequence[str]) -> torch.Tensor:
        """Targets in the order of `sample_ids`: int64 (N,), or float32 (N, C) rows that sum to 1 when multi-label."""
        indices = [self.indices[sample_id] for sample_id in sample_ids]
        if not self.is_multi_label:
            return torch.tensor([i for (i,) in indices], dtype=torch.int64)
        target = torch.zeros(len(indices), len(self.classes))
        for row, several in enumerate(indices):
            target[row, list(several)] = 1 / len(several)
        return target


class Repeated:
    """Each sample's target several times in a row, for a network that says as many things of each sample.

    Args:
        objective: gives the targets.
        times: how often.
    """

    def __init__(self, objective: Targets, times: int) -> None:
        self.objective, self.times, self.temperature = objective, times, objective.temperature

    def examples(self, views: torch.Tensor, batch: Batch) -> Examples:
        """See `cfvid.training.objective.Objective`."""
        plain = self.objective.examples(views, batch)
        weights = None if plain.weights is None else plain.weights.repeat_interleave(self.times)
        return Examples(plain.inputs, plain.target.repeat_interleave(self.times, dim=0), weights)


class SoftTargets:
    """Shares of classes by sample id (Hinton et al., 2015).

    Args:
        ids: the samples.
        classes_NT: int32, T classes of each sample.
        shares_NT: float32, their shares, which sum to 1.
        num_classes: of the network.
        temperature: what the logits are divided by.
        weights: how much each sample counts; None for all the same.
    """

    def __init__(
        self,
        ids: Sequence[str],
        classes_NT: np.ndarray,
        shares_NT: np.ndarray,
        *,
        num_classes: int,
        temperature: float = 1.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.temperature, self.num_classes, self.weights = temperature, num_classes, weights
        self._classes_NT, self._shares_NT = classes_NT, shares_NT
        self._row_of = {sample_id: row for row, sample_id in enumerate(ids)}

    def examples(self, views: torch.Tensor, batch: Batch) -> Examples:
        """See `cfvid.training.objective.Objective`."""
        target = self.batch(batch.sample_ids).to(views.device)
        return Examples(views, target, _weights_of(batch.sample_ids, self.weights, views.device))

    def batch(self, sample_ids: Sequence[str]) -> torch.Tensor:
        """Targets in the order of `sample_ids`: float32 (N, C), rows that sum to 1."""
        rows = [self._row_of[sample_id] for sample_id in sample_ids]
        classes_NT = torch.from_numpy(self._classes_NT[rows].astype(np.int64))
        target = torch.zeros(len(rows), self.num_classes)
        return target.scatter_(1, classes_NT, torch.from_numpy(self._shares_NT[rows]))


def _weights_of(
    sample_ids: Sequence[str], weights: Mapping[str, float] | None, device: torch.device
) -> torch.Tensor | None:
    return None if weights is None else torch.tensor([weights[sample_id] for sample_id in sample_ids], device=device)
