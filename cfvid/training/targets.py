"""Labels as what a network is trained to say about each sample, by sample id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cfvid.data.loader import Batch
from cfvid.data.sample_ids import SampleIds
from cfvid.data.sample_labels import SampleLabels
from cfvid.errors import DataError
from cfvid.training.objective import Examples


class Targets:
    """Class indices by sample id, one or several per sample.

    With several, the target is spread evenly over them: the per-tag softmax target of Mahajan et al. (ECCV 2018),
    which ClusterFit's hashtag networks were trained with.

    Args:
        classes: names of the classes, by index.
        labels: the labels of each sample.

    Raises:
        DataError: for labels that are no class.
    """

    temperature = 1.0

    def __init__(self, classes: Sequence[str], labels: Mapping[str, Sequence[str]]) -> None:
        self.classes, self._labels = list(classes), SampleLabels.of_mapping(labels)
        unknown = sorted({*self._labels.classes} - {*self.classes})
        if unknown:
            raise DataError(f"{len(unknown)} labels are not among the classes, first: {', '.join(unknown[:5])}.")
        self._numbers = self._labels.numbers_in(self.classes)
        self.is_multi_label = bool((self._labels.counts() > 1).any())

    def examples(self, views: torch.Tensor, batch: Batch) -> Examples:
        """See `cfvid.training.objective.Objective`."""
        return Examples(views, self.batch(batch.sample_ids).to(views.device))

    def batch(self, sample_ids: Sequence[str]) -> torch.Tensor:
        """Targets in the order of `sample_ids`: int64 (N,), or float32 (N, C) rows that sum to 1 when multi-label."""
        indices_NL = self._numbers[self._labels.sets(sample_ids)]
        if not self.is_multi_label:
            return torch.from_numpy(indices_NL[:, 0])
        rows, columns = np.nonzero(indices_NL >= 0)
        target = torch.zeros(len(indices_NL), len(self.classes))
        target[rows, indices_NL[rows, columns]] = torch.from_numpy(1 / np.bincount(rows)[rows].astype(np.float32))
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


class PseudoTargets:
    """The cluster of each sample.

    Args:
        ids: the samples.
        clusters_N: int, their clusters.
        weights_N: float32, how much each sample counts; None for all the same.
    """

    temperature = 1.0

    def __init__(self, ids: SampleIds, clusters_N: np.ndarray, *, weights_N: np.ndarray | None = None) -> None:
        self._ids, self._clusters_N, self._weights_N = ids, clusters_N, weights_N

    def examples(self, views: torch.Tensor, batch: Batch) -> Examples:
        """See `cfvid.training.objective.Objective`."""
        rows = self._ids.rows(batch.sample_ids)
        target = torch.from_numpy(self._clusters_N[rows].astype(np.int64))
        return Examples(views, target.to(views.device), _weights_of(rows, self._weights_N, views.device))


class SoftTargets:
    """Shares of classes by sample id (Hinton et al., 2015).

    Args:
        ids: the samples.
        classes_NT: int32, T classes of each sample; may be a memory map, of which a batch's rows are read.
        shares_NT: float32, their shares, which sum to 1; likewise.
        num_classes: of the network.
        temperature: what the logits are divided by.
        weights_N: float32, how much each sample counts; None for all the same.
    """

    def __init__(
        self,
        ids: SampleIds,
        classes_NT: np.ndarray,
        shares_NT: np.ndarray,
        *,
        num_classes: int,
        temperature: float = 1.0,
        weights_N: np.ndarray | None = None,
    ) -> None:
        self.temperature, self._num_classes = temperature, num_classes
        self._ids, self._classes_NT, self._shares_NT, self._weights_N = ids, classes_NT, shares_NT, weights_N

    def examples(self, views: torch.Tensor, batch: Batch) -> Examples:
        """See `cfvid.training.objective.Objective`."""
        rows = self._ids.rows(batch.sample_ids)
        classes_NT = torch.from_numpy(self._classes_NT[rows].astype(np.int64))
        target = torch.zeros(len(rows), self._num_classes)
        target.scatter_(1, classes_NT, torch.from_numpy(self._shares_NT[rows]))
        return Examples(views, target.to(views.device), _weights_of(rows, self._weights_N, views.device))


def _weights_of(rows: np.ndarray, weights_N: np.ndarray | None, device: torch.device) -> torch.Tensor | None:
    return None if weights_N is None else torch.from_numpy(weights_N[rows]).to(device)
