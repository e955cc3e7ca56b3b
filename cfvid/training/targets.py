"""Labels as what a network is trained to say about each sample, by sample id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

    Raises:
        DataError: for labels that are no class.
    """

    temperature = 1.0

    def __init__(self, classes: Sequence[str], labels: Mapping[str, Sequence[str]]) -> None:
        self.classes = list(classes)
        index = {name: i for i, name in enumerate(self.classes)}
        unknown = sorted({label for names in labels.values() for label in names if label not in index})
        if unknown:
            raise DataError(f"{len(unknown)} labels are not among the classes, first: {', '.join(unknown[:5])}.")
        self.indices = {sample_id: tuple(index[label] for label in names) for sample_id, names in labels.items()}
        self.is_multi_label = any(len(indices) > 1 for indices in self.indices.values())

    def examples(self, views: torch.Tensor, batch: Batch) -> Examples:
        """See `cfvid.training.objective.Objective`."""
        return Examples(views, self.batch(batch.sample_ids).to(views.device))

    def batch(self, sample_ids: Sequence[str]) -> torch.Tensor:
        """Targets in the order of `sample_ids`: int64 (N,), or float32 (N, C) rows that sum to 1 when multi-label."""
        indices = [self.indices[sample_id] for sample_id in sample_ids]
        if not self.is_multi_label:
            return torch.tensor([i for (i,) in indices], dtype=torch.int64)
        target = torch.zeros(len(indices), len(self.classes))
        for row, several in enumerate(indices):
            target[row, list(several)] = 1 / len(several)
        return target
